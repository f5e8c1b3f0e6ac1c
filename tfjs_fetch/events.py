"""Everything worth reporting while it goes right, as frozen values.

Counts are absolute, so a listener may miss any event and still be right. `source` is the model and `url` a file of it,
both redacted. `index` counts the shards over the whole model, from 0, in the order of model.json.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Planned:
    """The first event: what will be loaded. `total_bytes` is exact; None only if there are string weights."""

    source: str
    shards: int
    weights: int
    total_bytes: int | None
    cached_bytes: int


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """`received` of `size` bytes of a shard are in place. `size` is None while unknown; a restart lowers `received`.

    At most ten a second for each shard, and one more with the last byte.
    """

    source: str
    url: str
    index: int
    received: int
    size: int | None


@dataclass(frozen=True, slots=True)
class ShardFinished:
    """All bytes of a shard are in place."""

    source: str
    url: str
    index: int
    size: int
    origin: Literal["network", "cache", "file"]


@dataclass(frozen=True, slots=True)
class Retrying:
    """A transfer failed with `error`; attempt `attempt` (the second is 2) starts after `delay` seconds."""

    source: str
    url: str
    attempt: int
    delay: float
    error: str


@dataclass(frozen=True, slots=True)
class Stalled:
    """A transfer moved next to nothing for `seconds` seconds and was given up. `index` is None for model.json."""

    source: str
    url: str
    index: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class WeightReady:
    """A weight is decoded: `done` of `total`."""

    source: str
    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Warned:
    """Something is odd, and it goes on all the same."""

    source: str
    message: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event: the weights are complete. `received_bytes` came over the network, in `seconds` seconds."""

    source: str
    received_bytes: int
    seconds: float


Event: TypeAlias = Planned | ShardProgress | ShardFinished | Retrying | Stalled | WeightReady | Warned | Finished
OnEvent: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Do nothing: the default listener."""
