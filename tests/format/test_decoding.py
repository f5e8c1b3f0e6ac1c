"""What single groups decode to: literal bytes beside literal values, arriving in every manner."""

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.groups import EncodedGroup, encoded_groups, layout_of, spec
from tests.format.splits import Step, assert_same, bits, every_split, feed, floats
from tfjs_fetch.errors import DecodeError, MissingBytesError
from tfjs_fetch.format.decoding import GroupDecoder, decode, odd_bools, stored_values
from tfjs_fetch.format.dtypes import Array
from tfjs_fetch.format.layout import check_total
from tfjs_fetch.format.manifest import Quantization, WeightSpec

_GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "golden" / "mixed.json").read_text("utf-8"))
_UINT8 = {"dtype": "uint8", "min": -1, "scale": 0.1}
_UINT16 = {"dtype": "uint16", "min": -1, "scale": 0.1}


def strings(*values: bytes) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


# Vectors of TF.js (reference sections 4.5, 6.1 and 6.4)


def test_weights_of_all_types_lie_in_one_group() -> None:
    data = bytes.fromhex(
        "0a000000140000001e00000028000000"  # 10, 20, 30, 40
        "85eb5541"  # 13.37
        "010000"  # true, false, false
        "0c000000d0b7d0b4d180d0b0d0b2d0be 0100000061 0100000062 0100000063"  # "здраво", "a", "b", "c"
        "00000000"  # ""
        "0500000068656c6c6f"  # "hello"
        "000020c10000a0c10000f0c1"  # -10, -20, -30
        "0000803f00000040 0000803f00000040"  # 1 + 2i, 1 + 2i
    )
    layout = layout_of(
        spec("x1", [2, 2], "int32"),
        spec("x2", []),
        spec("x3", [3], "bool"),
        spec("x4", [2, 2], "string"),
        spec("x5", [1], "string"),
        spec("x6", [], "string"),
        spec("y1", [3, 1]),
        spec("y2", [2], "complex64"),
    )

    found = every_split(layout, data)

    assert len(data) == 95
    assert_same(found["x1"], np.array([[10, 20], [30, 40]], np.int32))
    assert_same(found["x2"], np.array(13.37, np.float32))
    assert_same(found["x3"], np.array([True, False, False]))
    assert_same(found["x4"], strings("здраво".encode(), b"a", b"b", b"c").reshape(2, 2))
    assert_same(found["x5"], strings(b""))
    assert_same(found["x6"], strings(b"hello").reshape(()))
    assert_same(found["y1"], floats(-10, -20, -30).reshape(3, 1))
    assert_same(found["y2"], np.array([1 + 2j, 1 + 2j], np.complex64))


@pytest.mark.parametrize(
    ("quantization", "data"),
    [(_UINT8, bytes([0, 48, 255, 0, 48, 255])), (_UINT16, struct.pack("<6H", 0, 48, 255, 0, 48, 255))],
)
def test_affine_weights_are_dequantized_to_floats_and_integers(quantization: dict[str, Any], data: bytes) -> None:
    layout = layout_of(
        spec("weight0", [3], quantization=quantization), spec("weight1", [3], "int32", quantization=quantization)
    )

    found = every_split(layout, data)

    assert_same(found["weight0"], floats(-1, 3.8, 24.5))
    assert_same(found["weight1"], np.array([-1, 4, 25], np.int32))


def test_float16_weights_are_widened() -> None:
    data = struct.pack("<3H", 13312, 14336, 14848)

    found = every_split(layout_of(spec("weight0", [3], quantization={"dtype": "float16"})), data)

    assert_same(found["weight0"], floats(0.25, 0.5, 0.75))


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (0x7E00, "0000c07f"),  # NaN
        (0x7C00, "0000807f"),
        (0xFC00, "000080ff"),
        (0x0000, "00000000"),
        (0x8000, "00000080"),
        (0x0001, "00008033"),
        (0x7BFF, "00e07f47"),
        (0x3400, "0000803e"),
        (0x3800, "0000003f"),
        (0x3A00, "0000403f"),
        (0x3555, "00a0aa3e"),
    ],
)
def test_special_float16_values_keep_their_meaning(narrow: int, wide: str) -> None:
    layout = layout_of(spec("w", [], quantization={"dtype": "float16"}))

    assert bits(every_split(layout, struct.pack("<H", narrow))["w"]) == wide


