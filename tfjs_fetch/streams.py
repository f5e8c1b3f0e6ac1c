"""One shard over one stream or several: chosen ranges side by side, and the tail of a large file shared out.

A file is asked for as a whole first. If that would take long, others join in slots that nobody waits for: each takes a
piece off the end of what the first has before it, and that one receives until it meets a piece that was taken. Who is
much slower than the others has to leave the rest of its piece to them.
"""

import statistics
from collections import deque

import anyio
import anyio.abc

from tfjs_fetch.assembly import Shard
from tfjs_fetch.download import Downloader, NoParts, Target
from tfjs_fetch.errors import TransportError
from tfjs_fetch.origins import Slot
from tfjs_fetch.shards import ShardBody
from tfjs_fetch.signals import Signal
from tfjs_fetch.stretches import Stretches
from tfjs_fetch.tasks import task_group

# Files from this size on may be shared out, once a stream has run for so long and would need so much longer.
_LARGE_BYTES = 64 * 2**20
_TRIAL_SECONDS = 0.25
_WORTH_SECONDS = 1.0
# What comes so fast is limited by this machine, which more streams would only keep busy. Bytes per second.
_MACHINE_RATE = 250e6
_MOST_STREAMS = 8
_PIECE_SECONDS = 2.0
_LEAST_PIECE, _MOST_PIECE = 2 * 2**20, 16 * 2**20
# A stream that reaches less than this share of the median of the others for so long is a straggler.
_STRAGGLING = 0.25
_STRAGGLING_SECONDS = 5.0
# So often that happens for one file; to the last one, which may be as fast as can be by now, not as often.
_MOST_DISMISSALS, _MOST_OF_THE_LAST = 16, 4
_TICK_SECONDS = 0.05


async def bring_shard(downloader: Downloader, target: Target, shard: Shard) -> None:
    """Bring what is wanted of `shard`. Raises what `Downloader.download` does."""
    layout, target.lone = shard.group.layout, len(shard.missing()) <= 1
    large = (layout.size or 0) >= _LARGE_BYTES / 2 * len(layout.paths)
    # What is taken in order, in bounded memory, comes over one stream.
    if shard.group.window.ahead is None and (large or not target.lone):
        await _Crew(downloader, target, shard).run()
    while missing := shard.missing():
        for stretch in missing:
            await downloader.download(target, ShardBody(shard, *stretch))
            if not target.divisible or target.validator is None:
                break


class _Stream:
    """One that receives `body`, and how far it was when."""

    def __init__(self, body: ShardBody, *, first: bool) -> None:
        self.body = body
        self.scope = anyio.CancelScope()
        self._first = first
        self._marks: deque[tuple[float, int]] = deque(maxlen=int(_STRAGGLING_SECONDS / _TICK_SECONDS))

    def mark(self, now: float) -> None:
        """Note how far it is; of the first one from its first byte on."""
        if self.body.progress or not self._first:
            self._marks.append((now, self.body.progress))

    @property
    def seconds(self) -> float:
        """How much time its rate is the mean of."""
        return self._marks[-1][0] - self._marks[0][0] if self._marks else 0.0

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return (self._marks[-1][1] - self._marks[0][1]) / self.seconds if self.seconds else 0.0


