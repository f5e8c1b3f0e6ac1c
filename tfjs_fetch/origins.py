"""What a client knows of each origin (scheme, host, port): how many may ask it, when, and what it is able to do."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import anyio

from tfjs_fetch.config import Limits
from tfjs_fetch.signals import Signal
from tfjs_fetch.urls import origin

# Retries that an origin is worth: so many, and one more for every so many requests.
_FREE_RETRIES = 20
_REQUESTS_A_RETRY = 10
# Rounds of good answers at most before an origin that was overloaded is asked for more.
_MOST_PATIENCE = 64
# Seconds that others wait for the one that tries to reach an origin.
_SEEKING_SECONDS = 3.0
# An origin that gave whole files so often where parts were asked for, and never a part, gives none.
_MOST_REFUSALS = 3


class Origins:
    """All origins of a client. Bounds the transfers at one time, of each and in all."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all = anyio.CapacityLimiter(limits.connections)
        self._origins: dict[tuple[str, str, int], Origin] = {}

    def at(self, url: str) -> "Origin":
        """Return the origin of `url`."""
        key = origin(url)
        if key not in self._origins:
            self._origins[key] = Origin(self._limits.per_origin)
        return self._origins[key]

    def slot(self, url: str) -> "Slot":
        """Return a slot, not yet acquired, for a transfer from `url`; they are granted in the order they are asked."""
        return Slot((self.at(url).transfers, self._all))


class Origin:
    """One origin: `transfers` bounds those at one time, `ranges` tells whether it gives parts of files (None: unknown).

    While it answers that it is overloaded (429, 503), no more requests than that bound are under way; after a round of
    good answers there is one more again, and the more often that was too many, the more rounds it takes. While it
    cannot be reached, one transfer tries, and the others wait for it.
    """

    def __init__(self, most: int) -> None:
        self.transfers = anyio.CapacityLimiter(most)
        self.ranges: bool | None = None
        self._most = most
        self._good = 0  # answers since the bound was last changed
        self._patience = 1  # so many rounds of them before more is tried
        self._refusals = 0  # ranges that were answered with whole files
        self._requests = self._retries = self._under_way = 0
        self._free_at = -math.inf
        self._freed = Signal()
        self._found = Signal()
        self._sought_since: float | None = None

    @property
    def is_paused(self) -> bool:
        """Whether it is to be left alone now."""
        return self._free_at > -math.inf and self._free_at > anyio.current_time()

    @property
    def is_busy(self) -> bool:
        """Whether it is not to be asked for anything more now."""
        bound = self.transfers.total_tokens
        return (bound < self._most and self._under_way >= bound) or self.is_paused

    @property
    def is_full(self) -> bool:
        """Whether as many requests are under way as there may be; who has a slot of its own need not ask."""
        return self._under_way >= self.transfers.total_tokens or self.is_paused

    async def ready(self, *, guest: bool = False) -> None:
        """Wait until it may be asked, as a `guest` without a slot: by another origin's redirect."""
        while self.is_full if guest else self.is_busy:
            if self.is_paused:
                await anyio.sleep_until(self._free_at)
            else:
                await self._freed.wait()

    def begin(self) -> None:
        """Take note of a request."""
        self._requests += 1
        self._under_way += 1

    def end(self) -> None:
        """Take note that a request is over."""
        self._under_way -= 1
        self._freed.send()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Take note that a request waits for something else meanwhile, and takes nobody's place."""
        self.end()
        try:
            yield
        finally:
            self._under_way += 1

    def pause(self, seconds: float) -> None:
        """Ask it for nothing meanwhile: it wants to be left alone."""
        self._free_at = max(self._free_at, anyio.current_time() + seconds)

    async def was_found(self) -> bool:
        """Return whether another transfer was trying to reach it; then it has, or has given up."""
        if self._sought_since is None:
            self._sought_since = anyio.current_time()
            return False
        # It may be held for long, where others would be served at once.
        with anyio.CancelScope(deadline=self._sought_since + _SEEKING_SECONDS):
            await self._found.wait()
        return True

    def found(self) -> None:
        """Take note that it was reached, or that who tried has given up."""
        self._sought_since = None
        self._found.send()

    def retry(self) -> bool:
        """Return whether one more retry is within the budget, and count it."""
        within = self._retries + 1 <= _FREE_RETRIES + self._requests / _REQUESTS_A_RETRY
        self._retries += within
        return within

    def gave(self, *, part: bool) -> None:
        """Take note of what was given where a part was asked for: that, or the whole."""
        if part:
            self.ranges = True
        elif self.ranges is None:
            self._refusals += 1
            # One file may be an exception.
            self.ranges = False if self._refusals >= _MOST_REFUSALS else None

    def slow_down(self) -> None:
        """Take note that it is overloaded: halve the transfers. Those under way go on."""
        if self._good:
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self._good = 0
        self.transfers.total_tokens = max(1, int(self.transfers.total_tokens) // 2)

    def speed_up(self) -> None:
        """Take note of a good answer."""
        bound = int(self.transfers.total_tokens)
        if bound == self._most:
            return
        self._good += 1
        if self._good >= bound * self._patience:
            self._good = 0
            self.transfers.total_tokens = bound + 1
            self._freed.send()


class Slot:
    """Leave for one transfer."""

    def __init__(self, limiters: Sequence[anyio.CapacityLimiter]) -> None:
        self._limiters = limiters
        self._held: list[anyio.CapacityLimiter] = []

    async def acquire(self) -> None:
        """Wait for the slot."""
        try:
            for limiter in self._limiters:
                if not _has_borrowed(limiter, self):
                    await limiter.acquire_on_behalf_of(self)
                self._held.append(limiter)
        except BaseException:
            self.release()
            raise

    def try_acquire(self) -> bool:
        """Return whether there is one nobody waits for, and take it."""
        for limiter in self._limiters:
            if not _has_borrowed(limiter, self):
                self.release()
                return False
            self._held.append(limiter)
        return True

    def renew(self) -> bool:
        """Give it to others if some wait for it; return whether it is still held."""
        self.release()
        return self.try_acquire()

    def release(self) -> None:
        """Give the slot back, if it is held."""
        while self._held:
            self._held.pop().release_on_behalf_of(self)


def _has_borrowed(limiter: anyio.CapacityLimiter, borrower: object) -> bool:
    """Return whether there was a token that nobody waits for; then it is the borrower's."""
    with suppress(anyio.WouldBlock):
        limiter.acquire_on_behalf_of_nowait(borrower)
        return True
    return False