def test_a_group_of_21_bytes_has_floats_that_are_not_aligned() -> None:
    data = struct.pack("<2iB3f", 1, 2, 1, 3, 4, 5)

    found = every_split(layout_of(spec("a", [2], "int32"), spec("b", [], "bool"), spec("c", [3])), data)

    assert_same(found["a"], np.array([1, 2], np.int32))
    assert_same(found["b"], np.array(True))
    assert_same(found["c"], floats(3, 4, 5))


def test_a_weight_may_lie_in_many_shards() -> None:
    shards = [floats(1, 2, 3, 4, 5), floats(1.1, 2.2), floats(10, 20, 30)]
    data = b"".join(shard.tobytes() for shard in shards)

    found = every_split(layout_of(spec("weight0", [5, 2]), paths=("a", "b", "c")), data)

    assert_same(found["weight0"], floats(1, 2, 3, 4, 5, 1.1, 2.2, 10, 20, 30).reshape(5, 2))


def test_a_shard_may_hold_the_end_of_one_weight_and_the_beginning_of_another() -> None:
    shards = [struct.pack("<5i", 1, 2, 3, 4, 5), struct.pack("<2i3f", 10, 20, 3, 4, 5), struct.pack("<3f", 10, 20, 30)]

    found = every_split(layout_of(spec("i", [7, 1], "int32"), spec("f", [3, 2])), b"".join(shards))

    assert found["i"].tolist() == [[1], [2], [3], [4], [5], [10], [20]]
    assert found["f"].tolist() == [[3, 4], [5, 10], [20, 30]]


@pytest.mark.parametrize("case", _GOLDEN, ids=lambda case: str(case["name"]))
def test_groups_decode_as_by_tfjs(case: dict[str, Any]) -> None:
    found = every_split(layout_of(*case["weights"]), bytes.fromhex(case["data"]))

    for entry in case["weights"]:
        array, expected = found[entry["name"]], case["decoded"][entry["name"]]
        assert array.shape == tuple(entry["shape"])
        if entry["dtype"] == "string":
            assert [value.hex() for value in array.reshape(-1)] == expected
        elif case["name"] == "bool_seven":  # TF.js keeps the byte; here it reads as True and survives in stored values
            assert array.tobytes() == np.array(bytearray.fromhex(expected)).astype(bool).tobytes()
        else:
            assert bits(array) == expected


# Hazards of readers (reference section 7)


def test_hazard_13_zero_strings_take_no_bytes_before_other_weights() -> None:
    layout = layout_of(spec("none", [0], "string"), spec("none2", [2, 0], "string"), spec("seven", [], "int32"))

    found = every_split(layout, b"\7\0\0\0")

    assert_same(found["none"], strings())
    assert_same(found["none2"], strings().reshape(2, 0))
    assert_same(found["seven"], np.array(7, np.int32))


def test_hazard_14_weights_behind_strings_are_found() -> None:
    layout = layout_of(spec("text", [2], "string"), spec("after", [2]))

    found = every_split(layout, b"\1\0\0\0a" + b"\0\0\0\0" + struct.pack("<2f", 1, 2))

    assert_same(found["text"], strings(b"a", b""))
    assert_same(found["after"], floats(1, 2))


@pytest.mark.parametrize("data", [b"", b"\5\0\0", b"\5\0\0\0ab", b"\0\0\0\0"])
def test_hazard_15_truncated_strings_are_an_error(data: bytes) -> None:
    decoder = GroupDecoder(layout_of(spec("a", [], "string"), spec("b", [], "string"), paths=("w0",)), data)

    with pytest.raises(MissingBytesError) as caught:
        decoder.add(0, len(data))

    assert (caught.value.group, caught.value.shard, caught.value.got) == (0, "w0", len(data))


@pytest.mark.parametrize("dtype", ["float16", "uint8", "uint16"])
def test_hazard_20_types_that_only_python_writes_stay_as_they_are(dtype: str) -> None:
    array = np.array([0, 1, 200], dtype)

    assert_same(every_split(layout_of(spec("w", [3], dtype)), array.tobytes())["w"], array)


