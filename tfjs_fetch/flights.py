"""Loads that several tasks of one client wait for: one of them leads, the others follow its progress.

The one that leads does so in its own task. If it is cancelled, or its listener raises, the next one leads.
"""

import copy
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeAlias

from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.errors import TfjsFetchError
from tfjs_fetch.events import Event, OnEvent, Planned, ShardProgress
from tfjs_fetch.opening import Events
from tfjs_fetch.signals import Signal

Load: TypeAlias = Callable[[OnEvent], Awaitable[WeightBundle]]


class Flights:
    """The loads of a client that are under way."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, _Flight] = {}

    async def join(self, key: Hashable, load: Load, progress: OnEvent) -> WeightBundle:
        """Return what `load` does, which is called only if no load of the same `key` is under way."""
        while (flight := self._under_way.get(key)) is not None:
            if (bundle := await flight.follow(progress)) is not None:
                return bundle
        flight = self._under_way[key] = _Flight()
        try:
            flight.bundle = await load(flight.beside(progress))
            return flight.bundle
        except TfjsFetchError as error:
            flight.error = error
            raise
        finally:
            del self._under_way[key]
            flight.end()


class _Flight:
    """One load; without a `bundle` or an `error` when it has ended, another has to lead."""

    def __init__(self) -> None:
        self.bundle: WeightBundle | None = None
        self.error: TfjsFetchError | None = None
        self._raised: BaseException | None = None  # what the listener of the one that leads raised
        self._told: list[Event] = []  # all but progress, for those that come later
        self._progress: dict[int, ShardProgress] = {}
        self._followers: list[deque[Event]] = []
        self._signal = Signal()
        self._ended = False

    def beside(self, progress: OnEvent) -> OnEvent:
        """Return the listener for the one that leads: tells `progress`, and the others."""

        def listener(event: Event) -> None:
            try:
                progress(event)
            except BaseException as error:
                self._raised = error
                raise
            self._tell(event)

        return listener

    def end(self) -> None:
        """Take note that the load is over."""
        self._ended = True
        if self.error is self._raised:
            self.error = None
        self._signal.send()

    async def follow(self, progress: OnEvent) -> WeightBundle | None:
        """Tell `progress` what happens, and return the bundle; None if somebody else has to lead."""
        events, news = Events(progress), deque([*self._told, *self._progress.values()])
        self._followers.append(news)
        try:
            while True:
                while news:
                    event = news.popleft()
                    if isinstance(event, Planned):
                        events.begin(event)
                    else:
                        events.take(event)
                if self._ended:
                    break
                await self._signal.wait()
        finally:
            # Not by `remove`, which takes the first of those that are equal.
            self._followers = [one for one in self._followers if one is not news]
        if self.error is not None:
            raise copy.copy(self.error) from self.error
        return self.bundle

    def _tell(self, event: Event) -> None:
        if isinstance(event, Planned):
            self._told, self._progress = [], {}
        if isinstance(event, ShardProgress):
            self._progress[event.index] = event
        else:
            self._told.append(event)
        for news in self._followers:
            news.append(event)
        self._signal.send()
