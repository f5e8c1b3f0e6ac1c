"""How long the event loop is held while a model is fetched and decoded: the lag of a 1 ms ticker in the same loop.

Two views of the same ticks. A tick's lag is how much later than its millisecond it came; while the loop is held there
are no ticks, so a long hold is a single late one among many. The lag of a moment weighs each hold by its length: it is
how long something that becomes due at any moment of the load has to wait. The second is the stricter, and both must
keep to the target. The columns are medians over the runs; the longest hold is that of all runs. The idle rows are what
the machine does without us: on a busy one the figures below them mean little.

Tens of thousands of weights miss the target, and are shown without being held to it: a pass of Python's garbage
collector over so many objects takes longer than that by itself.
"""

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

import anyio

from benchmarks.hosting import Synthetic, hosted
from benchmarks.pairs import print_table, run
from tfjs_fetch import fetch

# The 99th percentile of a 1 ms ticker's lag in the same loop, in seconds.
TARGET = 0.020

_TICK = 0.001
_MB = 1_000_000
_IDLE = "idle"
_MANY = "50,000 weights of 256 bytes"
_BACKENDS = ("asyncio", "trio")
_MODELS = (
    ("400 MB float32", Synthetic("float32", 100, _MB)),
    ("100 MB uint8, 400 MB decoded", Synthetic("uint8", 25, 4 * _MB, "uint8")),
    (_MANY, Synthetic("many", 50_000, 64)),
)

_Work = Callable[[], Awaitable[object]]


def main(full: bool) -> Iterator[str]:
    """Print the table, give the missed targets."""
    rows = []
    with hosted([model for _, model in _MODELS]) as url:
        for backend in _BACKENDS:
            works: list[tuple[str, _Work]] = [(_IDLE, partial(anyio.sleep, 0.5))]
            works += [(title, partial(fetch, f"{url}/{model.name}/model.json")) for title, model in _MODELS]
            for title, work in works:
                runs = [anyio.run(_lags, work, backend=backend) for _ in range(11 if full else 5)]
                ticks, moments = _percentile_99(runs, lambda lags: lags), _percentile_99(runs, _of_moments)
                longest = max(max(lags) for lags in runs)
                rows.append((f"{title}, {backend}", f"{sum(map(len, runs)):,}", _ms(ticks), _ms(moments), _ms(longest)))
                if title not in (_IDLE, _MANY) and max(ticks, moments) > TARGET:
                    yield f"{title} on {backend}: {_ms(ticks)} ms a tick, {_ms(moments)} ms a moment, not {_ms(TARGET)}"
    columns = ("during", "ticks", "p99 of ticks, ms", "p99 of moments, ms", "longest, ms")
    print_table("Lag of a 1 ms ticker", columns, rows)


async def _lags(work: _Work) -> Sequence[float]:
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


def _of_moments(lags: Sequence[float]) -> Sequence[float]:
    """Return the lags of ticks that were due each millisecond, whether the loop was held or not."""
    return [lag - part * _TICK for lag in lags for part in range(1 + max(0, int(lag / _TICK)))]


def _percentile_99(runs: Sequence[Sequence[float]], view: Callable[[Sequence[float]], Sequence[float]]) -> float:
    return statistics.median(statistics.quantiles(view(lags), n=100)[-1] for lags in runs)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


if __name__ == "__main__":
    run(__doc__, main)
