"""A fetch against its peers: one model from one nginx on loopback, into arrays in memory, 8 transfers at a time.

Each run is a process of its own, and contenders take turns; every figure is a median, and a ratio the median of the
ratios within each round. The clock is around the fetch alone, connections and allocation of memory included; the start
of the process and imports are not, except for curl and aria2c, which write to disk and are timed as commands.
`benchmarks.peers` tells what each peer does.

CPU is that of the contender, user and system. Peak is the high-water mark of anonymous memory above what the process
had before the fetch, exact by the kernel's own count, for Python and Node alike. Lag is that of a 1 ms ticker beside
the fetch, in runs that are not timed otherwise. Over TLS everyone verifies the server against the same authority.

Peers that are not installed are left out; --install-peers gets them.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.contest import Contender, Cost, Run, contest, cost_ratio, costs, median_cost, printed
from benchmarks.hosting import Synthetic
from benchmarks.installing import has_package, install_peers, node_modules, program
from benchmarks.nginx import Server, served
from benchmarks.pairs import print_table, run
from benchmarks.peers.commands import aria2c, curl
from benchmarks.ticker import of_moments, percentile_99

# The 99th percentile of a ticker's lag, in seconds.
LAG_TARGET = 0.020
# Beyond the model itself a fetch takes at most 15 % and 40 MB of memory.
MEMORY_TARGET_FACTOR = 1.15
MEMORY_TARGET_BYTES = 40_000_000

_OURS, _HTTPX, _AIOHTTP, _OBSTORE, _CURL, _ARIA2C, _TFJS = (
    "tfjs_fetch",
    "httpx",
    "aiohttp",
    "obstore",
    "curl -Z, to disk",
    "aria2c, to disk",
    "TF.js in Node",
)
# 100 files of 4 MiB; weights cross their borders, as they do in real models.
_SHARDS = Synthetic("shards", 64, 1_638_400)
_FILE = Synthetic("file", 64, 1_638_400, shard_bytes=None)
_SMALL = Synthetic("small", 2_000, 5_000, shard_bytes=20_000, groups=2_000)
_SMALL_ONE_GROUP = Synthetic("group", 2_000, 5_000, shard_bytes=20_000)


@dataclass(frozen=True, slots=True)
class _Workload:
    title: str
    model: Synthetic
    peers: Sequence[str]
    tls: bool = False

    def url(self, server: Server) -> str:
        return f"{server.https if self.tls else server.http}/{self.model.name}/model.json"


@dataclass(frozen=True, slots=True)
class _Target:
    """A cost of ours and of a peer's: theirs is at least `factor` times ours, or with `share` ours that part of it.

    `floor` is what must hold even in a short run on a busy machine.
    """

    workload: _Workload
    peer: str
    cost: Cost
    factor: float
    floor: float
    share: bool = False


@dataclass(frozen=True, slots=True)
class _Verdict:
    what: str
    measured: str
    target: str
    met: bool
    tolerable: bool


_OVER_HTTP = _Workload("100 x 4 MiB", _SHARDS, (_HTTPX, _AIOHTTP, _OBSTORE, _CURL, _ARIA2C, _TFJS))
_OVER_TLS = _Workload("100 x 4 MiB over TLS", _SHARDS, (_HTTPX, _AIOHTTP), tls=True)
_IN_ONE_FILE = _Workload("400 MiB in one file", _FILE, (_HTTPX, _AIOHTTP, _OBSTORE, _CURL))
_IN_SMALL_FILES = _Workload("2,000 x 20 KB, a group each", _SMALL, (_HTTPX, _AIOHTTP, _CURL))
_IN_ONE_GROUP = _Workload("2,000 x 20 KB, one group", _SMALL_ONE_GROUP, (_HTTPX,))
_SHORT_WORKLOADS = (_OVER_HTTP, _OVER_TLS, _IN_SMALL_FILES)
_WORKLOADS = (_OVER_HTTP, _OVER_TLS, _IN_ONE_FILE, _IN_SMALL_FILES, _IN_ONE_GROUP)

_TARGETS = (
    _Target(_OVER_HTTP, _HTTPX, "wall", 4.0, 1.5),
    _Target(_OVER_HTTP, _AIOHTTP, "wall", 1.2, 0.6),
    _Target(_OVER_HTTP, _OBSTORE, "wall", 1.5, 0.5),
    _Target(_OVER_HTTP, _CURL, "wall", 1.0, 1.0),
    _Target(_OVER_HTTP, _TFJS, "wall", 5.0, 4.0),
    _Target(_OVER_HTTP, _TFJS, "peak", 0.45, 0.5, share=True),
    _Target(_OVER_TLS, _HTTPX, "wall", 2.5, 1.7),
    _Target(_OVER_TLS, _AIOHTTP, "wall", 1.0, 0.7),
    _Target(_OVER_TLS, _HTTPX, "cpu", 0.35, 0.5, share=True),
    _Target(_IN_SMALL_FILES, _HTTPX, "wall", 3.0, 1.5),
)
# They take most of the time, so they are left to the full depth.
_SLOW_PEERS = (_ARIA2C, _TFJS)
_COSTS = {"wall": "speed", "cpu": "CPU time", "peak": "peak memory"}


def main(full: bool) -> Iterator[str]:
    """Print the tables, give what is far from its target."""
    if program("nginx") is None:
        print("nginx is not installed; --install-peers gets it", file=sys.stderr)
        raise SystemExit(2)
    peers = [name for name in _OVER_HTTP.peers if full or name not in _SLOW_PEERS]
    missing = [name for name in peers if not _is_there(name)]
    if missing:
        print("not installed and left out:", ", ".join(missing))
    workloads, rounds = (_WORKLOADS, 9) if full else (_SHORT_WORKLOADS, 3)
    verdicts: list[_Verdict] = []
    with served({workload.model.name: workload.model for workload in workloads}.values()) as server:
        for workload in workloads:
            names = [_OURS, *(name for name in workload.peers if name in peers and name not in missing)]
            contenders = {name: _contender(name, workload, server) for name in names}
            runs = contest(contenders, server.digests[workload.model.name], rounds)
            _print_runs(workload, runs)
            verdicts += [_judge(target, runs) for target in _TARGETS if _applies(target, workload, runs)]
            verdicts.append(_judge_memory(workload, runs))
        for workload in workloads:
            verdicts.append(_judge_lag(workload, server, rounds))
    rows = [(verdict.what, verdict.measured, verdict.target, "" if verdict.met else "missed") for verdict in verdicts]
    print_table("Against the targets", ("what", "measured", "target", ""), rows)
    for verdict in verdicts:
        if not verdict.tolerable:
            yield f"{verdict.what}: {verdict.measured}, far from {verdict.target}"


def _is_there(name: str) -> bool:
    if name == _TFJS:
        return program("node") is not None and node_modules() is not None
    if name in (_CURL, _ARIA2C):
        return program(name.split()[0].rstrip(",")) is not None
    return has_package(name)


def _contender(name: str, workload: _Workload, server: Server) -> Contender:
    url = workload.url(server)
    if name in (_CURL, _ARIA2C):
        download = curl if name == _CURL else aria2c
        base = url.removesuffix("model.json")
        return partial(download, str(program(name.split()[0].rstrip(","))), base, workload.model.paths)
    return partial(_measured, _command(name, url), _environment(server))


def _command(name: str, url: str) -> Sequence[str]:
    if name == _TFJS:
        return [str(program("node")), "benchmarks/peers/tfjs.cjs", url]
    module = "ours" if name == _OURS else name
    return [sys.executable, "-m", f"benchmarks.peers.{module}", url]


def _environment(server: Server) -> Mapping[str, str]:
    return {"SSL_CERT_FILE": str(server.authority), "NODE_PATH": str(node_modules())}


def _measured(command: Sequence[str], environment: Mapping[str, str], with_digest: bool) -> Run:
    return Run(**printed([*command, "--digest"] if with_digest else command, environment))


def _print_runs(workload: _Workload, runs: Mapping[str, Sequence[Run]]) -> None:
    size, requests = workload.model.stored_bytes, len(workload.model.paths)
    rows = []
    for name in runs:
        wall, cpu, peak = (median_cost(runs, name, cost) for cost in ("wall", "cpu", "peak"))
        assert wall is not None
        assert cpu is not None
        shown = "" if peak is None else f"{peak / 1e6:,.0f}"
        figures = (f"{wall:.3f}", f"{size / wall / 1e6:,.0f}", f"{requests / wall:,.0f}", f"{cpu / size * 1e9:.2f}")
        rows.append((name, *figures, shown, f"{cost_ratio(runs, name, _OURS, 'wall'):.2f}"))
    columns = ("by", "seconds", "MB/s", "requests/s", "CPU s/GB", "peak, MB", "time, of ours")
    print_table(f"{workload.title}: {size / 1e6:,.0f} MB", columns, rows)


def _applies(target: _Target, workload: _Workload, runs: Mapping[str, Sequence[Run]]) -> bool:
    return target.workload == workload and target.peer in runs


def _judge(target: _Target, runs: Mapping[str, Sequence[Run]]) -> _Verdict:
    over, under = (_OURS, target.peer) if target.share else (target.peer, _OURS)
    found = cost_ratio(runs, over, under, target.cost)
    met, tolerable = (found <= bound if target.share else found >= bound for bound in (target.factor, target.floor))
    what = f"{target.workload.title}: {_COSTS[target.cost]} against {target.peer}"
    wanted = f"{'<=' if target.share else '>='} {target.factor} x"
    return _Verdict(what, f"{found:.2f} x", wanted, met, tolerable)


def _judge_memory(workload: _Workload, runs: Mapping[str, Sequence[Run]]) -> _Verdict:
    """The worst run counts, as a bound is a bound."""
    peak = max(costs(runs, _OURS, "peak"))
    most = MEMORY_TARGET_FACTOR * workload.model.decoded_bytes + MEMORY_TARGET_BYTES
    met = peak <= most
    return _Verdict(f"{workload.title}: peak memory", f"{peak / 1e6:.0f} MB", f"<= {most / 1e6:.0f} MB", met, met)


def _judge_lag(workload: _Workload, server: Server, rounds: int) -> _Verdict:
    """The ticks count; `benchmarks.lag` says what the other view of them is."""
    command = [*_command(_OURS, workload.url(server)), "--lags"]
    runs = [printed(command, _environment(server)) for _ in range(rounds)]
    ticks, moments, target = (1000 * value for value in (*_lags(runs), LAG_TARGET))
    measured = f"{ticks:.1f} ms ({moments:.1f} of moments)"
    return _Verdict(
        f"{workload.title}: lag, 99th percentile", measured, f"<= {target:.1f} ms", ticks <= target, ticks <= 2 * target
    )


def _lags(runs: Sequence[Sequence[float]]) -> tuple[float, float]:
    return percentile_99(runs, list), percentile_99(runs, of_moments)


if __name__ == "__main__":
    run(__doc__, main, install_peers)
