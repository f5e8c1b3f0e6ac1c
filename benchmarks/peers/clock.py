"""What a fetch takes, as seen from inside its process, printed as one line of JSON."""

import argparse
import hashlib
import json
import resource
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TypeAlias

import anyio

from benchmarks.resident import Peak
from benchmarks.ticker import lags_during
from tfjs_fetch.format.dtypes import Array

Fetch: TypeAlias = Callable[[str], Awaitable[Iterable[Array]]]


def report(fetch: Fetch) -> None:
    """Fetch the URL on the command line, and print what it took.

    With --digest the SHA-256 of the arrays is taken, outside of the clock. With --lags nothing is printed but the lags
    of a ticker beside it, which itself takes time.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--digest", action="store_true")
    parser.add_argument("--lags", action="store_true")
    options = parser.parse_args()
    if options.lags:
        print(json.dumps(anyio.run(lags_during, partial(fetch, options.url))))
    else:
        print(json.dumps(anyio.run(_costs, fetch, options.url, options.digest)))


async def _costs(fetch: Fetch, url: str, with_digest: bool) -> Mapping[str, object]:
    peak, used, started = Peak(), _cpu_seconds(), time.perf_counter()
    arrays = await fetch(url)
    wall, cpu, above = time.perf_counter() - started, _cpu_seconds() - used, peak.above()
    return {"wall": wall, "cpu": cpu, "peak": above, "digest": _digest(arrays) if with_digest else None}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _digest(arrays: Iterable[Array]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()
