"""Settings, as frozen values: building one reads no environment and touches no disk."""

import os
from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeAlias

CacheMode: TypeAlias = Literal["auto", "offline", "refresh", "trust"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is allowed. What goes beyond is refused, in bounded time and memory.

    `per_origin` and `connections` bound the transfers at one time (per scheme, host and port; and in all).
    `weight_bytes` bounds the stored and the decoded bytes of one model, `manifest_bytes` its decoded model.json,
    `weights` the entries and `depth` the nesting of that JSON.
    """

    per_origin: int = 8
    connections: int = 32
    weight_bytes: int = 8 * 2**30
    manifest_bytes: int = 64 * 2**20
    weights: int = 100_000
    depth: int = 64

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"Limits({name}={getattr(self, name)}) must be at least 1")


@dataclass(frozen=True, slots=True)
class Retry:
    """When a transfer is tried again: at most `attempts` times in all, with random pauses that grow.

    The pause before attempt n + 1 is drawn from 0 to min(max_delay, delay * 2**(n - 1)) seconds, or is what the
    server asked for if that is longer. A transfer that brings less than `stall_bytes` in `stall_seconds` is given up.
    """

    attempts: int = 5
    delay: float = 0.5
    max_delay: float = 30.0
    stall_bytes: int = 1024
    stall_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"Retry(attempts={self.attempts}) must be at least 1")
        durations = self.delay >= 0 and self.max_delay >= 0 and self.stall_seconds > 0  # false for NaN as well
        if not durations or self.stall_bytes < 1:
            raise ValueError(f"{self} has a negative or empty duration or size")


@dataclass(frozen=True, slots=True)
class Policy:
    """What is tolerated.

    `extra_bytes`: surplus bytes behind the weights of any group but the last ("ignore" decodes each group on its own).
    `shard_order`: shard names that contradict the order of model.json.
    `private_hosts`: redirects and shard addresses from a public host to a private one.
    `absolute_shards`: shard paths in model.json that name another host.
    `stale_if_error`: what is cached, with a warning, where the network fails.
    """

    extra_bytes: Literal["error", "ignore"] = "error"
    shard_order: Literal["error", "ignore"] = "error"
    private_hosts: bool = False
    absolute_shards: bool = False
    stale_if_error: bool = True

    def __post_init__(self) -> None:
        for name in ("extra_bytes", "shard_order"):
            if getattr(self, name) not in ("error", "ignore"):
                raise ValueError(f"Policy({name}={getattr(self, name)!r}) must be 'error' or 'ignore'")


@dataclass(frozen=True, slots=True)
class Cache:
    """Where models are kept on disk, and when they are used from there.

    `directory` is that which the environment's TFJS_FETCH_CACHE names, or else the user's cache directory.

    `mode`: "auto" asks the server whether what is kept is still current, unless it said how long that is so; "trust"
    takes what is kept without asking; "offline" does so too, and opens no connection for what is not; "refresh" asks
    in any case.

    `max_bytes` is kept to by removing the models that were not used for longest. `mmap=False` reads the files into
    memory, for file systems that cannot map them. `scope` names whose models these are, in addition to the headers of
    the client: what one credential gave is never given to another.
    """

    directory: str | os.PathLike[str] | None = None
    _: KW_ONLY
    mode: CacheMode = "auto"
    max_bytes: int | None = None
    mmap: bool = True
    scope: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "offline", "refresh", "trust"):
            raise ValueError(f"Cache(mode={self.mode!r}) must be 'auto', 'offline', 'refresh' or 'trust'")
        if self.max_bytes is not None and self.max_bytes < 0:
            raise ValueError(f"Cache(max_bytes={self.max_bytes}) must not be negative")
