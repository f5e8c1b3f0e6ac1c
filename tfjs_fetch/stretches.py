"""Stretches: half-open ranges of byte positions, kept disjoint and in order."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import TypeAlias

Stretch: TypeAlias = tuple[int, int]


class Stretches:
    """Positions that are dealt with, as stretches (start, stop) that do not touch."""

    def __init__(self, stretches: Iterable[Stretch] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in stretches:
            self.add(start, stop)

    def __iter__(self) -> Iterator[Stretch]:
        return iter(zip(self._starts, self._stops, strict=True))

    def __bool__(self) -> bool:
        return bool(self._starts)

    @property
    def stop(self) -> int:
        """Where the last one ends; 0 without any."""
        return self._stops[-1] if self._stops else 0

    @property
    def size(self) -> int:
        """How many positions they have."""
        return sum(self._stops) - sum(self._starts)

    def add(self, start: int, stop: int) -> None:
        """Add the positions from `start` up to `stop`."""
        if start >= stop:
            return
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self._starts[first:last], self._stops[first:last] = [start], [stop]

    def around(self, position: int) -> tuple[bool, int | None]:
        """Return whether `position` is in one of them, and where that changes; None if it does not any more."""
        index = bisect_right(self._stops, position)
        if index == len(self._stops):
            return False, None
        inside = self._starts[index] <= position
        return inside, self._stops[index] if inside else self._starts[index]

    def gaps(self, start: int, stop: int) -> Iterator[Stretch]:
        """Yield the stretches between `start` and `stop` that are in none of them."""
        while start < stop:
            inside, change = self.around(start)
            edge = stop if change is None else min(change, stop)
            if not inside:
                yield start, edge
            start = edge


def joined(stretches: Iterable[Stretch], gap: int) -> list[Stretch]:
    """Return the stretches, given in order, with those made one that are at most `gap` apart."""
    found: list[Stretch] = []
    for start, stop in stretches:
        if found and start - found[-1][1] <= gap:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found
