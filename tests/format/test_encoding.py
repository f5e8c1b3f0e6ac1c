"""What arrays become when they are stored: types by a table, bytes by hand, and everything that would not survive."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.format.splits import assert_same
from tfjs_fetch.errors import EncodeError
from tfjs_fetch.format.decoding import decode
from tfjs_fetch.format.encoding import encode
from tfjs_fetch.format.manifest import WeightSpec


@pytest.mark.parametrize(
    ("values", "dtype", "data"),
    [
        (np.array([1.0, -2.0], "float32"), "float32", "0000803f 000000c0"),
        (np.array([1.0, -2.0], "float64"), "float32", "0000803f 000000c0"),
        (np.array([1.0, -2.0], "float16"), "float32", "0000803f 000000c0"),
        (np.array([1.0, -2.0], "longdouble"), "float32", "0000803f 000000c0"),
        (np.array([1.0, -2.0], ">f4"), "float32", "0000803f 000000c0"),
        (np.array([0.1]), "float32", "cdcccc3d"),
        (np.array([np.nan, np.inf, -np.inf, -0.0]), "float32", "0000c07f 0000807f 000080ff 00000080"),
        (np.array([1, -2], "int32"), "int32", "01000000 feffffff"),
        (np.array([1, -2], "int8"), "int32", "01000000 feffffff"),
        (np.array([1, 65535], "uint16"), "int32", "01000000 ffff0000"),
        (np.array([1, 2**31 - 1], "uint64"), "int32", "01000000 ffffff7f"),
        (np.array([-(2**31)], ">i8"), "int32", "00000080"),
        (np.array([True, False]), "bool", "01 00"),
        (np.array([1 + 2j], "complex64"), "complex64", "0000803f 00000040"),
        (np.array([1 + 2j], "complex128"), "complex64", "0000803f 00000040"),
        (np.array([1 + 2j], ">c16"), "complex64", "0000803f 00000040"),
        (np.array(["hé", ""]), "string", "03000000 68c3a9 00000000"),
        (np.array([b"ab"]), "string", "02000000 6162"),
        (np.array([b"a\0", "é"], object), "string", "02000000 6100 02000000 c3a9"),
        ([1, 2], "int32", "01000000 02000000"),
        ([1, 2.5], "float32", "0000803f 00002040"),
        ([True], "bool", "01"),
        ([b"a\0", "b"], "string", "02000000 6100 01000000 62"),
        (["end\0"], "string", "04000000 656e6400"),
        ("one", "string", "03000000 6f6e65"),
        (b"\0", "string", "01000000 00"),
        (3, "int32", "03000000"),
        (np.float64(1.0), "float32", "0000803f"),
        ([], "float32", ""),
    ],
)
def test_every_type_has_a_stored_form(values: Any, dtype: str, data: str) -> None:
    assert encode("w", values) == (dtype, np.shape(values), bytes.fromhex(data))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1, 1, 1), (2, 3, 4)])
def test_shapes_are_kept(shape: tuple[int, ...]) -> None:
    assert encode("w", np.zeros(shape))[1] == shape
    assert encode("w", np.full(shape, b"", object))[1] == shape


@pytest.mark.parametrize("dtype", ["<i4", ">i4", "<i8", "O"])
def test_values_are_stored_in_c_order_however_they_lie(dtype: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    if dtype == "O":
        values = np.array([[b"0", b"1", b"2"], [b"3", b"4", b"5"]], object)
    row_by_row = encode("w", values)[2]

    assert encode("w", np.asfortranarray(values))[2] == row_by_row
    assert encode("w", np.repeat(values, 2, axis=1)[:, ::2])[2] == row_by_row
    assert encode("w", values[::-1, ::-1])[2] != row_by_row


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="numpy has it from version 2 on")
def test_strings_of_numpy_2_are_strings() -> None:
    values = np.array(["hé", ""], np.dtypes.StringDType())

    assert encode("w", values) == ("string", (2,), bytes.fromhex("03000000 68c3a9 00000000"))


@pytest.mark.parametrize(
    "values",
    [
        np.array([2**31]),
        np.array([-(2**31) - 1]),
        np.array([2**32 - 1], "uint32"),
        np.array([2**63], "uint64"),
        [2**70],
        np.array([1e39]),
        np.array([-1e39, 0.0]),
        np.array([np.inf, 1e39]),
        np.array([1e300j]),
        np.array([complex(np.inf, 1e300)]),
        np.array([None], object),
        np.array([1, "a"], object),
        [1, "a"],
        [b"a", 1.5],
        ["\ud800"],
        [[1], [1, 2]],
        {"a": 1},
        object(),
        None,
        np.array(["2024-01-01"], "datetime64[D]"),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]),
    ],
)
def test_what_would_not_survive_is_an_error(values: Any) -> None:
    with pytest.raises(EncodeError) as caught:
        encode("layer/kernel", values)

    assert caught.value.name == "layer/kernel"
    assert caught.value.problem


def test_nothing_that_is_given_is_changed() -> None:
    values = np.array([1.5, 2.5])
    data = encode("w", values)[2]

    values[:] = 0

    assert data == struct.pack("<2f", 1.5, 2.5)


_ARRAYS = npst.arrays(st.sampled_from(["<f4", ">f4", "<i4", ">i2", "u1", "?", "<c8"]), npst.array_shapes(min_dims=0))
_TEXTS = npst.arrays(object, npst.array_shapes(min_dims=0), elements=st.binary(max_size=5), fill=st.nothing())


@given(_ARRAYS | _TEXTS)
def test_what_is_stored_is_read_back(values: Any) -> None:
    dtype, shape, data = encode("w", values)

    found = decode(WeightSpec("w", shape, dtype), memoryview(data))

    expected = values.astype({"float32": "f4", "int32": "i4", "bool": "?", "complex64": "c8", "string": "O"}[dtype])
    assert_same(found, expected)


@given(npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, max_side=3)))
def test_any_array_is_stored_or_an_error(values: Any) -> None:
    try:
        _, shape, data = encode("w", values)
    except EncodeError:
        return

    assert shape == values.shape
    assert isinstance(data, bytes)
