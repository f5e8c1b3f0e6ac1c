"""The power goes off at any step of a download: what was not put on the disk is lost, zeroed, cut short or reordered.

What the cache does is recorded call by call; a disk as it may be found after the power went off is made from that. The
next open gives right bytes or nothing, and the next fetch goes on from what had reached the disk.
"""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import numpy as np
import pytest

from mock_server import MockServer, Throttle
from tests.models import NO_TLS, QUICK, Model, assert_equal, group, model
from tfjs_fetch import Cache, Client, NotCachedError, filing
from tfjs_fetch.cache import journal

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

_SAMPLES = 400 if os.environ.get("TFJS_FETCH_DEPTH") == "full" else 120

Step: TypeAlias = tuple[Any, ...]
Fate: TypeAlias = Literal["lost", "zeroed", "cut", "kept"]


@dataclass
class Recorder:
    """The steps of the cache on disk, in the order they were taken: names are changed, bytes written, files synced."""

    steps: list[Step] = field(default_factory=list)
    _files: dict[int, int] = field(default_factory=dict)  # numbers of files by descriptor
    _number: int = 0

    @contextmanager
    def recording(self, patch: pytest.MonkeyPatch, root: Path) -> Iterator[None]:
        """Record what happens below `root` meanwhile."""
        real = {
            name: getattr(os, name) for name in ("open", "write", "pwrite", "fdatasync", "fsync", "truncate", "close")
        }
        named = {name: getattr(os, name) for name in ("mkdir", "rename", "replace", "unlink", "rmdir")}

        def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            descriptor: int = real["open"](path, flags, *rest, **more)
            if flags & os.O_CREAT and Path(path).is_relative_to(root):
                self._number += 1
                self._files[descriptor] = self._number
                self.steps.append(("create", str(path), self._number))
            return descriptor

        def closed(descriptor: int) -> None:
            self._files.pop(descriptor, None)
            real["close"](descriptor)

        def written(descriptor: int, data: Any, position: int | None = None) -> int:
            count: int = (
                real["write"](descriptor, data) if position is None else real["pwrite"](descriptor, data, position)
            )
            if (number := self._files.get(descriptor)) is not None:
                self.steps.append(("write", number, position, bytes(data[:count])))
            return count

        def synced(descriptor: int) -> None:
            if (number := self._files.get(descriptor)) is not None:
                self.steps.append(("sync", number))

        def truncated(descriptor: Any, size: int) -> None:
            real["truncate"](descriptor, size)
            if (number := self._files.get(descriptor)) is not None:
                self.steps.append(("resize", number, size))

        def naming(name: str) -> Any:
            def change(*arguments: Any, **more: Any) -> None:
                named[name](*arguments, **more)
                if "dir_fd" not in more and Path(arguments[0]).is_relative_to(root):
                    self.steps.append((name, *map(str, arguments[: 2 if name in ("rename", "replace") else 1])))

            return change

        with patch.context() as patched:
            for name, function in (
                ("open", opened),
                ("close", closed),
                ("write", written),
                ("pwrite", written),
                ("fdatasync", synced),
                ("fsync", synced),
                ("truncate", truncated),
                *((name, naming(name)) for name in named),
            ):
                patched.setattr(os, name, function)
            yield


@dataclass
class _File:
    now: bytearray = field(default_factory=bytearray)
    safe: bytes = b""
    at: int = 0

    def write(self, position: int | None, data: bytes) -> None:
        start = self.at if position is None else position
        self.now[len(self.now) :] = bytes(max(0, start + len(data) - len(self.now)))
        self.now[start : start + len(data)] = data
        if position is None:
            self.at = start + len(data)

    def after(self, fate: Fate, chance: random.Random) -> bytes:
        """Return what is found of it when the power is back."""
        match fate:
            case "lost":
                return self.safe
            case "zeroed":
                return self.safe + bytes(max(0, len(self.now) - len(self.safe)))
            case "cut":
                return bytes(self.now[: max(len(self.safe), chance.randrange(len(self.now) + 1))])
            case "kept":
                return bytes(self.now)


