"""Contenders side by side: paired runs, medians, ratios, and the table of them.

The machine's mood changes from second to second, so contenders take turns (A B A B ...) and a ratio is the median of
the ratios within each round: what slows a whole round down cancels out.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

Rounds: TypeAlias = Mapping[str, Sequence[float]]

_SPACE = "  "


def run(
    description: str | None, measure: Callable[[bool], Iterable[str]], install: Callable[[], object] | None = None
) -> None:
    """Run `measure(full)`, which prints its table and gives the missed targets; with --check they exit with 1.

    Where there is an `install` it is run before that if --install-peers asks for it.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", choices=("short", "full"), default="short", help="full has more sizes and rounds")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    if install is not None:
        parser.add_argument("--install-peers", action="store_true", help="install the peers that are missing")
    options = parser.parse_args()
    if install is not None and options.install_peers:
        install()
    misses = list(measure(options.depth == "full"))
    for miss in misses:
        print(f"missed: {miss}")
    raise SystemExit(1 if misses and options.check else 0)


def paired(contenders: Mapping[str, Callable[[], object]], rounds: int, *, repeat: int = 1) -> Rounds:
    """Return the seconds of each contender in each round, after one round that does not count.

    A contender runs `repeat` times in a row in each round, for what is too short to be timed alone.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            spent = _seconds(contender, repeat)
            if number:
                seconds[name].append(spent)
    return seconds


def median(rounds: Rounds, name: str) -> float:
    """Return the median of the seconds of one contender."""
    return statistics.median(rounds[name])


def ratio(rounds: Rounds, over: str, under: str) -> float:
    """Return how many times as long `over` took as `under`: the median over the rounds."""
    return statistics.median(a / b for a, b in zip(rounds[over], rounds[under], strict=True))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: the first column to the left, numbers to the right."""
    lines = [columns, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    print(f"\n{title}\n")
    for line in lines:
        first, *rest = (f"{text:>{width}}" for text, width in zip(line, widths, strict=True))
        print(_SPACE.join((line[0].ljust(len(first)), *rest)).rstrip())
    print(flush=True)


def _seconds(contender: Callable[[], object], repeat: int) -> float:
    # The rubbish of one contender is not to be paid for by the next.
    gc.collect()
    started = time.perf_counter()
    for _ in range(repeat):
        contender()
    return (time.perf_counter() - started) / repeat
