"""Whose memory a decoded array lives in, and what the bookkeeping of the GroupDecoder costs."""

import mmap
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.format.groups import layout_of, spec
from tfjs_fetch.format.decoding import Buffer, GroupDecoder, stored_values
from tfjs_fetch.format.dtypes import Array
from tfjs_fetch.format.layout import GroupLayout

_UINT8 = {"dtype": "uint8", "min": 0, "scale": 2}


def aligned(size: int) -> Array:
    """Return memory that begins at a multiple of eight."""
    return np.zeros(size // 8 + 1, np.uint64).view(np.uint8)[:size]


def only(memory: Array, entry: dict[str, Any], at: int = 0) -> tuple[GroupDecoder, Array]:
    """Decode the weight `entry`, which lies behind `at` bytes."""
    decoder = GroupDecoder(layout_of(spec("before", [at], "uint8"), entry), memory.data)
    weight = decoder.add(0, len(memory))[-1]
    return decoder, decoder.decode(weight)


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        *[("float32", [2, 1], 8), ("int32", [2], 8), ("complex64", [1], 8), ("bool", [8], 8), ("float32", [], 4)],
        *[("float16", [4], 8), ("uint8", [8], 8), ("uint16", [2, 2], 8)],
    ],
)
def test_an_aligned_weight_is_a_view_of_the_memory(dtype: str, shape: list[int], size: int) -> None:
    memory = aligned(size)

    _, array = only(memory, spec("w", shape, dtype))

    assert np.shares_memory(array, memory)
    assert (array.shape, array.dtype) == (tuple(shape), np.dtype(dtype))


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 8), ("int32", 8), ("complex64", 16), ("float16", 4), ("uint16", 4)]
)
@pytest.mark.parametrize("at", [1, 3])
def test_an_unaligned_weight_is_a_copy_that_is_aligned(dtype: str, size: int, at: int) -> None:
    memory = aligned(at + size)

    _, array = only(memory, spec("w", [2], dtype), at)

    assert not np.shares_memory(array, memory)
    assert array.flags.aligned


def test_bytes_need_no_alignment() -> None:
    memory = aligned(3)

    _, array = only(memory, spec("w", [2], "bool"), at=1)

    assert np.shares_memory(array, memory)


def test_a_bool_that_is_neither_0_nor_1_is_a_copy_and_the_memory_stays() -> None:
    memory = aligned(1)
    memory[0] = 7

    _, array = only(memory, spec("w", [1], "bool"))

    assert (array.tolist(), memory.tolist()) == ([True], [7])


@pytest.mark.parametrize(
    ("entry", "size"),
    [
        (spec("w", [1]), 4),
        (spec("w", []), 4),
        (spec("w", [0]), 0),
        (spec("w", [2], "bool"), 2),
        (spec("w", [4], quantization=_UINT8), 4),
        (spec("w", [], "int32", quantization=_UINT8), 1),
        (spec("w", [2], quantization={"dtype": "float16"}), 4),
        (spec("w", [1], "string"), 4),
    ],
)
@pytest.mark.parametrize("at", [0, 1])
def test_hazard_37_arrays_are_read_only_whether_view_or_copy(entry: dict[str, Any], size: int, at: int) -> None:
    memory = aligned(at + size)
    decoder = GroupDecoder(layout_of(spec("before", [at], "uint8"), entry), memory.data)
    weights = (*decoder.empty, *decoder.add(0, len(memory)))
    weight = next(weight for weight in weights if weight.spec.name == "w")

    assert not decoder.decode(weight).flags.writeable
    assert not stored_values(weight.spec, decoder.data(weight)).flags.writeable


@pytest.mark.parametrize("dtype", ["float32", "bool", "uint16"])
def test_a_view_cannot_be_made_writable(dtype: str) -> None:
    _, array = only(aligned(8), spec("w", [2], dtype))

    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)


def test_the_bytes_of_a_weight_are_lent_read_only() -> None:
    memory = aligned(8)
    decoder, _ = only(memory, spec("w", [1]), at=4)
    memory[:] = range(8)

    lent = decoder.data(decoder.weights[1])

    assert (bytes(lent), lent.readonly) == (bytes([4, 5, 6, 7]), True)


def test_memory_filled_after_a_view_was_made_shows_in_it() -> None:
    memory = aligned(4)
    _, array = only(memory, spec("w", [1], "int32"))

    memory[0] = 5

    assert array.tolist() == [5]


_TWO_FLOATS = struct.pack("<2f", 1, 2)


@pytest.mark.parametrize(
    "memory",
    [_TWO_FLOATS, bytearray(_TWO_FLOATS), memoryview(_TWO_FLOATS), np.frombuffer(_TWO_FLOATS, np.float64)],
    ids=type,
)
def test_any_memory_will_do(memory: Buffer) -> None:
    decoder = GroupDecoder(layout_of(spec("w", [2])), memory)

    assert decoder.decode(*decoder.add(0, 8)).tolist() == [1, 2]


