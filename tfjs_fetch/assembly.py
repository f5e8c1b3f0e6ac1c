"""Where arriving bytes go: a sink for each shard, which brings them to their place in the memory of the group.

A shard's place in its group is known when all shards before it have told their length; until then its body pauses.
Sizes may be guessed, too: they are checked as lengths come in.

Bytes that are in place are never written again. When a body has to start over, what comes again is compared with what
is there, or in a stream, which lets memory go, with its checksum; if it differs, the file was replaced in between, and
the whole load starts over. So no array is ever a mixture of two versions of a file.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from zlib import crc32

from tfjs_fetch.bodies import Surplus
from tfjs_fetch.content import HEAD_BYTES, suspicion, unmistakable
from tfjs_fetch.download import Slot
from tfjs_fetch.errors import ExtraBytesError, MissingBytesError, TruncatedError, WrongContentError
from tfjs_fetch.format.layout import GroupLayout, PlacedWeight
from tfjs_fetch.pieces import Piece, Signal, Window, bytes_before
from tfjs_fetch.planning import Blueprint, warn_of_surplus
from tfjs_fetch.sinks import NO_ROOM

_SCRATCH_BYTES = 64 * 1024
# Bytes after which a body shows what it is: the patterns of `recognise` are shorter.
_TELLING_BYTES = 256
# Seconds between two reports of one shard.
_REPORT_SECONDS = 0.1


class StartOver(Exception):  # noqa: N818 - a turn of events, not an error: nobody outside sees it
    """What is in place cannot be used: sizes were guessed wrongly, or with `changed` a file was replaced meanwhile."""

    def __init__(self, *, changed: bool) -> None:
        super().__init__(changed)
        self.changed = changed


class GroupAssembly:
    """The memory of one group and the sizes of its shards."""

    def __init__(
        self,
        layout: GroupLayout,
        blueprint: Blueprint,
        pieces: Sequence[Piece],
        window: Window,
        whole: Callable[[Piece, Sequence[PlacedWeight]], None],
        warn: Callable[[str], None],
        guess: Sequence[int] | None = None,
    ) -> None:
        self.layout = layout
        self.pieces = pieces
        self.window = window
        self.signal = Signal()
        self.whole = whole
        self.size = layout.size or 0
        self.everything = blueprint.everything
        self._starts, self._stops = [piece.start for piece in pieces], [piece.stop for piece in pieces]
        self.bodies: list[ShardBody] = []
        self._blueprint = blueprint
        self._warn = warn
        self._guess = list(accumulate(guess, initial=0)) if guess is not None and len(layout.paths) > 1 else None
        self._sizes: list[int | None] = [None] * len(layout.paths)
        self._offsets = [0]  # of the shards whose predecessors are all known, and one more
        self._unknown = len(layout.paths)
        self._checked = False

    def piece_at(self, position: int) -> Piece | None:
        """Return the piece with the byte at `position` of the group, or the next one behind it."""
        index = bisect_right(self._stops, position)
        return self.pieces[index] if index < len(self.pieces) else None

    def last_wanted(self, start: int, stop: int | None) -> int:
        """Return where the wanted bytes between `start` and `stop` (None is the end) end; `start` if there are none."""
        index = len(self.pieces) if stop is None else bisect_left(self._starts, stop)
        last = self.pieces[index - 1].stop if index else 0
        return max(start, last if stop is None else min(last, stop))

    def offset(self, position: int) -> int | None:
        """Return where the shard at `position` begins in the group; None while that is unknown."""
        if position < len(self._offsets):
            return self._offsets[position]
        return self._guess[position] if self._guess is not None else None

    def is_certain(self, position: int) -> bool:
        """Whether the offset of the shard at `position` is no guess."""
        return position < len(self._offsets)

    def shard_size(self, position: int) -> int | None:
        """Return the length of a shard as announced; None while unknown."""
        return self._sizes[position]

    def guessed_size(self, position: int) -> int | None:
        """Return the length of a shard by the guess; None without one."""
        return None if self._guess is None else self._guess[position + 1] - self._guess[position]

    @property
    def settled(self) -> bool:
        """Whether bytes may be left out: only while it is known, or was asked for, how long all shards are."""
        return self._guess is not None or self._unknown == 0

    def announce(self, position: int, size: int) -> None:
        """Take note of the length of a shard. Raises StartOver if others are in the wrong place because of it."""
        known = self._sizes[position]
        if known is not None:
            if known != size:
                raise StartOver(changed=True)
            return
        self._sizes[position] = size
        self._unknown -= 1
        if self._guess is not None and self._guess[position + 1] - self._guess[position] != size:
            self._guess = None
            # Not only those behind: where the shards in front of it begin may have been guessed as wrongly.
            misplaced = any(body.placed for body in self.bodies if not self.is_certain(body.position))
            if misplaced or not self.everything:
                raise StartOver(changed=False)
        while len(self._offsets) <= len(self._sizes) and (next_size := self._sizes[len(self._offsets) - 1]) is not None:
            self._offsets.append(self._offsets[-1] + next_size)
        self.signal.send()

    def check(self) -> None:
        """Raise the error if the sizes do not fit the weights, once all are known and all bodies show what they are."""
        if self._checked or self._unknown or not all(body.is_telling for body in self.bodies):
            return
        self._checked = True
        sizes = [size or 0 for size in self._sizes]
        try:
            surplus = self._blueprint.check_total(self.layout, sizes)
        except (MissingBytesError, ExtraBytesError) as error:
            raise suspicion(_heads(self.bodies), error) or error from None
        if surplus:
            warn_of_surplus(self.layout, sizes, self.size, _heads(self.bodies), self._warn)


class ShardBody:
    """The sink for one shard: brings its bytes to their place, and notices what is wrong with them."""

    def __init__(
        self, group: GroupAssembly, position: int, url: str, slot: Slot, report: Callable[[int, int | None], None]
    ) -> None:
        self.position = position
        self.url = url
        self.placed = 0  # bytes from the beginning of the shard that are dealt with, in whichever attempt
        self.received = 0  # wanted bytes that are in place
        self._group, self._slot, self._report = group, slot, report
        self._cursor = 0  # bytes of this attempt
        self._at = 0  # where in the group the last buffer lies
        self._piece: Piece | None = None  # where the last buffer lies, None for scratch memory
        self._buffer = NO_ROOM
        self._scratch = NO_ROOM
        self._head = bytearray()
        self._surplus = 0  # bytes of this attempt that are of no use
        self._sum = self._placed_sum = 0  # checksums of this attempt so far, and of what is dealt with
        self._identity: tuple[str, ...] | None = None
        self._ended = False
        self._reported = 0.0
        group.bodies.append(self)

    @property
    def is_telling(self) -> bool:
        """Whether enough is there to see what it is."""
        return self._ended or len(self._head) >= _TELLING_BYTES

    @property
    def head(self) -> bytes:
        """The first bytes of this attempt."""
        return bytes(self._head)

    @property
    def size(self) -> int | None:
        """How many wanted bytes it has; None while unknown."""
        offset, size = self._group.offset(self.position), self._group.shard_size(self.position)
        if offset is None or size is None:
            return None
        return bytes_before(self._group.pieces, offset + size) - bytes_before(self._group.pieces, offset)

    @property
    def complete(self) -> bool:
        """Whether nothing of it is wanted any more, for its length is known."""
        return self._group.shard_size(self.position) is not None and self._limit() == 0

    def begin(self, length: int | None, identity: tuple[str, ...]) -> None:
        if length is not None:
            self._announce(length)
        if identity != (self._identity or identity) and any(piece.released for piece in self._group.pieces):
            raise StartOver(changed=True)
        self._identity = identity
        self._cursor = self._surplus = self._sum = 0
        self._head.clear()

    def get_buffer(self) -> memoryview:
        offset, limit = self._group.offset(self.position), self._limit()
        if offset is None or limit is None:
            return NO_ROOM
        self._piece, self._at = None, offset + self._cursor
        if self._cursor >= limit:
            self._buffer = self._spare(_TELLING_BYTES)  # whatever comes is surplus, and tells what it is
            return self._buffer
        piece, edge = self._group.piece_at(self._at), offset + limit
        if piece is not None:
            edge = min(edge, piece.start if piece.start > self._at else piece.stop)
        if self._cursor < self.placed:
            self._buffer = self._spare(min(edge - self._at, self.placed - self._cursor))
        elif piece is None or piece.start > self._at or piece.released:
            self._buffer = self._spare(edge - self._at)
        elif not self._group.window.admits(piece.before):
            return NO_ROOM
        else:
            self._piece = piece
            self._buffer = piece.room(self._at, edge)
        return self._buffer

    def advance(self, count: int) -> None:
        offset, limit = self._group.offset(self.position), self._limit()
        if offset is None or limit is None or offset + self._cursor != self._at:
            raise StartOver(changed=False)
        self._look(count)
        if self._cursor >= limit:
            if limit == self._guess():
                raise StartOver(changed=False)  # It is longer than was guessed, so others are in the wrong place.
            self._surplus += count
            self._stop_when_telling()
            return
        self._cursor += count
        if self._piece is not None:
            self._place(self._piece, self._at, count)
        elif self._cursor <= self.placed:
            self._compare(self._at, count)
        self._sum_up(count)
        self.placed = max(self.placed, self._cursor)
        if self._cursor >= limit and self._group.shard_size(self.position) not in (None, limit):
            self._stop_when_telling()

    async def wait(self) -> None:
        if self._group.offset(self.position) is None:
            await self._group.signal.wait()
            return
        piece, window = self._group.piece_at(self._at), self._group.window
        if piece is not None and window.admits(piece.before):
            await piece.touch(self._at)
            return
        # The consumer of a stream may take its time, or want the slot for another load in between.
        self._slot.release()
        with window.pause():
            while piece is not None and not window.admits(piece.before):
                await window.signal.wait()
            await self._slot.acquire()

    def end(self, *, surplus: bool = False) -> None:
        size = self._group.shard_size(self.position)
        received = self._cursor + self._surplus
        if size is None:
            self._tell_size(received, surplus=surplus or self._surplus > 0)
        elif received > size:
            raise StartOver(changed=True)  # An earlier attempt was told another length.
        elif not surplus and received < size and not self.complete:
            raise TruncatedError(self.url, received, size)
        if (content := unmistakable(self.head)) is not None:
            raise WrongContentError(self.url, content)
        self._ended = True
        self._group.check()
        self._report(self.received, self.size)
        # A buffer left here would keep the last piece of every shard alive, and so a streamed model as a whole.
        self._piece, self._buffer, self._scratch = None, NO_ROOM, NO_ROOM

    def close(self) -> None:
        """Part from the group: they know each other, and memory would stay until Python looks for such circles."""
        self._group.bodies.clear()

    def _limit(self) -> int | None:
        """Return how many bytes from its beginning are to be read at most; None while its place is unknown."""
        group, offset, size = self._group, self._group.offset(self.position), self._group.shard_size(self.position)
        if offset is None:
            return None
        size = group.guessed_size(self.position) if size is None else size
        if group.settled:
            return group.last_wanted(offset, None if size is None else offset + size) - offset
        room = max(0, group.size - offset)
        return room if size is None else min(size, room)

    def _stop_when_telling(self) -> None:
        if self.is_telling:
            raise Surplus

    def _tell_size(self, received: int, *, surplus: bool) -> None:
        """Tell the group what the end of the body says about its length."""
        if not surplus or self._guess() is None:  # else what follows are weights that are not wanted
            self._announce(received)

    def _guess(self) -> int | None:
        """Return its length as guessed, as long as nothing else is known."""
        known = self._group.shard_size(self.position) is not None
        return None if known else self._group.guessed_size(self.position)

    def _announce(self, size: int) -> None:
        if size < self.placed:
            raise StartOver(changed=True)  # An earlier attempt brought more than this version has.
        self._group.announce(self.position, size)

    def _look(self, count: int) -> None:
        if len(self._head) < HEAD_BYTES:
            was_telling = self.is_telling
            self._head += self._buffer[: min(count, HEAD_BYTES - len(self._head))]
            if self.is_telling and not was_telling:
                self._group.check()

    def _place(self, piece: Piece, at: int, count: int) -> None:
        self.received += count
        if weights := piece.decoder.add(at, at + count):
            self._group.whole(piece, weights)
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._report(self.received, self.size)

    def _compare(self, at: int, count: int) -> None:
        """Raise StartOver if what came again differs from what is there."""
        piece = self._group.piece_at(at)
        if piece is None or piece.start > at or piece.released:
            return
        if piece.memory[at - piece.start : at - piece.start + count] != self._buffer[:count]:
            raise StartOver(changed=True)

    def _sum_up(self, count: int) -> None:
        """Sum up what came; raise StartOver if it came again, all of it, and differs from what was handed out."""
        if self._group.window.ahead is None:
            return
        self._sum = crc32(self._buffer[:count], self._sum)
        if self._cursor > self.placed:
            self._placed_sum = self._sum
        elif self._cursor == self.placed and self._sum != self._placed_sum:
            raise StartOver(changed=True)

    def _spare(self, count: int) -> memoryview:
        if not self._scratch:
            self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        return self._scratch[:count]


def _heads(bodies: Sequence[ShardBody]) -> Sequence[tuple[str, bytes]]:
    return [(body.url, body.head) for body in bodies]
