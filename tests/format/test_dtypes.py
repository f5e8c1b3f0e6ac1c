import numpy as np
import pytest

from tfjs_fetch.format.dtypes import DTYPES, QUANTIZED, itemsize, logical, stored


@pytest.mark.parametrize(
    ("name", "in_shards", "decoded", "size"),
    [
        ("float32", "<f4", np.float32, 4),
        ("int32", "<i4", np.int32, 4),
        ("bool", "u1", np.bool_, 1),
        ("complex64", "<c8", np.complex64, 8),
        ("float16", "<f2", np.float16, 2),
        ("uint8", "u1", np.uint8, 1),
        ("uint16", "<u2", np.uint16, 2),
    ],
)
def test_a_type_is_stored_little_endian_and_decoded_native(name: str, in_shards: str, decoded: type, size: int) -> None:
    assert stored(name) == np.dtype(in_shards)
    assert logical(name) == np.dtype(decoded)
    assert logical(name).isnative
    assert itemsize(name) == stored(name).itemsize == size


def test_a_string_takes_at_least_the_four_bytes_of_its_length() -> None:
    assert itemsize("string") == 4
    assert logical("string") == np.dtype(object)
    with pytest.raises(KeyError):
        stored("string")


def test_the_types_of_tfjs_come_first_and_then_those_of_its_converter() -> None:
    assert DTYPES == ("float32", "int32", "bool", "string", "complex64", "float16", "uint8", "uint16")
    assert QUANTIZED == ("uint8", "uint16", "float16")
