import json
import struct
import time
import tracemalloc
from contextlib import suppress
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.groups import EncodedGroup, encoded_groups, layout_of, spec
from tfjs_fetch.errors import ExtraBytesError, MissingBytesError, ShardOrderError
from tfjs_fetch.format.layout import (
    GroupLayout,
    PlacedWeight,
    check_order,
    check_total,
    lay_out,
    scan,
    usual_sizes,
)
from tfjs_fetch.format.manifest import parse

_MIB = 2**20
_TWO_FLOATS_AND_A_BOOL = (spec("a", [2]), spec("b", [], "bool"), spec("c", [1]))


def places(layout: GroupLayout) -> list[tuple[str, int, int]]:
    return [(weight.spec.name, weight.start, weight.stop) for weight in layout.weights]


def test_weights_lie_one_behind_the_other_without_padding() -> None:
    layout = layout_of(
        spec("int", [2], "int32"),
        spec("bool", [], "bool"),
        spec("float", [3, 1]),
        spec("complex", [1], "complex64"),
        spec("nothing", [4, 0]),
        spec("uint8", [5], quantization={"dtype": "uint8", "min": 0, "scale": 1}),
        spec("float16", [1], quantization={"dtype": "float16"}),
    )

    assert places(layout) == [
        ("int", 0, 8),
        ("bool", 8, 9),
        ("float", 9, 21),
        ("complex", 21, 29),
        ("nothing", 29, 29),
        ("uint8", 29, 34),
        ("float16", 34, 36),
    ]
    assert layout.size == 36


def test_each_group_begins_anew() -> None:
    document = [{"paths": [name], "weights": [spec(name, [2])]} for name in "ab"]

    first, second = lay_out(parse(json.dumps(document).encode()))

    assert (first.index, first.paths, places(first), first.size) == (0, ("a",), [("a", 0, 8)], 8)
    assert (second.index, second.paths, places(second), second.size) == (1, ("b",), [("b", 0, 8)], 8)


def test_a_group_with_strings_has_no_size_and_no_places_yet() -> None:
    layout = layout_of(spec("a", [2]), spec("text", [], "string"))

    assert (layout.size, layout.weights, len(layout.specs)) == (None, (), 2)


def test_hazard_13_a_string_weight_of_no_strings_takes_no_bytes() -> None:
    layout = layout_of(spec("none", [0], "string"), spec("seven", [1], "int32"), spec("none2", [2, 0], "string"))

    assert places(layout) == [("none", 0, 0), ("seven", 0, 4), ("none2", 4, 4)]
    assert layout.size == 4


# Groups with strings, whose places follow from their bytes


def test_strings_are_found_by_their_lengths() -> None:
    layout = layout_of(
        spec("int", [], "int32"), spec("text", [2], "string"), spec("none", [0], "string"), spec("bool", [], "bool")
    )
    data = b"\7\0\0\0" + b"\1\0\0\0a" + b"\0\0\0\0" + b"\1"

    assert scan(0, layout.specs, layout.paths, memoryview(data)) == (
        PlacedWeight(layout.specs[0], 0, 4),
        PlacedWeight(layout.specs[1], 4, 13),
        PlacedWeight(layout.specs[2], 13, 13),
        PlacedWeight(layout.specs[3], 13, 14),
    )


@pytest.mark.parametrize(
    ("data", "weight", "expected"),
    [
        (b"", "text", 8),  # two lengths at least
        (b"\0\0\0", "text", 8),
        (b"\5\0\0\0ab", "text", 8),
        (b"\5\0\0\0abcd", "text", 13),  # four of five bytes, and no second string
        (b"\4\0\0\0abcd", "text", 12),
        (b"\4\0\0\0abcd\0\0\0", "text", 12),
        (b"\xff\xff\xff\xff" + b"x" * 8, "text", 4 + 0xFFFFFFFF + 4),
        (b"\0\0\0\0\0\0\0\0", "after", 9),
    ],
)
def test_hazard_15_strings_that_are_cut_short_are_an_error(data: bytes, weight: str, expected: int) -> None:
    layout = layout_of(spec("text", [2], "string"), spec("after", [], "bool"), paths=("w0", "w1"))

    with pytest.raises(MissingBytesError) as caught:
        scan(3, layout.specs, layout.paths, memoryview(data))

    error = caught.value
    assert (error.group, error.weight, error.shard) == (3, weight, "w1")
    assert (error.expected, error.got) == (expected, len(data))