def test_hazard_27_only_the_range_of_a_borrowed_view_is_read() -> None:
    whole = b"garbage!" + struct.pack("<2f", 1, 2) + b"garbage!"

    decoder = GroupDecoder(layout_of(spec("w", [2])), memoryview(whole)[8:16])

    (weight,) = decoder.add(0, 8)
    assert decoder.decode(weight).tolist() == [1, 2]


def test_a_bool_of_seven_reads_as_true_and_survives_as_stored() -> None:
    seven, layout = WeightSpec("w", (2, 2), "bool"), layout_of(spec("w", [2, 2], "bool"))

    assert every_split(layout, b"\0\1\7\xff")["w"].tolist() == [[False, True], [True, True]]
    assert stored_values(seven, memoryview(b"\0\1\7\xff")).tolist() == [[0, 1], [7, 255]]
    assert odd_bools(seven, memoryview(b"\0\1\7\xff")) == 2


def test_a_scalar_bool_of_seven_is_an_array_too() -> None:
    found = decode(WeightSpec("w", (), "bool"), memoryview(b"\7"))

    assert isinstance(found, np.ndarray)
    assert_same(found, np.array(True))


def test_only_bools_are_odd() -> None:
    assert odd_bools(WeightSpec("w", (1,), "uint8"), memoryview(b"\7")) == 0
    assert odd_bools(WeightSpec("w", (2,), "bool"), memoryview(b"\0\1")) == 0


# What was stored, before it is decoded


@pytest.mark.parametrize(
    ("weight", "data", "expected"),
    [
        (WeightSpec("w", (2,), "float32", Quantization("uint8", -1.0, 0.1)), b"\0\7", np.array([0, 7], np.uint8)),
        (WeightSpec("w", (), "int32", Quantization("uint16", 0.0, 1.0)), b"\1\1", np.array(257, np.uint16)),
        (WeightSpec("w", (1,), "float32", Quantization("float16")), b"\0\x3c", np.array([1], np.float16)),
        (WeightSpec("w", (1,), "int32"), b"\xfe\xff\xff\xff", np.array([-2], np.int32)),
        (WeightSpec("w", (1,), "bool"), b"\2", np.array([2], np.uint8)),
        (WeightSpec("w", (1,), "string"), b"\1\0\0\0\xff", strings(b"\xff")),
    ],
)
def test_stored_values_are_those_of_the_file(weight: WeightSpec, data: bytes, expected: Array) -> None:
    found = stored_values(weight, memoryview(data))

    assert_same(found, expected)
    assert not found.flags.writeable


# Any group, in any manner


@given(encoded_groups())
def test_any_group_gives_its_arrays_back(group: EncodedGroup) -> None:
    found = feed(group.layout, group.data, [("add", 0, len(group.data))])

    for name, array in group.arrays.items():
        assert_same(found[name], array)


@st.composite
def _groups_and_steps(draw: st.DrawFn) -> tuple[EncodedGroup, list[Step]]:
    group = draw(encoded_groups())
    position = st.integers(0, len(group.data))
    adding, discarding = st.just("add"), st.just("discard")
    drawn = draw(st.lists(st.tuples(adding | adding | discarding, position, position), max_size=30))
    steps: list[Step] = [("add" if action == "add" else "discard", min(ends), max(ends)) for action, *ends in drawn]
    return group, [*steps, ("add", 0, len(group.data))]


@given(_groups_and_steps())
def test_any_arrival_gives_the_same_arrays(case: tuple[EncodedGroup, list[Step]]) -> None:
    group, steps = case

    found = feed(group.layout, group.data, steps)

    for name, array in group.arrays.items():
        assert_same(found[name], array)


@st.composite
def _groups_and_bytes(draw: st.DrawFn) -> tuple[EncodedGroup, bytes]:
    group = draw(encoded_groups())
    size = len(group.data)
    return group, draw(st.binary(min_size=max(size - 1, 0), max_size=size + 9))


@given(_groups_and_bytes())
def test_any_bytes_give_arrays_or_a_decode_error(case: tuple[EncodedGroup, bytes]) -> None:
    group, data = case

    with suppress(DecodeError):
        check_total(group.layout, [len(data)], tolerate_extra=True)
        found = feed(group.layout, data, [("add", 0, len(data))])
        assert all(found[one["name"]].shape == tuple(one["shape"]) for one in group.specs)
