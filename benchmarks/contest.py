"""Contenders that take turns, each run in a process of its own: what it took, and ratios of that.

Before each run memory is touched and let go. The host of a virtual machine takes unused memory back, and its first use
after that is several times as slow: whoever comes first would pay for all.

The first round does not count: in it the files get into the page cache, and every contender must show, by a digest,
that it has all the bytes.
"""

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from benchmarks.pairs import ratio

# A run that takes longer has hung.
SECONDS = 60.0
# As much as most contenders need.
_WARM_BYTES = 2**30

_ROOT = Path(__file__).parents[1]

Cost: TypeAlias = Literal["wall", "cpu", "peak"]


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took: `wall` and `cpu` in seconds, `peak` in bytes of memory above that before it."""

    wall: float
    cpu: float
    peak: float | None
    digest: str | None


Contender: TypeAlias = Callable[[bool], Run]  # it is told whether a digest is wanted


def contest(contenders: Mapping[str, Contender], digest: str, rounds: int) -> Mapping[str, Sequence[Run]]:
    """Return the runs of each contender, one a round."""
    for name, contender in contenders.items():
        assert contender(True).digest == digest, f"{name} brings other bytes"
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            np.empty(_WARM_BYTES, np.uint8).fill(1)
            runs[name].append(contender(False))
    return runs


def costs(runs: Mapping[str, Sequence[Run]], name: str, cost: Cost) -> Sequence[float]:
    """Return one cost of all runs of a contender; empty if that is not measured."""
    found = [getattr(run, cost) for run in runs[name]]
    return [value for value in found if value is not None]


def median_cost(runs: Mapping[str, Sequence[Run]], name: str, cost: Cost) -> float | None:
    """Return the median of one cost of a contender, None if that is not measured."""
    found = costs(runs, name, cost)
    return statistics.median(found) if found else None


def cost_ratio(runs: Mapping[str, Sequence[Run]], over: str, under: str, cost: Cost) -> float:
    """Return how many times as much `over` took as `under`: the median over the rounds."""
    return ratio({name: costs(runs, name, cost) for name in (over, under)}, over, under)


def printed(command: Sequence[str], environment: Mapping[str, str]) -> Any:
    """Return the JSON that a command prints, run with `environment` in addition to ours."""
    outcome = subprocess.run(
        command, cwd=_ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True, timeout=SECONDS
    )
    return json.loads(outcome.stdout)
