"""The sink for one stream of a shard's bytes: brings them to their place, and notices what is wrong with them.

While the place is unknown the body pauses. Bytes that are in place are never written again: what comes again is
compared with what is there, or where that is not in memory any more, with its checksum; if it differs, the file
was replaced in between, and the whole load starts over. So no array is ever a mixture of two versions of a file.
"""

import time
from zlib import crc32

from tfjs_fetch.assembly import TELLING_BYTES, Shard, StartOver
from tfjs_fetch.bodies import Surplus
from tfjs_fetch.content import HEAD_BYTES, unmistakable
from tfjs_fetch.errors import TruncatedError, WrongContentError
from tfjs_fetch.pieces import Piece
from tfjs_fetch.representation import Version
from tfjs_fetch.sinks import NO_ROOM

_SCRATCH_BYTES = 64 * 1024
# Memory given away at a time: what is given away cannot be left to another stream any more.
_BUFFER_BYTES = 2**20
# Seconds between two reports of one shard.
_REPORT_SECONDS = 0.1


class ShardBody:
    """The sink for the bytes of `shard` from `start` up to `stop`, or to its end.

    `stop` may be lowered as far as `edge` while they come, when another stream takes the rest.
    """

    def __init__(self, shard: Shard, start: int = 0, stop: int | None = None) -> None:
        self.start, self.stop = start, stop
        self.cursor = start  # where in the shard this attempt is
        self.progress = 0  # bytes that were never there before
        self._shard, self._group = shard, shard.group
        self._reached = start  # where the best attempt was
        self._end: int | None = None  # where the part that this attempt brings ends
        self._at = 0  # where in the group the last buffer lies
        self._piece: Piece | None = None  # where the last buffer lies, None for scratch memory
        self._again = False  # whether what the last buffer is for is there already
        self._buffer = NO_ROOM
        self._scratch = NO_ROOM
        self._surplus = 0  # bytes of this attempt that are of no use
        self._sum = self._reached_sum = 0  # checksums of this attempt so far, and of the best one

    @property
    def complete(self) -> bool:
        """Whether nothing of it is wanted any more, for its length is known."""
        return self._group.shard_size(self._shard.position) is not None and self._shard.limit == 0

    @property
    def missing(self) -> tuple[int, int | None]:
        """The bytes to ask for."""
        return self._reached, self.stop

    @property
    def edge(self) -> int:
        """Where the bytes end that are there or for which memory is given away already."""
        return max(self.cursor + len(self._buffer), self._reached)

    def extend(self, stop: int) -> None:
        """Go on up to `stop`, as far as the answer that is being received does."""
        if self._end is None or self._end >= stop:
            size = self._group.shard_size(self._shard.position)
            self.stop = None if stop == size and self._end is None else stop

    def begin(self, length: int | None, version: Version, part: tuple[int, int] | None = None) -> None:
        shard = self._shard
        if length is not None:
            shard.announce(length)
        if part is None:
            if shard.dealt and version != shard.version:
                raise StartOver(changed=True)
            # What was handed out or written away can only be compared from the beginning on.
            gone = shard.file is not None or any(piece.released for piece in self._group.pieces)
            if self.start and gone and version.validator is None:
                raise StartOver(changed=True)
            shard.head.clear()
            self._reached = self._reached if self.start == 0 else 0
            self.start, self.stop, self._end = 0, None, None
        else:
            self._end = part[1]
            shard.headless = part[0] > 0 and not shard.head
        shard.version, shard.begun = version, True
        if shard.file is not None:
            shard.file.begin(version, length, whole=part is None)
        self.cursor, self._surplus = (0 if part is None else part[0]), 0
        self._sum = self._reached_sum if part is not None and self.cursor == self._reached else 0

    def get_buffer(self) -> memoryview:
        offset, limit = self._group.offset(self._shard.position), self._shard.limit
        if offset is None or limit is None:
            return NO_ROOM
        self._piece, self._at, self._again = None, offset + self.cursor, False
        if self.cursor >= limit:
            self._buffer = self._spare(TELLING_BYTES)  # whatever comes is surplus, and tells what it is
            return self._buffer
        piece, edge = self._group.piece_at(self._at), offset + (limit if self.stop is None else min(self.stop, limit))
        if piece is not None:
            edge = min(edge, piece.start if piece.start > self._at else piece.stop)
        self._again, change = self._shard.dealt.around(self.cursor)
        edge = edge if change is None else min(edge, offset + change)
        if self._again or piece is None or piece.start > self._at or piece.released:
            self._buffer = self._spare(edge - self._at)
        elif not self._group.window.admits(piece.before):
            return NO_ROOM
        elif self._shard.file is not None:
            self._piece = piece
            self._shard.file.place(offset)
            self._buffer = self._shard.file.room(self.cursor, edge - self._at)
        else:
            self._piece = piece
            self._buffer = piece.room(self._at, min(edge, self._at + _BUFFER_BYTES))
        return self._buffer

    def advance(self, count: int) -> None:
        offset, limit = self._group.offset(self._shard.position), self._shard.limit
        if offset is None or limit is None or offset + self.cursor != self._at:
            raise StartOver(changed=False)
        self._look(count)
        if self.cursor >= limit:
            if limit == self._shard.guess:
                raise StartOver(changed=False)  # It is longer than was guessed, so others are in the wrong place.
            self._surplus += count
            self._stop_when_telling()
            return
        self.cursor += count
        if self._piece is not None:
            if self._shard.file is not None:
                self._shard.file.advance(self.cursor - count, count)
            self._place(self._piece, self._at, count)
        elif self._again:
            self._compare(self._at, count)
        if not self._again:
            self.progress += count
            self._shard.dealt.add(self.cursor - count, self.cursor)
        self._sum_up(count)
        self._reached = max(self._reached, self.cursor)
        if self.cursor == self._end:
            return
        if self.cursor >= limit and self._group.shard_size(self._shard.position) not in (None, limit):
            self._stop_when_telling()
        if self.stop is not None and self.cursor >= self.stop:
            raise Surplus

    async def wait(self) -> None:
        if self._group.offset(self._shard.position) is None:
            await self._group.signal.wait()
            return
        if self._shard.file is not None:
            await self._shard.file.wait()
            return
        piece, window = self._group.piece_at(self._at), self._group.window
        if piece is not None and window.admits(piece.before):
            await piece.touch(self._at)
            return
        # The consumer of a stream may take its time, or want the slot for another load in between.
        self._shard.slot.release()
        with window.pause():
            while piece is not None and not window.admits(piece.before):
                await window.signal.wait()
            await self._shard.slot.acquire()

    def end(self, *, surplus: bool = False) -> None:
        shard, size = self._shard, self._group.shard_size(self._shard.position)
        received = self.cursor + self._surplus
        if size is None:
            self._tell_size(received, surplus=surplus or self._surplus > 0)
        elif received > size:
            raise StartOver(changed=True)  # An earlier attempt was told another length.
        elif received < (size if self.stop is None else self.stop) and not surplus and not self.complete:
            raise TruncatedError(shard.url, received, size)
        if (content := unmistakable(bytes(shard.head))) is not None:
            raise WrongContentError(shard.url, content)
        # A stream that has met a piece of another's is not the end, even if it was given that back just now.
        shard.ended = self.stop is None if shard.size is None else shard.received == shard.size
        self._group.check()
        self._report(now=shard.ended)
        if shard.file is not None:
            shard.file.flush(self.cursor)
        # A buffer left here would keep the last piece of every shard alive, and so a streamed model as a whole.
        self._piece, self._buffer, self._scratch = None, NO_ROOM, NO_ROOM

    def _stop_when_telling(self) -> None:
        if self._shard.is_telling:
            raise Surplus

    def _tell_size(self, received: int, *, surplus: bool) -> None:
        """Tell the group what the end of the body says about its length."""
        if not surplus or self._shard.guess is None:  # else what follows are weights that are not wanted
            self._shard.announce(received)

    def _look(self, count: int) -> None:
        head = self._shard.head
        if self.cursor + self._surplus == len(head) < HEAD_BYTES:
            was_telling = self._shard.is_telling
            head += self._buffer[: min(count, HEAD_BYTES - len(head))]
            if self._shard.is_telling and not was_telling:
                self._group.check()

    def _place(self, piece: Piece, at: int, count: int) -> None:
        shard = self._shard
        shard.received += count
        if weights := piece.decoder.add(at, at + count):
            self._group.whole(piece, weights)
        self._report(now=False)

    def _report(self, *, now: bool) -> None:
        """Tell how much is there, unless that was told just before."""
        shard, time_now = self._shard, time.monotonic()
        if now or time_now - shard.reported >= _REPORT_SECONDS:
            shard.reported = time_now
            shard.report(shard.received, shard.size)

    def _compare(self, at: int, count: int) -> None:
        """Raise StartOver if what came again differs from what is there."""
        piece = self._group.piece_at(at)
        if piece is None or piece.start > at or piece.released or self._shard.file is not None:
            return
        if piece.memory[at - piece.start : at - piece.start + count] != self._buffer[:count]:
            raise StartOver(changed=True)

    def _sum_up(self, count: int) -> None:
        """Sum up what came; raise StartOver if it came again, all of it, and differs from what was handed out."""
        version = self._shard.version
        if self._shard.file is not None and version is not None and version.validator is not None:
            return  # the same name promises the same bytes
        if self._group.window.ahead is None and self._shard.file is None:
            return
        self._sum = crc32(self._buffer[:count], self._sum)
        if self.cursor > self._reached:
            self._reached_sum = self._sum
        elif self.cursor == self._reached and self._sum != self._reached_sum:
            raise StartOver(changed=True)

    def _spare(self, count: int) -> memoryview:
        if not self._scratch:
            self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        return self._scratch[:count]
