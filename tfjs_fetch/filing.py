"""Bytes on their way into the files of a download: received into small buffers, written and summed up while hot.

Each stream of a shard fills a buffer of its own; full ones are handed to worker threads, a few for each shard at most,
so that little is lost when the process is killed, and memory stays small whatever the model's size. A body for whose
bytes there is no room waits: no faster than the disk.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import anyio.lowlevel
import anyio.to_thread

from tfjs_fetch.cache.journal import Noted
from tfjs_fetch.cache.partials import SYNC_BYTES, Partial
from tfjs_fetch.cache.records import Entry
from tfjs_fetch.representation import Version
from tfjs_fetch.signals import Signal
from tfjs_fetch.sinks import NO_ROOM
from tfjs_fetch.tasks import task_group

# A buffer, and how much of one shard may wait to be written. Together with as much that is being filled, less than a
# mebibyte of a shard is lost when the process is killed.
_BUFFER_BYTES = 256 * 1024
_SMALL_BUFFER_BYTES = 64 * 1024
_WAITING_BYTES = 512 * 1024
_WRITERS = 2
# Beyond so many bytes that are not on the disk, writing waits for it.
_MOST_UNSYNCED = 2 * SYNC_BYTES - 4 * 2**20


class Unstorable(Exception):  # noqa: N818 - a turn of events, not an error: nobody outside sees it
    """A server does not allow that a file is kept on disk."""


class _Buffer:
    """Bytes of a shard from `start` on, as many as are `filled`."""

    __slots__ = ("filled", "memory", "start")

    def __init__(self, start: int, memory: memoryview) -> None:
        self.start, self.memory, self.filled = start, memory, 0

    @property
    def stop(self) -> int:
        """Where its bytes end."""
        return self.start + self.filled


@dataclass(frozen=True, slots=True)
class Text:
    """A group with strings, whole; of its shards the URLs, versions and lengths."""

    data: bytes
    shards: Sequence[tuple[str, Version, int]]


class Filing:
    """The bytes of one download on their way into the files of `partial`.

    `adopted` are the shards, by their indices, of which bytes are there already. `now` is in seconds since the epoch.
    """

    def __init__(self, partial: Partial, adopted: Mapping[int, Noted], now: float) -> None:
        self.partial, self.adopted, self.now = partial, adopted, now
        self.shards: list[FiledShard] = []
        self.texts: dict[int, Text] = {}  # groups with strings
        self._ready: deque[FiledShard] = deque()  # those with full buffers that nobody writes
        self._spare: list[memoryview] = []
        self._signal = Signal()
        self._syncing = Signal()
        self._busy = 0
        self._closed = False

    async def run(self) -> None:
        """Write until all is written and `close` was called."""
        async with task_group() as tasks:
            tasks.start_soon(self._sync)
            async with task_group() as writers:
                for _ in range(_WRITERS):
                    writers.start_soon(self._write)
            tasks.cancel_scope.cancel()

    def close(self) -> None:
        """Take note that no more will come, and have the rest written."""
        for shard in self.shards:
            shard.flush_all()
        self._closed = True
        self._signal.send()

    def shard(self, index: int, group: int, url: str) -> "FiledShard":
        """Return the way into the files for a shard."""
        self.shards.append(FiledShard(self, index, group, url, self.adopted.get(index)))
        return self.shards[-1]

    def take(self, shard: "FiledShard") -> None:
        """Have the full buffers of a shard written."""
        self._ready.append(shard)
        self._signal.send()

    def memory(self, count: int) -> memoryview:
        """Return memory for a buffer."""
        if count == _BUFFER_BYTES and self._spare:
            return self._spare.pop()
        return memoryview(bytearray(count))

    async def _write(self) -> None:
        while True:
            while not self._ready:
                if self._closed and not self._busy:
                    return
                await self._signal.wait()
            shard = self._ready.popleft()
            batch = shard.full
            shard.full, shard.written = [], batch
            self._busy += 1
            try:
                while self.partial.unsynced > _MOST_UNSYNCED:
                    await self._syncing.wait()
                # Never abandoned: nobody else may write to this shard meanwhile.
                await anyio.to_thread.run_sync(_write_all, self.partial, shard.index, batch)
            finally:
                self._busy -= 1
            shard.has_written()
            self._spare += [one.memory for one in batch if len(one.memory) == _BUFFER_BYTES]
            if shard.full:
                self._ready.append(shard)
            self._signal.send()
            if self.partial.unsynced >= SYNC_BYTES:
                self._syncing.send()

    async def _sync(self) -> None:
        while True:
            if self.partial.unsynced < SYNC_BYTES:
                await self._syncing.wait()
                continue
            await anyio.to_thread.run_sync(self.partial.sync)
            self._syncing.send()


class FiledShard:
    """One shard on its way into the file of its group."""

    def __init__(self, filing: Filing, index: int, group: int, url: str, adopted: Noted | None) -> None:
        self.index, self.url, self.adopted = index, url, adopted
        self._signal = Signal()  # there may be room again
        self.full: list[_Buffer] = []
        self.written: list[_Buffer] = []  # being written now
        self.version = None if adopted is None else adopted.entry.version
        # When this version was first seen in this load, and when last; on the clock of the event loop.
        self.first = self.last = None if adopted is None else -math.inf
        self.length = None if adopted is None else adopted.entry.whole
        self._filing, self._group = filing, group
        self._filling: dict[int, _Buffer] = {}  # by where their next byte belongs
        self._is_placed = adopted is not None

    def begin(self, version: Version, length: int | None, *, whole: bool) -> None:
        """Take note of which version comes. Raises Unstorable if it must not be kept."""
        if not version.lifetime.storable:
            raise Unstorable
        now = anyio.current_time()
        self.first = now if self.first is None else self.first
        self.last = now
        if whole or self.version is None:
            self.version, self.length = version, length

    def place(self, start: int) -> None:
        """Take note of where it begins in its group."""
        if not self._is_placed and self.version is not None:
            self._is_placed = True
            # While something else may yet get the same name, nobody can go on with what is here.
            version = Version(size=self.version.size) if self.version.unsettled else self.version
            entry = self.entry(version)
            self._filing.partial.begin(self.index, Noted(entry, self._group, start))

    def entry(self, version: Version) -> Entry:
        """Return what the cache writes down of it."""
        # What is encoded on the way has another length there.
        return replace(Entry.of(self.url, version, self._filing.now), whole=self.length)

    def room(self, position: int, count: int) -> memoryview:
        """Return memory for up to `count` bytes from `position` of the shard on; none while much waits already."""
        buffer = self._filling.get(position)
        if buffer is None:
            size = _BUFFER_BYTES if len(self._filling) < 2 else _SMALL_BUFFER_BYTES
            if self._waiting + size > _WAITING_BYTES:
                return NO_ROOM
            buffer = self._filling[position] = _Buffer(position, self._filing.memory(size))
        return buffer.memory[buffer.filled : buffer.filled + count]

    def advance(self, position: int, count: int) -> None:
        """Take note that the memory for `position` was given `count` bytes."""
        buffer = self._filling.pop(position)
        buffer.filled += count
        if buffer.filled == len(buffer.memory):
            self._hand_over(buffer)
        else:
            self._filling[buffer.stop] = buffer

    def flush(self, position: int) -> None:
        """Have written what is there up to `position`."""
        if (buffer := self._filling.pop(position, None)) is not None and buffer.filled:
            self._hand_over(buffer)

    def flush_all(self) -> None:
        """Have all written that is there, once nobody brings more."""
        for position in list(self._filling):
            self.flush(position)

    async def wait(self) -> None:
        """Return when there is room again."""
        await anyio.lowlevel.checkpoint()
        while self._waiting + _BUFFER_BYTES > _WAITING_BYTES:
            await self._signal.wait()

    def has_written(self) -> None:
        """Take note that what was being written is."""
        self.written = []
        self._signal.send()

    @property
    def _waiting(self) -> int:
        return sum(buffer.filled for buffer in (*self.full, *self.written))

    def _hand_over(self, buffer: _Buffer) -> None:
        self.full.append(buffer)
        if len(self.full) == 1 and not self.written:
            self._filing.take(self)


def _write_all(partial: Partial, index: int, buffers: list[_Buffer]) -> None:
    for buffer in buffers:
        partial.write(index, buffer.start, buffer.memory[: buffer.filled])
