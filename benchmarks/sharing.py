"""One large file over one connection, and over as many as a fetch takes by itself, from nginx on loopback.

The slow server gives each connection 20 MB/s, so that more of them bring more; the other one gives what it can, so that
more of them could only cost. With `Limits(per_origin=1)` there is never a second connection. The best of all rounds
counts: what comes in between, for two gigabytes of memory above all, only ever slows one down.
"""

import sys
import time
from collections.abc import Iterator

import anyio
import numpy as np

from benchmarks.hosting import Synthetic
from benchmarks.installing import program
from benchmarks.nginx import served
from benchmarks.pairs import print_table, run
from tfjs_fetch import Client, Limits

# How many times as fast as one connection: where each is slow, and where one is as fast as can be.
SLOW_TARGET = 3.5
FAST_TARGET = 0.95
# What --check demands of that: one and the same fetch differs by a quarter from one time to the next.
_FAST_FLOOR = 0.7

_SHARED, _ALONE = "shared out", "one connection"
_SMALL = Synthetic("large", 100, 250_000, shard_bytes=None)
_LARGE = Synthetic("huge", 100, 5_000_000, shard_bytes=None)


def main(full: bool) -> Iterator[str]:
    """Print the table, give the missed targets."""
    if program("nginx") is None:
        print("nginx is not installed", file=sys.stderr)
        raise SystemExit(2)
    rows = []
    with served([_SMALL, _LARGE]) as server:
        cases = (
            (
                "100 MB, 20 MB/s a connection",
                f"{server.http}/slow/large/model.json",
                _SMALL,
                SLOW_TARGET,
                SLOW_TARGET,
                1,
            ),
            ("2 GB, without limit", f"{server.http}/huge/model.json", _LARGE, FAST_TARGET, _FAST_FLOOR, 3),
        )
        for title, url, model, target, floor, factor in cases:
            limits = {_SHARED: Limits(), _ALONE: Limits(per_origin=1)}
            seconds: dict[str, list[float]] = {name: [] for name in limits}
            for _ in range((3 if full else 1) * factor):
                for name, limit in limits.items():
                    seconds[name].append(_seconds(url, limit, model.stored_bytes))
            best = {name: min(found) for name, found in seconds.items()}
            speed = best[_ALONE] / best[_SHARED]
            rows.append((title, *(f"{best[name]:.2f}" for name in limits), f"{speed:.2f}", f">= {target}"))
            if speed < floor:
                yield f"{title}: {speed:.2f} times as fast, far from {target}"
    print_table("One file", ("file", *(f"{name}, s" for name in (_SHARED, _ALONE)), "as fast", "target"), rows)


def _seconds(url: str, limits: Limits, size: int) -> float:
    # As in `benchmarks.contest`: whoever touches the memory first would pay for both.
    np.empty(size, np.uint8).fill(1)
    return anyio.run(_fetch, url, limits, size)


async def _fetch(url: str, limits: Limits, size: int) -> float:
    async with Client(limits=limits) as client:
        started = time.perf_counter()
        bundle = await client.fetch(url)
        seconds = time.perf_counter() - started
    assert bundle.nbytes == size
    return seconds


if __name__ == "__main__":
    run(__doc__, main)