def test_a_mapped_file_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(_TWO_FLOATS)
    with (tmp_path / "w").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    decoder = GroupDecoder(layout_of(spec("w", [2])), mapped)
    array = decoder.decode(*decoder.add(0, 8))

    assert np.shares_memory(array, np.frombuffer(mapped, np.uint8))


def test_memory_may_begin_inside_the_group() -> None:
    layout = layout_of(spec("a", [1], "int32"), spec("b", [1], "int32"), spec("c", [1], "int32"))
    part = GroupLayout(0, layout.paths, layout.specs[1:], layout.weights[1:], 8)

    decoder = GroupDecoder(part, struct.pack("<2i", 5, 6), start=4)

    assert [decoder.decode(weight).tolist() for weight in decoder.add(4, 12)] == [[5], [6]]


def test_strings_may_begin_inside_the_memory_only_at_its_start() -> None:
    layout = layout_of(spec("text", [2], "string"))
    decoder = GroupDecoder(layout, b"\1\0\0\0a\0\0\0\0", start=100)

    assert decoder.add(100, 105) == ()
    (weight,) = decoder.add(105, 109)

    assert decoder.weights == (weight,)


# Who is told what, and when


def test_weights_without_values_are_whole_from_the_beginning_and_never_announced() -> None:
    layout = layout_of(spec("a", [0]), spec("b", [1], "bool"), spec("c", [2, 0], "string"), spec("d", [1], "bool"))
    decoder = GroupDecoder(layout, bytes(2))

    assert [weight.spec.name for weight in decoder.empty] == ["a", "c"]
    assert [weight.spec.name for weight in decoder.add(0, 2)] == ["b", "d"]


def test_a_weight_is_announced_once_however_often_its_bytes_are() -> None:
    decoder = GroupDecoder(layout_of(spec("a", [1]), spec("b", [1])), bytes(8))

    announced = [len(decoder.add(*ends)) for ends in [(0, 4), (0, 4), (2, 6), (0, 8), (0, 8), (8, 8)]]

    assert announced == [1, 0, 0, 1, 0, 0]


def test_a_weight_whose_bytes_come_anew_is_announced_anew() -> None:
    decoder = GroupDecoder(layout_of(spec("a", [1]), spec("b", [1])), bytes(8))
    decoder.add(0, 8)

    decoder.discard(5, 6)

    assert [weight.spec.name for weight in decoder.add(0, 8)] == ["b"]


@pytest.mark.parametrize("ends", [(2, 2), (0, 0), (4, 4), (3, 1)])
def test_discarding_nothing_changes_nothing(ends: tuple[int, int]) -> None:
    decoder = GroupDecoder(layout_of(spec("a", [1])), bytes(4))
    decoder.add(0, 4)

    decoder.discard(*ends)

    assert [decoder.add(1, 3), decoder.add(0, 4)] == [(), ()]


def test_strings_whose_bytes_come_anew_are_found_anew() -> None:
    decoder = GroupDecoder(layout_of(spec("a", [], "string")), bytes(4))
    decoder.add(0, 4)

    decoder.discard(1, 2)

    assert decoder.weights == ()
    assert [weight.spec.name for weight in decoder.add(1, 2)] == ["a"]


# Cost: nothing is quadratic (ten seconds are at least ten times what it takes)

_MANY = 100_000


def _shuffled(cuts: list[int]) -> None:
    random.Random(0).shuffle(cuts)


def _every_other_first(cuts: list[int]) -> None:
    cuts[:] = cuts[::2] + cuts[1::2]


@pytest.mark.parametrize(
    ("step", "arrange"),
    [(64 * 1024, list.copy), (4, list.copy), (8, _shuffled), (8, list.reverse), (8, _every_other_first)],
)
def test_hazard_6_a_hundred_thousand_tiny_weights_are_told_at_once(
    step: int, arrange: Callable[[list[int]], object]
) -> None:
    layout = layout_of(*(spec(str(index), []) for index in range(_MANY)))
    decoder = GroupDecoder(layout, bytes(4 * _MANY))
    cuts = list(range(0, 4 * _MANY, step))
    arrange(cuts)
    began = time.monotonic()

    announced = sum(len(decoder.add(start, start + step)) for start in cuts)

    assert announced == _MANY
    assert time.monotonic() - began < 10


def test_hazard_6_one_large_weight_in_many_small_pieces_is_told_at_once() -> None:
    decoder = GroupDecoder(layout_of(spec("w", [_MANY])), bytes(4 * _MANY))
    began = time.monotonic()

    announced = [len(decoder.add(start, start + 4)) for start in range(0, 4 * _MANY, 4)]

    assert (sum(announced), announced[-1]) == (1, 1)
    assert time.monotonic() - began < 10


def test_a_million_strings_are_found_and_decoded_soon() -> None:
    data = b"\1\0\0\0a" * 1_000_000
    decoder = GroupDecoder(layout_of(spec("w", [1_000_000], "string")), data)
    began = time.monotonic()

    array = decoder.decode(*decoder.add(0, len(data)))

    assert array[-1] == b"a"
    assert time.monotonic() - began < 10