class _Crew:
    """The streams of one shard."""

    def __init__(self, downloader: Downloader, target: Target, shard: Shard) -> None:
        self._downloader, self._target, self._shard = downloader, target, shard
        self._origins = downloader.requester.origins
        self._at_work: list[_Stream] = []
        self._sharing = False  # whether pieces may be taken from those at work
        self._failures = self._dismissals = 0
        self._rates: deque[float] = deque(maxlen=_MOST_STREAMS)  # of those that are done
        self._todo: deque[tuple[int, int | None]] = deque()  # stretches that were missing when that was last asked for
        self._signal = Signal()

    async def run(self) -> None:
        """Bring all that is missing."""
        async with task_group() as tasks:
            tasks.start_soon(self._oversee, tasks)
            while True:
                if (body := self._next()) is not None:
                    await self._bring(self._enlist(body), patient=True)
                elif self._at_work:
                    await self._signal.wait()
                else:
                    break
            tasks.cancel_scope.cancel()

    def _next(self) -> ShardBody | None:
        """Return a sink for a stretch that nobody brings; None if there is none, or none for now."""
        if self._at_work and not self._target.divisible:
            return None  # A whole is brought by one alone: two might be at the same place.
        if not self._at_work or not self._todo:
            self._todo = deque(self._shard.missing())
        taken = Stretches((stream.body.start, self._stop(stream.body.stop)) for stream in self._at_work)
        while self._todo:
            start, stop = self._todo.popleft()
            if not self._at_work:
                return ShardBody(self._shard, start, stop)
            for gap in taken.gaps(start, self._stop(stop)):
                for left in self._shard.dealt.gaps(*gap):
                    return ShardBody(self._shard, *left)
        return None

    def _stop(self, stop: int | None) -> int:
        return self._size if stop is None else stop

    @property
    def _size(self) -> int:
        return self._shard.group.shard_size(self._shard.position) or 0

    def _enlist(self, body: ShardBody) -> _Stream:
        stream = _Stream(body, first=not self._at_work)
        self._at_work.append(stream)
        self._target.streams = len(self._at_work)
        return stream

    async def _bring(self, stream: _Stream, *, patient: bool) -> None:
        try:
            with stream.scope:
                await self._downloader.download(self._target, stream.body, patient=patient)
        except NoParts:
            self._give_back(stream.body)
        except TransportError as error:
            if patient or error is self._downloader.raised():
                raise
            # The others do without it. If nothing came at all, so many connections may be too many.
            self._failures += not stream.body.progress
            self._give_back(stream.body)
        finally:
            self._at_work.remove(stream)
            if stream.rate:
                self._rates.append(stream.rate)
            self._target.streams = max(1, len(self._at_work))
            self._signal.send()

    def _give_back(self, body: ShardBody) -> None:
        """Let the one from whom a piece was taken, of which nothing came, go on to its end if it has not met it yet."""
        for stream in self._at_work:
            if stream.body.stop == body.start and not body.progress:
                stream.body.extend(self._stop(body.stop))

    async def _help(self, stream: _Stream, slot: Slot) -> None:
        try:
            await self._bring(stream, patient=False)
            # Others may have come to wait for a slot, and go first.
            while not self._failures and slot.renew() and (body := self._piece()) is not None:
                await self._bring(self._enlist(body), patient=False)
        finally:
            slot.release()

    def _piece(self) -> ShardBody | None:
        """Return a sink for what one more stream can bring."""
        if self._target.validator is None or not self._target.divisible:
            return None
        return self._next() or (self._tail() if self._sharing else None)

    def _tail(self) -> ShardBody | None:
        """Take a piece from the one with the most before it, no larger than what one stream brings in a short time."""
        bodies = [stream.body for stream in self._at_work]
        if not bodies:
            return None
        body = max(bodies, key=lambda one: self._stop(one.stop) - one.edge)
        stop = self._stop(body.stop)
        swift = int(_PIECE_SECONDS * max(stream.rate for stream in self._at_work))
        piece = min(max((stop - body.edge) // (2 * _MOST_STREAMS), _LEAST_PIECE), max(swift, _LEAST_PIECE), _MOST_PIECE)
        if stop - body.edge < 2 * piece:
            return None
        body.stop = stop - piece
        return ShardBody(self._shard, stop - piece, stop)

    async def _oversee(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            await anyio.sleep(_TICK_SECONDS)
            now = anyio.current_time()
            for stream in self._at_work:
                stream.mark(now)
            self._sharing = self._sharing or self._is_worth_sharing()
            self._hire(tasks)
            self._dismiss()

    def _is_worth_sharing(self) -> bool:
        """Whether those at work would take long, and their place is certain."""
        if self._size < _LARGE_BYTES or not self._at_work or not self._shard.group.is_certain(self._shard.position):
            return False
        if any(stream.seconds < _TRIAL_SECONDS for stream in self._at_work):
            return False
        rate = sum(stream.rate for stream in self._at_work)
        left = sum(self._stop(stop) - start for start, stop in self._shard.missing())
        return rate < _MACHINE_RATE and left > _WORTH_SECONDS * rate

    def _hire(self, tasks: anyio.abc.TaskGroup) -> None:
        """Have more streams join: one until the server has shown that it gives parts."""
        ranges = self._origins.at(self._target.url).ranges
        most = 0 if ranges is False or self._failures else _MOST_STREAMS if ranges else 2
        while len(self._at_work) < most:
            slot = self._origins.slot(self._target.url)
            if not slot.try_acquire():
                break
            body = self._piece() if self._at_work else None
            if body is None:
                slot.release()
                break
            tasks.start_soon(self._help, self._enlist(body), slot)

    def _dismiss(self) -> None:
        """Have a straggler leave the rest of its piece to others."""
        if self._target.validator is None or not self._target.divisible or self._dismissals >= _MOST_DISMISSALS:
            return
        for stream in self._at_work:
            others = [one.rate for one in self._at_work if one is not stream and one.seconds >= 1]
            if len(self._at_work) == 1 and self._dismissals < _MOST_OF_THE_LAST:
                others = list(self._rates)
            slow = others and stream.rate < _STRAGGLING * statistics.median(others)
            if slow and stream.seconds >= _STRAGGLING_SECONDS * 0.9:
                self._dismissals += 1
                stream.scope.cancel()
                return
