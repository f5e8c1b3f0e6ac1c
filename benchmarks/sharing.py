"""One large file over one connection, and over as many as a fetch takes by itself, from nginx on loopback.

The slow server gives each connection 20 MB/s, so that more of them bring more. The wire carries 100 MB/s, however many
connections share it, so that more of them could only cost. With `Limits(per_origin=1)` there is never a second one.
"""

import sys
import time
from collections.abc import Iterator

import anyio

from benchmarks.hosting import Synthetic
from benchmarks.installing import program
from benchmarks.nginx import served
from benchmarks.pairs import median, print_table, ratio, run
from benchmarks.wire import wire
from tfjs_fetch import Client, Limits

# How many times as fast as one connection: where each is slow, and where all of them together are.
SLOW_TARGET = 3.5
WIRE_TARGET = 0.95

_SHARED, _ALONE = "shared out", "one connection"
_SLOW = Synthetic("large", 100, 250_000, shard_bytes=None)
_WIDE = Synthetic("larger", 100, 1_000_000, shard_bytes=None)
_WIRE_RATE = 100e6


def main(full: bool) -> Iterator[str]:
    """Print the table, give the missed targets."""
    if program("nginx") is None:
        print("nginx is not installed", file=sys.stderr)
        raise SystemExit(2)
    rows, rounds = [], 3 if full else 1
    with served([_SLOW, _WIDE]) as server, wire(server.http, _WIRE_RATE) as narrow:
        cases = (
            ("100 MB, 20 MB/s a connection", f"{server.http}/slow/large/model.json", _SLOW, SLOW_TARGET),
            ("400 MB, 100 MB/s in all", f"{narrow}/larger/model.json", _WIDE, WIRE_TARGET),
        )
        for title, url, model, target in cases:
            limits = {_SHARED: Limits(), _ALONE: Limits(per_origin=1)}
            seconds: dict[str, list[float]] = {name: [] for name in limits}
            for _ in range(rounds):
                for name, limit in limits.items():
                    seconds[name].append(anyio.run(_seconds, url, limit, model.stored_bytes))
            speed = ratio(seconds, _ALONE, _SHARED)
            rows.append((title, *(f"{median(seconds, name):.2f}" for name in limits), f"{speed:.2f}", f">= {target}"))
            if speed < target:
                yield f"{title}: {speed:.2f} times as fast, not {target}"
    print_table("One file", ("file", *(f"{name}, s" for name in (_SHARED, _ALONE)), "as fast", "target"), rows)


async def _seconds(url: str, limits: Limits, size: int) -> float:
    async with Client(limits=limits, cache=None) as client:
        started = time.perf_counter()
        bundle = await client.fetch(url)
        seconds = time.perf_counter() - started
    assert bundle.nbytes == size
    return seconds


if __name__ == "__main__":
    run(__doc__, main)
