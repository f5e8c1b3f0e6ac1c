"""Arrays -> the bytes that the format stores for them."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfjs_fetch.errors import EncodeError
from tfjs_fetch.format.dtypes import STRING, STRING_PREFIX, Array, Dtype, stored

_INT32 = np.iinfo(np.int32)


def encode(name: str, values: ArrayLike) -> tuple[Dtype, tuple[int, ...], bytes]:
    """Return the type, the shape and the stored bytes of `values`, little-endian, in C order.

    TF.js reads five types: other floats become float32, other integers int32, complex128 complex64; str becomes UTF-8.

    Raises EncodeError if a value would not survive that: integers beyond int32, floats that become infinite, objects
    other than str and bytes; and if `values` is no array, nor a list that could be one.
    """
    array = _array(name, values)
    dtype = _dtype(name, array)
    if dtype == STRING:
        return dtype, array.shape, _string_bytes(name, array)
    with np.errstate(over="ignore"):
        converted = np.asarray(array, dtype=stored(dtype), order="C")
    _check_range(name, array, converted)
    return dtype, array.shape, converted.tobytes()


def _array(name: str, values: ArrayLike) -> Array:
    try:
        array = np.asarray(values)
        if array.dtype.kind in "US" and not isinstance(values, np.ndarray):
            # numpy has made strings of whatever was among them, and dropped zero bytes from their ends.
            array = np.asarray(values, dtype=object)
    except ValueError as error:
        raise EncodeError(name, f"cannot be made an array ({error})") from error
    return array


def _dtype(name: str, array: Array) -> Dtype:
    match array.dtype.kind:
        case "f":
            return "float32"
        case "i" | "u":
            return "int32"
        case "b":
            return "bool"
        case "c":
            return "complex64"
        case "O" | "U" | "S" | "T":
            return "string"
        case _:
            raise EncodeError(name, f"has the type {array.dtype}, which the format does not know")


def _check_range(name: str, array: Array, converted: Array) -> None:
    kind = array.dtype.kind
    if kind in "iu" and array.size and (int(array.min()) < _INT32.min or int(array.max()) > _INT32.max):
        raise EncodeError(name, f"has integers from {array.min()} to {array.max()}, beyond int32")
    if kind in "fc" and (_overflows(array.real, converted.real) or _overflows(array.imag, converted.imag)):
        raise EncodeError(name, f"has values that {converted.dtype} cannot hold: they would become infinite")


def _overflows(array: Array, converted: Array) -> bool:
    return array.dtype != converted.dtype and bool(np.any(np.isinf(converted) & ~np.isinf(array)))


def _string_bytes(name: str, array: Array) -> bytes:
    pieces: list[bytes] = []
    for value in array.reshape(-1).tolist():
        content = _string(name, value)
        pieces += [len(content).to_bytes(STRING_PREFIX, "little"), content]
    return b"".join(pieces)


def _string(name: str, value: Any) -> bytes:  # an element of an object array may be anything
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise EncodeError(name, f"has a string that is no Unicode text ({error.reason})") from error
    if isinstance(value, bytes):
        return value
    raise EncodeError(name, f"has a {type(value).__name__} among its strings")