def test_a_hostile_number_of_strings_is_refused_without_walking_over_them() -> None:
    layout = layout_of(spec("text", [2**31 - 1], "string"))
    began = time.monotonic()

    with pytest.raises(MissingBytesError):
        scan(0, layout.specs, layout.paths, memoryview(bytes(100)))

    assert time.monotonic() - began < 10


# Too few and too many bytes (section 2.6)


@pytest.mark.parametrize(
    ("sizes", "weight", "shard"),
    [
        ([], "a", "w0"),
        ([0, 0, 0], "a", "w2"),
        ([4, 4, 4], "c", "w2"),
        ([5, 3, 4], "c", "w1"),
        ([3, 5, 4], "c", "w0"),
        ([8, 0, 0], "b", "w1"),
        ([4, 3, 0], "a", "w1"),
    ],
)
def test_too_few_bytes_name_the_first_weight_cut_short_and_the_shard_that_looks_short(
    sizes: list[int], weight: str, shard: str
) -> None:
    layout = layout_of(*_TWO_FLOATS_AND_A_BOOL, paths=("w0", "w1", "w2"))

    with pytest.raises(MissingBytesError) as caught:
        check_total(layout, sizes, tolerate_extra=True)

    error = caught.value
    assert (error.group, error.weight, error.shard) == (0, weight, shard)
    assert (error.expected, error.got) == (13, sum(sizes))


@pytest.mark.parametrize(("sizes", "shard"), [([13, 1], "w1"), ([10, 10], "w1"), ([20, 0], "w0"), ([7, 6, 4], "w2")])
def test_hazard_15_too_many_bytes_name_the_shard_in_which_the_surplus_begins(sizes: list[int], shard: str) -> None:
    layout = layout_of(*_TWO_FLOATS_AND_A_BOOL, paths=("w0", "w1", "w2"))

    with pytest.raises(ExtraBytesError) as caught:
        check_total(layout, sizes, tolerate_extra=False)

    error = caught.value
    assert (error.group, error.shard, error.expected, error.got) == (0, shard, 13, sum(sizes))


def test_surplus_bytes_are_counted_where_they_are_tolerated() -> None:
    layout = layout_of(*_TWO_FLOATS_AND_A_BOOL)

    assert check_total(layout, [15], tolerate_extra=True) == 2
    assert check_total(layout, [13], tolerate_extra=False) == 0


def test_the_bytes_of_strings_are_counted_by_nobody_but_the_scan() -> None:
    assert check_total(layout_of(spec("text", [], "string")), [1], tolerate_extra=False) == 0


@pytest.mark.parametrize(
    ("position", "shard"), [(0, "w0"), (3, "w0"), (4, "w2"), (8, "w2"), (9, "w3"), (10, "w3"), (99, "w3")]
)
def test_a_byte_is_in_the_shard_that_its_position_says(position: int, shard: str) -> None:
    layout = layout_of(paths=("w0", "w1", "w2", "w3"))

    assert layout.shard_at(position, [4, 0, 5, 1]) == shard


def test_a_group_without_files_has_no_shard_at_any_position() -> None:
    assert layout_of(paths=()).shard_at(0, []) == ""
    assert layout_of(paths=()).first_beyond(0) == ""


# Cuts (section 6.3: slices over many buffers; upstream gives zeros for the last three)


@pytest.mark.parametrize(
    ("sizes", "start", "stop"),
    [
        ((4, 4, 4, 4, 1), 1, 13),
        ((4, 4, 4, 4, 1), 5, 17),
        ((3, 5, 4, 5), 0, 17),
        ((3, 5, 4, 5), 7, 17),
        ((3, 5, 4, 5), 13, 15),
        ((3, 5, 4, 5), 9, 13),
        ((4, 16), 8, 12),
        ((0, 4), 0, 4),
        ((4, 4, 12), 12, 20),
    ],
)
def test_hazard_1_weights_across_cuts_keep_their_bytes(sizes: tuple[int, ...], start: int, stop: int) -> None:
    data = bytes(range(sum(sizes)))
    shards = [data[low:high] for low, high in pairwise((0, *accumulate(sizes)))]
    layout = layout_of(spec("before", [start], "uint8"), spec("w", [stop - start], "uint8"))

    placed = layout.weights[1]

    assert b"".join(shards)[placed.start : placed.stop] == bytes(range(start, stop))


# Names that tell the order


