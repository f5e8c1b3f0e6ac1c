"""A fetch into an empty cache against programs that download to disk, and the opening of what is there against others.

Cold: one model from one nginx on loopback, eight transfers at a time, each run a process of its own; ours is hashed,
written, on the disk and mapped when the clock stops, pooch's hashed and written, those of the others written. Peak is
the high-water mark of anonymous memory above what the process had before.

Warm: a model that is in the cache, opened without asking the server (`mode="trust"`), and one value read of every
weight; beside it a safetensors file and .npz-like mapped .npy files with the same arrays, all in this process.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import anyio
import numpy as np

from benchmarks.contest import Contender, Run, contest, cost_ratio, costs, median_cost, printed
from benchmarks.hosting import Synthetic
from benchmarks.installing import has_package, install_peers, program
from benchmarks.nginx import Server, served
from benchmarks.pairs import median, paired, print_table, ratio, run
from benchmarks.peers.commands import aria2c, curl
from benchmarks.ticker import percentile_99
from tfjs_fetch import Cache, Client, WeightBundle
from tfjs_fetch.format.dtypes import Array

# How many times as fast as they.
CURL_TARGET = 1.0
ARIA2C_TARGET = 2.0
# Bytes of anonymous memory above the idle process.
MEMORY_TARGET = 80_000_000
# Seconds to open a model of 40 MB with every weight touched, and how many times as long a hundred times as many bytes.
WARM_TARGET = 0.020
WARM_GROWTH_TARGET = 1.2
# The 99th percentile of a 1 ms ticker's lag in the same loop, in seconds.
LAG_TARGET = 0.020
# What --check demands of a speed: neighbours on the same machine spoil disks above all.
_FLOOR = 0.4

_OURS, _CURL, _ARIA2C, _POOCH = "tfjs_fetch", "curl -Z", "aria2c", "pooch"
_SHARDS = Synthetic("shards", 64, 1_638_400)
_FILE = Synthetic("file", 64, 1_638_400, shard_bytes=None)
_SMALL = Synthetic("small", 100, 100_000, shard_bytes=None)
_LARGE = Synthetic("large", 100, 10_000_000, shard_bytes=None)
_MB = 1e6


def main(full: bool) -> Iterator[str]:
    """Print the tables, give what is far from its target."""
    if program("nginx") is None:
        print("nginx is not installed; --install-peers gets it", file=sys.stderr)
        raise SystemExit(2)
    models = [_SHARDS, _FILE, _SMALL, *([_LARGE] if full else [])]
    with served(models) as server:
        for title, model in (("100 x 4 MiB", _SHARDS), ("400 MiB in one file", _FILE)):
            yield from _cold(title, model, server, 9 if full else 3, full=full)
        yield from _warm(server, full=full)


def _cold(title: str, model: Synthetic, server: Server, rounds: int, *, full: bool) -> Iterator[str]:
    contenders = _contenders(model, server, full=full)
    runs = contest(contenders, server.digests[model.name], rounds)
    rows = []
    for name in runs:
        wall, cpu, peak = (median_cost(runs, name, cost) for cost in ("wall", "cpu", "peak"))
        assert wall is not None
        assert cpu is not None
        figures = (f"{wall:.3f}", f"{model.stored_bytes / wall / _MB:,.0f}", f"{cpu:.2f}")
        shown = "" if peak is None else f"{peak / _MB:,.0f}"
        rows.append((name, *figures, shown, f"{cost_ratio(runs, name, _OURS, 'wall'):.2f}"))
    columns = ("by", "seconds", "MB/s", "CPU s", "peak, MB", "time, of ours")
    print_table(f"{title}, to disk: {model.stored_bytes / _MB:,.0f} MB", columns, rows)
    for peer, target in ((_CURL, CURL_TARGET), (_ARIA2C, ARIA2C_TARGET)):
        if peer in runs:
            found = cost_ratio(runs, peer, _OURS, "wall")
            print(f"{title}: {found:.2f} times as fast as {peer}, target {target}")
            if found < target * _FLOOR:
                yield f"{title}: {found:.2f} times as fast as {peer}, far from {target}"
    peak = max(costs(runs, _OURS, "peak"))
    print(f"{title}: peak memory {peak / _MB:.0f} MB, target {MEMORY_TARGET / _MB:.0f} MB")
    if peak > MEMORY_TARGET:
        yield f"{title}: peak memory {peak / _MB:.0f} MB"
    lag = percentile_99([printed([*_ours(model, server), "--lags"], {}) for _ in range(rounds)], list)
    print(f"{title}: lag of a 1 ms ticker, 99th percentile, {lag * 1000:.1f} ms, target {LAG_TARGET * 1000:.0f} ms")
    if lag > 2 * LAG_TARGET:
        yield f"{title}: lag {lag * 1000:.1f} ms"


def _contenders(model: Synthetic, server: Server, *, full: bool) -> Mapping[str, Contender]:
    base = f"{server.http}/{model.name}/"
    found: dict[str, Contender] = {_OURS: partial(_measured, _ours(model, server))}
    if (path := program("curl")) is not None:
        found[_CURL] = partial(curl, path, base, model.paths)
    if full and (path := program("aria2c")) is not None:
        found[_ARIA2C] = partial(aria2c, path, base, model.paths)
    if full and has_package("pooch"):
        command = [sys.executable, "-m", "benchmarks.peers.pooch", f"{base}model.json"]
        found[_POOCH] = partial(_measured, command)
    return found


def _ours(model: Synthetic, server: Server) -> Sequence[str]:
    return [sys.executable, "-m", "benchmarks.peers.kept", f"{server.http}/{model.name}/model.json"]


def _measured(command: Sequence[str], with_digest: bool) -> Run:
    return Run(**printed([*command, "--digest"] if with_digest else command, {}))


def _warm(server: Server, *, full: bool) -> Iterator[str]:
    models = (_SMALL, _LARGE) if full else (_SMALL,)
    rows, seconds = [], {}
    with tempfile.TemporaryDirectory() as directory:
        for model in models:
            works = _openings(model, server, Path(directory))
            rounds = paired(works, 15, repeat=3)
            seconds[model] = median(rounds, _OURS) / 3
            for name in works:
                spent = median(rounds, name) / 3
                size = f"{model.stored_bytes / _MB:,.0f} MB"
                rows.append((f"{size}, {name}", f"{spent * 1000:.2f}", f"{ratio(rounds, name, _OURS):.2f}"))
    print_table("Opened, one value of each of 100 weights read", ("by", "ms", "time, of ours"), rows)
    if seconds[_SMALL] > WARM_TARGET:
        yield f"a model of 40 MB is open after {seconds[_SMALL] * 1000:.1f} ms"
    if full:
        growth = seconds[_LARGE] / seconds[_SMALL]
        print(f"4 GB takes {growth:.2f} times as long as 40 MB, target {WARM_GROWTH_TARGET}")
        if growth > WARM_GROWTH_TARGET * 1.5:
            yield f"4 GB takes {growth:.2f} times as long as 40 MB"


def _openings(model: Synthetic, server: Server, directory: Path) -> Mapping[str, Callable[[], object]]:
    url, cache = f"{server.http}/{model.name}/model.json", directory / "cache"
    bundle = anyio.run(_fetched, url, Cache(cache))
    found: dict[str, Callable[[], object]] = {_OURS: partial(_open, url, Cache(cache, mode="trust"))}
    arrays = directory / f"{model.name}-npy"
    arrays.mkdir()
    for index, array in enumerate(bundle.values()):
        np.save(arrays / f"{index}.npy", array)
    found["np.load(mmap_mode='r')"] = partial(_open_npy, arrays)
    if has_package("safetensors"):
        from safetensors.numpy import save_file

        save_file(dict(bundle), directory / f"{model.name}.safetensors")
        found["safetensors"] = partial(_open_safetensors, directory / f"{model.name}.safetensors")
    return found


async def _fetched(url: str, cache: Cache) -> WeightBundle:
    async with Client(cache=cache) as client:
        return await client.fetch(url)


def _open(url: str, cache: Cache) -> None:
    _touch(anyio.run(_fetched, url, cache).values())


def _open_npy(directory: Path) -> None:
    _touch(np.load(path, mmap_mode="r") for path in directory.iterdir())


def _open_safetensors(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        _touch(file.get_slice(name)[:1] for name in file.keys())  # noqa: SIM118 - it is no mapping


def _touch(arrays: Iterable[Array]) -> None:
    for array in arrays:
        assert array.reshape(-1)[0] != np.inf


if __name__ == "__main__":
    run(__doc__, main, install_peers)