def found_after(steps: list[Step], root: Path, chance: random.Random) -> None:
    """Make the directory `root` as it may be found if the power goes off after `steps`."""
    files: dict[int, _File] = {}
    names: dict[str, int | None] = {}  # None is a directory
    for step in steps:
        match step:
            case ("create", path, number):
                files[number] = _File()
                names[path] = number
            case ("write", number, position, data):
                files[number].write(position, data)
            case ("resize", number, size):
                file = files[number]
                file.now[size:] = bytes(max(0, size - len(file.now)))
            case ("sync", number):
                files[number].safe = bytes(files[number].now)
            case (kind, *paths):
                # What is said of names may reach the disk in another order than it was said, or not at all.
                if chance.random() < 0.9:
                    _rename(names, kind, *paths)
    shutil.rmtree(root, ignore_errors=True)
    for path, number in sorted(names.items()):
        place = Path(path)
        if number is None:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        else:
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            place.write_bytes(files[number].after(chance.choice(["lost", "zeroed", "cut", "kept"]), chance))
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o700)


def _rename(names: dict[str, int | None], kind: str, path: str, target: str = "") -> None:
    match kind:
        case "mkdir":
            names[path] = None
        case "unlink" | "rmdir":
            names.pop(path, None)
        case "rename" | "replace":
            for name in [name for name in names if name == path or name.startswith(f"{path}/")]:
                names[target + name.removeprefix(path)] = names.pop(name)


def example(seed: int) -> Model:
    values = np.random.default_rng(seed).random((3, 8192), np.float32)
    return model(group({f"w{index}": row for index, row in enumerate(values)}, [40_000, 30_000, 28_304]))


@pytest.fixture
def small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make buffers small, and let what is written be put on the disk often."""
    monkeypatch.setattr(filing, "_BUFFER_BYTES", 4096)
    monkeypatch.setattr(filing, "_SMALL_BUFFER_BYTES", 4096)
    monkeypatch.setattr(filing, "_WAITING_BYTES", 8192)
    monkeypatch.setattr(filing, "SYNC_BYTES", 8192)
    monkeypatch.setattr(filing, "_SYNC_SECONDS", 0)


@pytest.mark.usefixtures("small_scale")
async def test_the_power_may_go_off_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, recorder, directory = random.Random(3), Recorder(), tmp_path / "cache"
    old, new = example(1), example(2)
    hits = resumed = 0
    async with MockServer(old.hosted()) as server:
        url = f"{server.url}/m/model.json"

        async def fetched(cache: Cache) -> Any:
            with anyio.fail_after(20):
                async with Client(cache=cache, retry=QUICK, ssl_context=NO_TLS) as client:
                    return await client.fetch(url)

        with recorder.recording(monkeypatch, directory):
            server.misbehave(None, Throttle(400_000))
            await fetched(Cache(directory))
            server.files.update(new.hosted())
            await fetched(Cache(directory))
        server.behave()
        (tmp_path / "boot").write_text("the next one")
        monkeypatch.setattr(journal, "_BOOT", tmp_path / "boot")
        for _ in range(_SAMPLES):
            found_after(recorder.steps[: chance.randrange(len(recorder.steps) + 1)], directory, chance)
            with suppress(NotCachedError):
                kept = await fetched(Cache(directory, mode="offline"))
                hits += 1
                assert any(all(np.array_equal(kept[n], a) for n, a in one.arrays.items()) for one in (old, new))
            seen = len(server.requests)
            assert_equal(await fetched(Cache(directory)), new.arrays)
            resumed += any(request.status == 206 for request in server.requests[seen:])

    assert hits > _SAMPLES / 10
    assert resumed > _SAMPLES / 40
