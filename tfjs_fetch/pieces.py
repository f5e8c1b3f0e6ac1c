"""The memory of a load: pieces of groups, allocated when their bytes come and let go when their weights are taken.

A group is cut into pieces, each some neighbouring wanted weights with one memory: one piece for a whole group, runs of
chosen weights, or runs of about a mebibyte for a stream, whose window says how far ahead memory may be allocated.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio
import anyio.to_thread
import numpy as np

from tfjs_fetch.format.decoding import GroupDecoder
from tfjs_fetch.format.layout import GroupLayout, PlacedWeight
from tfjs_fetch.signals import Signal

# Fresh memory is touched in a worker thread, a block at a time, before bytes are received into it: what the kernel does
# at the first touch (zeroing, in a virtual machine finding it as well) takes up to milliseconds a megabyte.
_BLOCK_BYTES = 16 * 2**20
_PAGE_BYTES = 4096
# Smaller pieces are not worth the way to a thread.
_INLINE_BYTES = 256 * 1024


class Window:
    """How far ahead of the consumer memory may be allocated: `ahead` bytes, None without bound.

    `paused` counts the bodies that wait for the consumer.
    """

    def __init__(self, ahead: int | None = None) -> None:
        self.ahead = ahead
        self.paused = 0
        self.signal = Signal()
        self._released = 0

    def admits(self, before: int) -> bool:
        """Whether what has `before` bytes in front of it may be allocated now."""
        return self.ahead is None or before < self._released + self.ahead

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Take note that a body waits for the consumer while this is open."""
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1
            self.signal.send()

    def release(self, piece: "Piece") -> None:
        """Let the memory of `piece` go, and others have its room."""
        piece.release()
        self._released += piece.stop - piece.start
        self.signal.send()


class Piece:
    """Neighbouring weights of a group and the memory they arrive in. `before` counts the bytes of all earlier pieces.

    `empty` are the weights without values, whole from the beginning. `left` is for whoever takes the weights out: how
    many are still in it.
    """

    def __init__(self, layout: GroupLayout, before: int, *, filed: bool = False) -> None:
        self.before = before
        self.start = layout.weights[0].start if layout.weights else 0
        self.stop = layout.weights[-1].stop if layout.weights else 0
        self.left = len(layout.specs)
        self.released = False
        self.empty = tuple(weight for weight in layout.weights if weight.start == weight.stop)
        self._layout = layout
        self._touched: set[int] = set()
        self._touching: anyio.Lock | None = None
        # What goes into a file has no memory here.
        self._memory: memoryview | None = memoryview(b"") if filed else None
        self._decoder: GroupDecoder | None = None

    @property
    def memory(self) -> memoryview:
        """The memory, allocated at the first use."""
        if self._memory is None:
            self._memory = np.empty(self.stop - self.start, np.uint8).data
        return self._memory

    @property
    def decoder(self) -> GroupDecoder:
        """The decoder over the memory."""
        if self._decoder is None:
            self._decoder = GroupDecoder(self._layout, self.memory, start=self.start)
        return self._decoder

    def room(self, start: int, stop: int) -> memoryview:
        """Return the memory from `start` up to `stop` of the group, as far as it was touched already."""
        block = (start - self.start) // _BLOCK_BYTES
        if block not in self._touched and self.stop - self.start > _INLINE_BYTES:
            return memoryview(b"")
        end = min(stop - self.start, (block + 1) * _BLOCK_BYTES)
        return self.memory[start - self.start : end]

    async def touch(self, position: int) -> None:
        """Make room at `position`. Nothing lies there yet: no memory is handed out before it was touched."""
        block = (position - self.start) // _BLOCK_BYTES
        self._touching = self._touching or anyio.Lock()
        async with self._touching:
            if block not in self._touched and not self.released:
                memory = self.memory[block * _BLOCK_BYTES : (block + 1) * _BLOCK_BYTES]
                # Never abandoned: a straggler would write over what has come.
                await anyio.to_thread.run_sync(_touch, memory)
                self._touched.add(block)

    def fill(self, data: bytes) -> None:
        """Use `data` as memory."""
        self._memory = memoryview(data)

    def release(self) -> None:
        """Drop the memory; arrays that are views of it keep it alive for themselves."""
        self.released = True
        self._memory = self._decoder = None


def bytes_before(pieces: Sequence[Piece], position: int) -> int:
    """Return how many bytes of pieces lie in front of `position` of their group, those of earlier groups included."""
    index = bisect_left(pieces, position, key=lambda piece: piece.start)
    if index == 0:
        return pieces[0].before if pieces else 0
    piece = pieces[index - 1]
    return piece.before + min(piece.stop, position) - piece.start


def _touch(memory: memoryview) -> None:
    np.frombuffer(memory, np.uint8)[::_PAGE_BYTES] = 0


def cut(layout: GroupLayout, wanted: frozenset[str], before: int, most: int | None) -> list[Piece]:
    """Return the pieces of the `wanted` weights of a group; with `most` a piece ends when it has that many bytes."""
    runs: list[list[PlacedWeight]] = []
    for weight in layout.weights:
        if weight.spec.name not in wanted:
            continue
        run = runs[-1] if runs else []
        full = most is not None and run and weight.stop - run[0].start > most
        if not run or run[-1].stop != weight.start or full:
            runs.append(run := [])
        run.append(weight)
    pieces = []
    for run in runs:
        part = GroupLayout(layout.index, layout.paths, tuple(w.spec for w in run), tuple(run), layout.size)
        pieces.append(Piece(part, before))
        before += pieces[-1].stop - pieces[-1].start
    return pieces
