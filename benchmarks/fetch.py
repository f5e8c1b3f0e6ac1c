"""Throughput of a fetch against peers: the same 400 MB in 4 MiB shards from the same server, 8 transfers at a time.

`httpx` is its stock `aiter_raw`, each chunk copied to its place in memory allocated inside the clock, without any
check: what a fetch through httpx can reach at best. `curl` (where it is installed) writes the shards to disk.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import httpx
import numpy as np

from benchmarks.hosting import Synthetic, hosted
from benchmarks.pairs import median, paired, print_table, ratio, run
from tfjs_fetch import fetch
from tfjs_fetch.format.dtypes import Array

_MODEL = Synthetic("model", 100, 1_000_000)
_TRANSFERS = 8
_SECONDS = 60.0


def main(full: bool) -> Iterator[str]:
    """Print the table; there is no target yet."""
    with hosted([_MODEL]) as origin, tempfile.TemporaryDirectory() as directory:
        base = f"{origin}/{_MODEL.name}/"
        contenders: dict[str, Callable[[], object]] = {
            "tfjs_fetch": lambda: anyio.run(fetch, f"{base}model.json"),
            "httpx": lambda: anyio.run(_with_httpx, base),
        }
        if curl := shutil.which("curl"):
            contenders["curl to disk"] = lambda: _with_curl(curl, base, Path(directory))
        rounds = paired(contenders, 15 if full else 5)
    rows = []
    for name in contenders:
        seconds = median(rounds, name)
        rate = _MODEL.stored_bytes / seconds / 1e6
        rows.append((name, f"{seconds:.2f}", f"{rate:,.0f}", f"{ratio(rounds, name, 'tfjs_fetch'):.2f}"))
    print_table("400 MB in 4 MiB shards over loopback", ("by", "seconds", "MB/s", "time, of tfjs_fetch's"), rows)
    yield from ()


async def _with_httpx(base: str) -> Array:
    memory = np.empty(_MODEL.stored_bytes, np.uint8)
    limiter = anyio.CapacityLimiter(_TRANSFERS)
    limits = httpx.Limits(max_connections=_TRANSFERS, max_keepalive_connections=_TRANSFERS)
    async with httpx.AsyncClient(limits=limits) as client, anyio.create_task_group() as tasks:
        start = 0
        for path, size in zip(_MODEL.paths, _MODEL.shards, strict=True):
            tasks.start_soon(_receive, client, base + path, memory.data[start : start + size], limiter)
            start += size
    return memory


async def _receive(client: httpx.AsyncClient, url: str, memory: memoryview, limiter: anyio.CapacityLimiter) -> None:
    async with limiter, client.stream("GET", url) as response:
        start = 0
        async for chunk in response.aiter_raw():
            memory[start : start + len(chunk)] = chunk
            start += len(chunk)


def _with_curl(curl: str, base: str, directory: Path) -> None:
    files = [f'url = "{base}{path}"\noutput = "{directory / path}"' for path in _MODEL.paths]
    command = [curl, "--no-progress-meter", "--parallel", "--parallel-max", str(_TRANSFERS), "--config", "-"]
    subprocess.run(command, input="\n".join(files).encode(), check=True, capture_output=True, timeout=_SECONDS)


if __name__ == "__main__":
    run(__doc__, main)
