"""ProgressState: events folded into what a person wants to know. Pure; bars and web pages are built on it."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from tfjs_fetch.events import Event, Finished, Planned, ShardFinished, ShardProgress, WeightReady

# Seconds over which the rate is averaged: long enough to be calm, short enough to follow a change.
_RATE_WINDOW = 5.0
# Two samples closer than this (seconds) are taken as one, so the window stays small however many events come.
_SAMPLE_DISTANCE = 0.1


@dataclass(frozen=True, slots=True)
class ShardState:
    """A shard under way: `received` of `size` bytes, None while its size is unknown."""

    url: str
    received: int
    size: int | None


class ProgressState:
    """How far one load has come.

    `done` and `total` are bytes of weights (`total` is None if unknown), never more than all of them; `rate` is bytes
    a second over the last five, `time_left` seconds (None if unknown); `active` are the shards under way by index.
    """

    def __init__(self) -> None:
        self.source = ""
        self.total: int | None = None
        self.shards = 0
        self.weights = 0
        self.weights_done = 0
        self.complete = False
        self._finished: dict[int, int] = {}
        self._finished_bytes = 0
        self._active: dict[int, ShardState] = {}
        self._samples: deque[tuple[float, int]] = deque()
        self._now = 0.0

    def fold(self, event: Event, now: float) -> Self:
        """Take `event` in, seen at `now` (monotonic seconds), and return this state."""
        self.source = event.source
        match event:
            case Planned():
                self.shards, self.weights, self.total = event.shards, event.weights, event.total_bytes
            case ShardProgress() if event.index not in self._finished:
                self._active[event.index] = ShardState(event.url, event.received, event.size)
            case ShardFinished():
                self._finish(event)
            case WeightReady():
                self.weights_done, self.weights = event.done, event.total
            case Finished():
                self._complete()
            case _:
                pass
        self._sample(now)
        return self

    @property
    def done(self) -> int:
        """Bytes in place."""
        if self.complete and self.total is not None:
            return self.total
        done = self._finished_bytes + sum(shard.received for shard in self._active.values())
        return done if self.total is None else min(done, self.total)

    @property
    def active(self) -> Mapping[int, ShardState]:
        """The shards under way, by index."""
        return MappingProxyType(self._active)

    @property
    def shards_done(self) -> int:
        """How many shards are in place."""
        return max(self.shards, len(self._finished)) if self.complete else len(self._finished)

    @property
    def rate(self) -> float:
        """Bytes a second, over the last few seconds; 0 until two moments can be compared."""
        if not self._samples:
            return 0.0
        then, before = self._samples[0]
        return max(0.0, (self.done - before) / (self._now - then)) if self._now > then else 0.0

    @property
    def time_left(self) -> float | None:
        """Seconds until all bytes are there at this rate; None if that cannot be said."""
        if self.complete:
            return 0.0
        rate = self.rate
        return None if self.total is None or rate == 0.0 else (self.total - self.done) / rate

    def _finish(self, event: ShardFinished) -> None:
        self._active.pop(event.index, None)
        self._finished_bytes += event.size - self._finished.get(event.index, 0)
        self._finished[event.index] = event.size

    def _complete(self) -> None:
        """Take all as done, also that of which no event was seen."""
        self.complete, self.weights_done = True, self.weights
        self._finished_bytes += sum(shard.size or shard.received for shard in self._active.values())
        self._active.clear()

    def _sample(self, now: float) -> None:
        self._now = max(now, self._now)
        if not self._samples or self._now - self._samples[-1][0] >= _SAMPLE_DISTANCE:
            self._samples.append((self._now, self.done))
        # The oldest one kept is just outside the window: else, where samples are rare, none would be left to compare.
        while len(self._samples) > 1 and self._now - self._samples[1][0] >= _RATE_WINDOW:
            self._samples.popleft()
