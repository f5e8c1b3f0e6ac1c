"""Stretches of positions, against sets of them."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tfjs_fetch.stretches import Stretches, joined

positions = st.integers(0, 40)
stretches = st.lists(st.tuples(positions, positions))


def members(found: list[tuple[int, int]]) -> set[int]:
    return {position for start, stop in found for position in range(start, stop)}


@given(stretches)
def test_they_hold_what_was_added_in_order_and_apart(added: list[tuple[int, int]]) -> None:
    found = list(Stretches(added))

    assert members(found) == members(added)
    assert all(start < stop for start, stop in found)
    assert all(before[1] < after[0] for before, after in pairwise(found))
    assert Stretches(added).size == len(members(added))
    assert Stretches(added).stop == max(members(added), default=-1) + 1
    assert bool(Stretches(added)) == bool(members(added))


@given(stretches, positions)
def test_they_tell_whether_a_position_is_in_them_and_where_that_changes(added: list[tuple[int, int]], at: int) -> None:
    inside, change = Stretches(added).around(at)

    held = members(added)
    assert inside == (at in held)
    assert change == next((later for later in range(at, 42) if (later in held) != inside), None)


@given(stretches, positions, positions)
def test_gaps_are_what_is_not_in_them(added: list[tuple[int, int]], start: int, stop: int) -> None:
    gaps = list(Stretches(added).gaps(start, stop))

    assert members(gaps) == set(range(start, stop)) - members(added)
    assert gaps == list(Stretches(gaps))


def test_stretches_that_are_near_to_each_other_are_joined() -> None:
    assert joined([(0, 3), (5, 9), (12, 13), (13, 14)], gap=2) == [(0, 9), (12, 14)]
    assert joined([], gap=2) == []
