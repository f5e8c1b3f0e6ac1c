"""How long the event loop is held while a model is fetched and decoded: the lag of a 1 ms ticker in the same loop.

`benchmarks.ticker` tells the two views of the same ticks apart; both must keep to the target. The columns are medians
over the runs; the longest hold is that of all runs. The idle rows are what the machine does without us: on a busy one
the figures below them mean little.

Tens of thousands of weights miss the target, and are shown without being held to it: a pass of Python's garbage
collector over so many objects takes longer than that by itself.
"""

from collections.abc import Iterator
from functools import partial

import anyio

from benchmarks.hosting import Synthetic, hosted
from benchmarks.pairs import print_table, run
from benchmarks.ticker import Work, lags_during, of_moments, percentile_99
from tfjs_fetch import fetch

# The 99th percentile of a 1 ms ticker's lag in the same loop, in seconds.
TARGET = 0.020

_MB = 1_000_000
_IDLE = "idle"
_MANY = "50,000 weights of 256 bytes"
_BACKENDS = ("asyncio", "trio")
_MODELS = (
    ("400 MB float32", Synthetic("float32", 100, _MB)),
    ("100 MB uint8, 400 MB decoded", Synthetic("uint8", 25, 4 * _MB, "uint8")),
    (_MANY, Synthetic("many", 50_000, 64)),
)


def main(full: bool) -> Iterator[str]:
    """Print the table, give the missed targets."""
    rows = []
    with hosted([model for _, model in _MODELS]) as url:
        for backend in _BACKENDS:
            works: list[tuple[str, Work]] = [(_IDLE, partial(anyio.sleep, 0.5))]
            works += [(title, partial(fetch, f"{url}/{model.name}/model.json", cache=None)) for title, model in _MODELS]
            for title, work in works:
                runs = [anyio.run(lags_during, work, backend=backend) for _ in range(11 if full else 5)]
                ticks, moments = percentile_99(runs, lambda lags: lags), percentile_99(runs, of_moments)
                longest = max(max(lags) for lags in runs)
                rows.append((f"{title}, {backend}", f"{sum(map(len, runs)):,}", _ms(ticks), _ms(moments), _ms(longest)))
                if title not in (_IDLE, _MANY) and max(ticks, moments) > TARGET:
                    yield f"{title} on {backend}: {_ms(ticks)} ms a tick, {_ms(moments)} ms a moment, not {_ms(TARGET)}"
    columns = ("during", "ticks", "p99 of ticks, ms", "p99 of moments, ms", "longest, ms")
    print_table("Lag of a 1 ms ticker", columns, rows)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


if __name__ == "__main__":
    run(__doc__, main)