@pytest.mark.parametrize(
    "paths",
    [
        [],
        ["w"],
        ["b", "a"],
        ["group1-shard1of1.bin"],
        ["group1-shard1of1"],
        ["group1-shard1of3.bin", "group1-shard2of3.bin", "group1-shard3of3.bin"],
        ["w0of2", "w1of2"],
        ["1of2", "2of2"],
        ["./x/shard01of02.bin?sig=a", "./x/shard02of02.bin?sig=b"],
        ["model-2of5-shard1of2", "model-2of5-shard2of2"],
        ["a1of2", "a2of2", "b1of1"],
        ["w2of2", "w1of2", "else"],  # not all are named so
        ["w12345678901of2", "w2of2"],  # no number that anyone would give
    ],
)
def test_names_in_order_and_names_that_say_nothing_pass(paths: list[str]) -> None:
    check_order(0, paths)


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        (["w2of2", "w1of2"], "of the shards w…of2 the order is 2, 1"),
        (["w1of2.bin"], "of the shards w…of2.bin 1 are listed, number 2 is missing"),
        (["w2of3", "w3of3"], "of the shards w…of3 2 are listed, number 1 is missing"),
        (["w1of2", "w1of2"], "of the shards w…of2 number 1 is listed twice"),
        (["w0of2", "w0of2"], "of the shards w…of2 number 0 is listed twice"),
        (["w1of2", "w3of2"], "of the shards w…of2 2 are listed, number 2 is missing"),
        (["w1of1", "w2of1"], "of the shards w…of1 2 are listed"),
        (["w1of2", "w2of3"], "of the shards w…of2 1 are listed, number 2 is missing"),
        ([f"w{20 - index}of20" for index in range(20)], f"the order is {', '.join(map(str, range(20, 8, -1)))}…"),
    ],
)
def test_names_that_contradict_the_order_are_an_error(paths: list[str], problem: str) -> None:
    with pytest.raises(ShardOrderError) as caught:
        check_order(2, paths)

    assert (caught.value.group, caught.value.paths) == (2, tuple(paths))
    assert caught.value.problem.endswith(problem)


@pytest.mark.parametrize("paths", [[], [f"w{index}of99999" for index in range(2, 99_999)], ["1of" * 10**6]])
def test_hostile_names_cost_little_time(paths: list[str]) -> None:
    began = time.monotonic()

    with pytest.raises(ShardOrderError):
        check_order(0, [*paths, "w1of999999"])

    assert time.monotonic() - began < 10


def test_shards_that_are_announced_but_not_listed_cost_no_memory() -> None:
    tracemalloc.start()

    with pytest.raises(ShardOrderError):
        check_order(0, ["w1of9999999"])

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_what_a_signed_address_hides_is_not_in_the_error() -> None:
    with pytest.raises(ShardOrderError) as caught:
        check_order(0, ["https://me:secret@h/w2of2?sig=secret", "w1of2?sig=secret"])

    assert "secret" not in f"{caught.value} {caught.value.paths} {caught.value.problem}"


# Sizes that can be guessed


@pytest.mark.parametrize(
    ("size", "shards", "expected"),
    [
        (0, 1, (0,)),
        (7, 1, (7,)),
        (9 * _MIB, 1, (9 * _MIB,)),
        (9 * _MIB, 3, (4 * _MIB, 4 * _MIB, _MIB)),
        (8 * _MIB, 2, (4 * _MIB, 4 * _MIB)),
        (8 * _MIB, 3, None),
        (9 * _MIB, 2, None),
        (0, 0, None),
        (0, 2, None),
        (7, 2, None),
    ],
)
def test_shards_are_taken_to_be_of_4_mib_if_their_number_fits(
    size: int, shards: int, expected: tuple[int, ...] | None
) -> None:
    layout = GroupLayout(0, tuple(map(str, range(shards))), (), (), size)

    assert usual_sizes(layout) == expected


def test_the_sizes_of_shards_with_strings_cannot_be_guessed() -> None:
    assert usual_sizes(layout_of(spec("text", [], "string"))) is None


@given(encoded_groups())
def test_the_places_of_weights_cover_the_group(group: EncodedGroup) -> None:
    layout = group.layout
    weights = layout.weights or scan(0, layout.specs, layout.paths, memoryview(group.data))

    assert [weight.spec.name for weight in weights] == [str(one["name"]) for one in group.specs]
    assert all(first.stop == second.start for first, second in pairwise(weights))
    assert (weights[-1].stop if weights else 0) == len(group.data)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4), st.binary(max_size=30))
def test_any_lengths_give_places_within_the_bytes_or_an_error(lengths: list[int], tail: bytes) -> None:
    data = struct.pack(f"<{len(lengths)}I", *lengths) + tail
    layout = layout_of(spec("a", [], "string"), spec("b", [2], "string"))

    with suppress(MissingBytesError):
        weights = scan(0, layout.specs, layout.paths, memoryview(data))
        assert weights[-1].stop <= len(data)
