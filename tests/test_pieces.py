import gc
import weakref

import anyio
import numpy as np
import pytest
from anyio.lowlevel import checkpoint

from tests.format.groups import layout_of, spec
from tfjs_fetch.format.layout import GroupLayout
from tfjs_fetch.pieces import Piece, Window, bytes_before, cut
from tfjs_fetch.signals import Signal


def layout() -> GroupLayout:
    """Return weights of 8, 0, 16, 4 and 40 bytes."""
    return layout_of(spec("a", [2]), spec("none", [0]), spec("b", [4]), spec("c", []), spec("d", [10]))


def spans(pieces: list[Piece]) -> list[tuple[int, int, int]]:
    return [(piece.before, piece.start, piece.stop) for piece in pieces]


ALL = frozenset({"a", "none", "b", "c", "d"})


def test_all_weights_of_a_group_are_one_piece() -> None:
    assert spans(cut(layout(), ALL, 100, None)) == [(100, 0, 68)]


def test_chosen_weights_are_pieces_of_neighbours() -> None:
    assert spans(cut(layout(), frozenset({"a", "c", "d"}), 0, None)) == [(0, 0, 8), (8, 24, 68)]
    assert spans(cut(layout(), frozenset({"b"}), 0, None)) == [(0, 8, 24)]
    assert spans(cut(layout(), frozenset(), 0, None)) == []


def test_pieces_end_where_they_would_become_too_large_but_hold_whole_weights() -> None:
    assert spans(cut(layout(), ALL, 0, 24)) == [(0, 0, 24), (24, 24, 28), (28, 28, 68)]
    assert spans(cut(layout(), ALL, 0, 1)) == [
        (0, 0, 8),
        (8, 8, 8),
        (8, 8, 24),
        (24, 24, 28),
        (28, 28, 68),
    ]


def test_weights_without_values_are_empty_from_the_beginning() -> None:
    (piece,) = cut(layout(), ALL, 0, None)

    assert [weight.spec.name for weight in piece.empty] == ["none"]
    assert piece.left == 5


@pytest.mark.parametrize(
    ("position", "before"), [(0, 100), (4, 104), (8, 108), (20, 108), (24, 108), (30, 114), (68, 152), (1000, 152)]
)
def test_bytes_in_front_of_a_position_are_those_of_pieces(position: int, before: int) -> None:
    pieces = cut(layout(), frozenset({"a", "c", "d"}), 100, None)

    assert bytes_before(pieces, position) == before


def test_without_pieces_nothing_is_in_front() -> None:
    assert bytes_before([], 10) == 0


def test_memory_is_allocated_at_its_first_use_and_dropped_when_it_is_released() -> None:
    (piece,) = cut(layout(), frozenset({"b"}), 0, None)
    piece.memory[:] = np.arange(4, dtype="<f4").tobytes()
    (weight,) = piece.decoder.add(8, 24)
    array = piece.decoder.decode(weight)
    decoder = weakref.ref(piece.decoder)
    piece.release()
    gc.collect()

    assert piece.released
    assert decoder() is None
    assert array.tolist() == [0, 1, 2, 3]


def test_a_window_admits_what_is_less_than_so_many_bytes_ahead_of_the_consumer() -> None:
    window, pieces = Window(ahead=20), cut(layout(), ALL - {"none"}, 0, 1)

    assert [window.admits(piece.before) for piece in pieces] == [True, True, False, False]
    window.release(pieces[0])
    assert [window.admits(piece.before) for piece in pieces[1:]] == [True, True, False]


def test_a_window_without_bound_admits_everything() -> None:
    assert Window().admits(2**60)


def test_strings_do_not_move_the_window() -> None:
    window = Window(ahead=20)
    piece = Piece(layout_of(spec("text", [1], "string")), 0)
    piece.fill(b"\x60\0\0\0" + bytes(96))
    window.release(piece)

    assert not window.admits(20)


@pytest.mark.anyio
async def test_a_signal_wakes_all_that_wait_now() -> None:
    signal, woken = Signal(), list[int]()

    async def wait(number: int) -> None:
        await signal.wait()
        woken.append(number)

    with anyio.fail_after(1):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            signal.send()
            await anyio.wait_all_tasks_blocked()

            assert sorted(woken) == [0, 1, 2]
            with anyio.move_on_after(0.01) as scope:
                await signal.wait()
            assert scope.cancelled_caught


@pytest.mark.anyio
async def test_who_waits_for_the_consumer_is_counted_and_the_end_of_it_is_told() -> None:
    window, told = Window(ahead=1), list[int]()

    async def listen() -> None:
        await window.signal.wait()
        told.append(window.paused)

    with anyio.fail_after(1):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            with window.pause():
                assert window.paused == 1
                await checkpoint()
                assert told == []

    assert told == [0]
