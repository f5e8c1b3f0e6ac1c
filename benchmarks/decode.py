"""Dequantization through the package's own path against numpy's plain expression for the same bits.

uint8 and uint16 against `(q * scale + min).astype(np.float32)`, float16 against `astype`; the allocation of the result
is inside the clock for both. Results are compared bit for bit before anything is timed.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from benchmarks.pairs import median, paired, print_table, ratio, run
from tfjs_fetch.format.dtypes import Array
from tfjs_fetch.format.quantization import dequantize, widen

# Dequantization of large arrays is at least twice as fast as numpy's plain expression.
AFFINE_TARGET = 2.0
# "Large", as measured: the full table crosses the target between 3 and 7 million values. Below, the intermediates of
# the plain expression are reused by malloc (up to 32 MiB) and stay in the last-level cache; what is left to win is
# about 1.5 times. Behind it each of them is fresh memory.
LARGE = 10_000_000
# Float16 is at least as fast as `astype`. It is `astype`, so all below 1 is noise; two equal
# contenders were seen to differ by so much in the median of their ratios.
FLOAT16_TARGET = 1.0
NOISE = 0.05

_SCALE, _MIN = 0.0123456789, -1.28
_SIZES = (10_000, 1_000_000, 10_000_000)
_MORE_SIZES = (100_000, 3_000_000, 5_000_000, 7_000_000, 20_000_000, 50_000_000)
# A run is to take some milliseconds at least: so many values are decoded in it.
_VALUES_A_RUN = 1_000_000


def main(full: bool) -> Iterator[str]:
    """Print the table, give the missed targets."""
    rows: list[Sequence[str]] = []
    for kind in ("uint8", "uint16", "float16"):
        for size in sorted(_SIZES + _MORE_SIZES * full):
            ours, peer = _contenders(kind, size)
            assert ours().tobytes() == peer().tobytes(), f"{kind} differs from numpy"
            rounds = paired({"ours": ours, "numpy": peer}, 15 if full else 7, repeat=max(1, _VALUES_A_RUN // size))
            speed = ratio(rounds, "numpy", "ours")
            times = [f"{median(rounds, name) * 1000:.3f}" for name in rounds]
            rows.append((kind, f"{size:,}", *times, f"{speed:.2f}"))
            if speed < _target(kind, size):
                yield f"{kind}, {size:,} values: {speed:.2f} times as fast as numpy, not {_target(kind, size):.2f}"
    print_table("Dequantization to float32", ("stored", "values", "ours, ms", "numpy, ms", "times as fast"), rows)


def _contenders(kind: str, size: int) -> tuple[Callable[[], Array], Callable[[], Array]]:
    numbers = np.random.default_rng(size)
    if kind == "float16":
        halves = numbers.standard_normal(size, np.float32).astype(np.float16)
        return partial(widen, halves), partial(halves.astype, np.float32)
    values = numbers.integers(0, np.iinfo(kind).max, size, kind, endpoint=True)
    return partial(dequantize, values, _SCALE, _MIN, "float32"), partial(_plain, values)


def _plain(values: Array) -> Array:
    return (values * _SCALE + _MIN).astype(np.float32)


def _target(kind: str, size: int) -> float:
    if kind == "float16":
        return FLOAT16_TARGET - NOISE
    return AFFINE_TARGET if size >= LARGE else 0.0


if __name__ == "__main__":
    run(__doc__, main)
