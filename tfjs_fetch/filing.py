"""Bytes on their way into the files of a download: received into small buffers, summed up and written while hot.

Each stream of a shard fills a buffer of its own. Full ones go to a thread that sums them up and from there to one that
writes them, a few for each shard at most, so that little is lost when the process is killed, and memory stays small
whatever the model's size. A body for whose bytes there is no room waits: no faster than the disk.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue

import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from tfjs_fetch.cache.journal import Noted
from tfjs_fetch.cache.partials import SYNC_BYTES, Partial
from tfjs_fetch.cache.records import Entry
from tfjs_fetch.representation import Version
from tfjs_fetch.signals import Signal
from tfjs_fetch.sinks import NO_ROOM
from tfjs_fetch.tasks import task_group

# A buffer, and how much of one shard may wait to be written. Together with what is being filled that is the mebibyte of
# a shard that may be lost when the process is killed.
_BUFFER_BYTES = 256 * 1024
_SMALL_BUFFER_BYTES = 64 * 1024
_WAITING_BYTES = 768 * 1024
# What is written is put on the disk when it is so much and took so many seconds to come: what came faster than that
# comes again as fast, if the power goes off. While that is done no more is written than that.
_SYNC_SECONDS = 1.0


class Unstorable(Exception):  # noqa: N818 - a turn of events, not an error: nobody outside sees it
    """A server does not allow that a file is kept on disk."""


class _Buffer:
    """Bytes of `shard` from `start` on, as many as are `filled`."""

    __slots__ = ("filled", "memory", "shard", "start")

    def __init__(self, shard: "FiledShard", start: int, memory: memoryview) -> None:
        self.shard, self.start, self.memory, self.filled = shard, start, memory, 0

    @property
    def stop(self) -> int:
        """Where its bytes end."""
        return self.start + self.filled

    @property
    def data(self) -> memoryview:
        """Its bytes."""
        return self.memory[: self.filled]


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it came: `version` was current from `first` to `last`, on the clock of the event loop.

    `index` is that of a shard of which the journal tells.
    """

    url: str
    version: Version
    first: float
    last: float
    index: int | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A group with strings, whole, and its shards with their lengths."""

    data: bytes
    shards: Sequence[tuple[Seen, int]]


class Filing:
    """The bytes of one download on their way into the files of `work`.

    `adopted` are the shards, by their indices, of which bytes are there already. `now` is in seconds since the epoch.
    """

    def __init__(self, work: Partial, adopted: Mapping[int, Noted], now: float) -> None:
        self.partial, self.adopted, self.now = work, adopted, now
        self.shards: list[FiledShard] = []
        self.texts: dict[int, Text] = {}  # groups with strings
        # Full buffers, and what is to be called before those that follow; None is the end.
        self._to_sum: SimpleQueue[_Buffer | Callable[[], None] | None] = SimpleQueue()
        self._to_write: SimpleQueue[_Buffer | None] = SimpleQueue()
        self._spare: list[memoryview] = []
        self._much_unsynced = Signal()
        self._synced = threading.Event()
        self._synced_at = time.monotonic()
        self._is_syncing = False
        self._meanwhile = self._most_meanwhile = 0  # bytes written since the last sync began, and how many may be
        self._ended = False

    async def run(self) -> None:
        """Write until all is written and `close` was called."""
        async with task_group() as tasks:
            tasks.start_soon(self._sync)
            tasks.start_soon(self._end)
            async with task_group() as threads:
                # Threads that wait for bytes must not keep others from theirs.
                limiter = anyio.CapacityLimiter(2)
                for work in (self._sum_up, self._write):
                    threads.start_soon(self._in_thread, work, limiter)
            tasks.cancel_scope.cancel()

    def close(self) -> None:
        """Take note that no more will come, and have the rest written."""
        for shard in self.shards:
            shard.flush_all()
        self._to_sum.put(None)

    @property
    def seen(self) -> Sequence[Seen]:
        """All shards as they came."""
        texts = [seen for text in self.texts.values() for seen, _ in text.shards]
        return [*(shard.seen for shard in self.shards if shard.seen is not None), *texts]

    def shard(self, index: int, group: int, url: str, path: str) -> "FiledShard":
        """Return the way into the files for a shard, which model.json calls `path`."""
        self.shards.append(FiledShard(self, index, group, url, path))
        return self.shards[-1]

    def take(self, buffer: _Buffer | Callable[[], None]) -> None:
        """Have a buffer written, or something called before those that follow."""
        self._to_sum.put(buffer)

    def memory(self, count: int) -> memoryview:
        """Return memory for a buffer."""
        if count == _BUFFER_BYTES and self._spare:
            return self._spare.pop()
        return memoryview(bytearray(count))

    def _sum_up(self) -> None:
        while (buffer := self._to_sum.get()) is not None and not self._ended:
            if isinstance(buffer, _Buffer):
                self.partial.sum_up(buffer.shard.index, buffer.start, buffer.data)
                self._to_write.put(buffer)
            else:
                buffer()
        self._to_write.put(None)

    def _write(self) -> None:
        going = True
        while going:
            batch = [self._to_write.get()]
            with suppress(Empty):
                while batch[-1] is not None:
                    batch.append(self._to_write.get_nowait())
            going = batch[-1] is not None and not self._ended
            buffers = [buffer for buffer in batch if buffer is not None]
            self.partial.write([(one.shard.index, one.start, one.data) for one in buffers])
            anyio.from_thread.run_sync(self._take_note, buffers)
            self._meanwhile += sum(buffer.filled for buffer in buffers)
            while self._is_syncing and self._meanwhile > self._most_meanwhile and not self._ended:
                self._synced.wait()
                self._synced.clear()

    def _take_note(self, written: Sequence[_Buffer]) -> None:
        """Let the memory of buffers be used again."""
        for buffer in written:
            buffer.shard.has_written(buffer.filled)
            if len(buffer.memory) == _BUFFER_BYTES:
                self._spare.append(buffer.memory)
        if self._is_much_unsynced:
            self._much_unsynced.send()

    @property
    def _is_much_unsynced(self) -> bool:
        return self.partial.unsynced >= SYNC_BYTES and time.monotonic() - self._synced_at >= _SYNC_SECONDS

    async def _sync(self) -> None:
        while True:
            if not self._is_much_unsynced:
                await self._much_unsynced.wait()
                continue
            self._most_meanwhile, self._meanwhile, self._is_syncing = self.partial.unsynced, 0, True
            await anyio.to_thread.run_sync(self.partial.sync)
            self._is_syncing, self._synced_at = False, time.monotonic()
            self._synced.set()

    async def _in_thread(self, work: Callable[[], None], limiter: anyio.CapacityLimiter) -> None:
        try:
            await anyio.to_thread.run_sync(work, limiter=limiter)
        except BaseException:
            self._stop()
            raise

    async def _end(self) -> None:
        """Let the threads end when the load does, however it ends: until they have, nobody else goes on."""
        try:
            await anyio.sleep_forever()
        finally:
            self._stop()

    def _stop(self) -> None:
        self._ended = True
        self._synced.set()
        # To both: one of the threads may be the reason why it ends.
        self._to_sum.put(None)
        self._to_write.put(None)


class FiledShard:
    """One shard on its way into the file of its group."""

    def __init__(self, filing: Filing, index: int, group: int, url: str, path: str) -> None:
        self.index, self.url, self.adopted = index, url, filing.adopted.get(index)
        adopted, self._path = self.adopted, path
        self._signal = Signal()  # there may be room again
        self._waiting = 0  # bytes that are not written yet
        self.version = None if adopted is None else adopted.entry.version
        # When this version was first seen in this load, and when last; on the clock of the event loop.
        self.first: float | None = None if adopted is None else -math.inf
        self.last = self.first
        self.length = None if adopted is None else adopted.entry.whole
        self._filing, self._group = filing, group
        self._filling: dict[int, _Buffer] = {}  # by where their next byte belongs
        self._is_placed = adopted is not None

    def begin(self, version: Version, length: int | None, *, whole: bool) -> None:
        """Take note of which version comes. Raises Unstorable if it must not be kept."""
        if not version.lifetime.storable:
            raise Unstorable
        if self.first is None or (whole and version != self.version):
            self.first, self._is_placed = anyio.current_time(), False
        # The answer may have taken its time: since then it may have changed.
        self.last = version.asked
        if whole or self.version is None:
            self.version, self.length = version, length

    def place(self, start: int) -> None:
        """Take note of where it begins in its group."""
        if not self._is_placed and self.version is not None:
            self._is_placed = True
            # While something else may yet get the same name, nobody can go on with what is here.
            version = Version(size=self.version.size) if self.version.unsettled else self.version
            entry = self.entry(version)
            self._filing.take(partial(self._filing.partial.begin, self.index, Noted(entry, self._group, start)))

    @property
    def seen(self) -> Seen | None:
        """What is known of it; None if it was not asked for."""
        if self.version is None or self.first is None or self.last is None:
            return None
        return Seen(self.url, self.version, self.first, self.last, self.index)

    def entry(self, version: Version) -> Entry:
        """Return what the cache writes down of it."""
        # What is encoded on the way has another length there.
        return replace(Entry.of(self.url, version, self._filing.now, self._path), whole=self.length)

    def room(self, position: int, count: int) -> memoryview:
        """Return memory for up to `count` bytes from `position` of the shard on; none while much waits already."""
        buffer = self._filling.get(position)
        if buffer is None:
            size = _BUFFER_BYTES if len(self._filling) < 2 else _SMALL_BUFFER_BYTES
            if self._waiting + size > _WAITING_BYTES:
                return NO_ROOM
            buffer = self._filling[position] = _Buffer(self, position, self._filing.memory(size))
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

    def has_written(self, count: int) -> None:
        """Take note that so many bytes are written."""
        self._waiting -= count
        self._signal.send()

    def _hand_over(self, buffer: _Buffer) -> None:
        self._waiting += buffer.filled
        self._filing.take(buffer)
