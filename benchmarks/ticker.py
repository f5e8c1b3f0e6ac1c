"""A ticker in an event loop, whose lag tells how long the loop is held.

Two views of the same ticks. A tick's lag is how much later than its millisecond it came; while the loop is held there
are no ticks, so a long hold is a single late one among many. The lag of a moment weighs each hold by its length: it is
how long something that becomes due at any moment has to wait. The second is the stricter.
"""

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import anyio

_TICK = 0.001

Work: TypeAlias = Callable[[], Awaitable[object]]


async def lags_during(work: Work) -> Sequence[float]:
    """Return the lag of each tick while `work` runs."""
    lags: list[float] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_tick, lags)
        # The first ticks see the loop start.
        await anyio.sleep(0.01)
        lags.clear()
        await work()
        # A hold at the very end is seen by the tick behind it.
        await anyio.sleep(2 * _TICK)
        tasks.cancel_scope.cancel()
    return lags


async def _tick(lags: list[float]) -> None:
    while True:
        started = time.perf_counter()
        await anyio.sleep(_TICK)
        lags.append(time.perf_counter() - started - _TICK)


def of_moments(lags: Sequence[float]) -> Sequence[float]:
    """Return the lags of ticks that were due each millisecond, whether the loop was held or not."""
    return [lag - part * _TICK for lag in lags for part in range(1 + max(0, int(lag / _TICK)))]


def percentile_99(runs: Sequence[Sequence[float]], view: Callable[[Sequence[float]], Sequence[float]]) -> float:
    """Return the 99th percentile of a `view` of the lags, the median over the `runs`."""
    return statistics.median(statistics.quantiles(view(lags), n=100)[-1] for lags in runs)
