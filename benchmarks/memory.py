"""The peak of anonymous memory above the idle process, while a model is fetched or streamed.

Each figure comes from a process of its own that has imported everything, made a client and fetched a tiny model with
it; `benchmarks.resident` says how the peak from then on is found. Linux only.
Some models are fetched several times, each bundle dropped before the next fetch: its memory must be gone by then.

Of several runs the worst counts, as a bound is a bound.
"""

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import anyio

from benchmarks.hosting import Synthetic, hosted
from benchmarks.pairs import print_table, run
from benchmarks.resident import Peak
from tfjs_fetch import Client

_MB = 1_000_000
# At most 1.15 times the decoded model and 40 MB, plus the stored bytes of quantized models.
FETCH_TARGET_FACTOR = 1.15
FETCH_TARGET_BYTES = 40 * _MB
# A 2 GB model is streamed in less.
STREAM_TARGET_BYTES = 250 * _MB

_Action = Literal["fetch", "stream"]
_TINY = Synthetic("tiny", 4, 16)
_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class _Case:
    title: str
    action: _Action
    model: Synthetic
    times: int = 1

    @property
    def target(self) -> float:
        """The bytes it may take."""
        if self.action == "stream":
            return STREAM_TARGET_BYTES
        stored = self.model.stored_bytes if self.model.stored != "float32" else 0
        return FETCH_TARGET_FACTOR * self.model.decoded_bytes + FETCH_TARGET_BYTES + stored


_CASES = (
    _Case("fetch, 400 MB float32, 4 MiB shards", "fetch", Synthetic("shards", 100, _MB)),
    _Case("fetch, 400 MB float32, one file", "fetch", Synthetic("file", 100, _MB, shard_bytes=None)),
    _Case("fetch, 100 MB uint8, 400 MB decoded", "fetch", Synthetic("uint8", 25, 4 * _MB, "uint8")),
    _Case("fetch, 400 MB float32, three times", "fetch", Synthetic("thrice", 100, _MB), 3),
    _Case("stream, 2 GB float32, 4 MiB shards", "stream", Synthetic("large", 500, _MB)),
    _Case("stream, 2 GB float32, one file", "stream", Synthetic("largefile", 500, _MB, shard_bytes=None)),
    _Case("stream, 500 MB uint8, 2 GB decoded", "stream", Synthetic("large8", 500, _MB, "uint8")),
)


def main(full: bool) -> Iterator[str]:
    """Print the table, give the missed targets."""
    rows = []
    with hosted([_TINY, *(case.model for case in _CASES)]) as url:
        for case in _CASES:
            runs = [_in_process(url, case) for _ in range(5 if full else 1)]
            peak, seconds = max(peak for peak, _ in runs), min(seconds for _, seconds in runs)
            rows.append((case.title, _mb(peak), _mb(case.target), f"{peak / case.target:.2f}", f"{seconds:.1f}"))
            if peak > case.target:
                yield f"{case.title}: {_mb(peak)} MB, not {_mb(case.target)} MB"
    print_table("Peak of anonymous memory above idle", ("what", "MB", "at most", "of that", "seconds"), rows)


def _in_process(url: str, case: _Case) -> tuple[int, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply_async(_peak, (url, case)).get(_SECONDS)


def _peak(url: str, case: _Case) -> tuple[int, float]:
    """Return the peak in bytes above the idle process, and the seconds it took."""
    return anyio.run(_measure, url, case)


async def _measure(url: str, case: _Case) -> tuple[int, float]:
    source = f"{url}/{case.model.name}/model.json"
    async with Client(cache=None) as client:
        await client.fetch(f"{url}/{_TINY.name}/model.json")
        peak = Peak()
        started = time.perf_counter()
        for _ in range(case.times):
            # What comes back is dropped at the end of each turn.
            await (client.fetch(source) if case.action == "fetch" else _streamed(client, source))
        seconds = time.perf_counter() - started
        above = peak.above()
    return above, seconds


async def _streamed(client: Client, source: str) -> int:
    values = 0
    async with client.stream(source) as weights:
        async for _, array in weights:
            values += array.size
    return values


def _mb(size: float) -> str:
    return f"{size / _MB:.0f}"


if __name__ == "__main__":
    run(__doc__, main)
