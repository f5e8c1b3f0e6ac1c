"""The one table of types: their TF.js name, how their values lie in a shard, and what they become in numpy."""

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]  # the dtype is only known from the manifest, at run time

Dtype: TypeAlias = Literal["float32", "int32", "bool", "string", "complex64", "float16", "uint8", "uint16"]
"""Types a weight may have. TF.js itself reads the first five; its Python converter also writes the last three."""

QuantizedDtype: TypeAlias = Literal["uint8", "uint16", "float16"]
"""Types a quantized weight may be stored in."""

STRING: Literal["string"] = "string"
# In front of each string: its length in bytes, uint32, little-endian.
STRING_PREFIX = 4

_STORED: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "int32": np.dtype("<i4"),
    "bool": np.dtype("u1"),  # 0 or 1 when TF.js wrote it; other values exist and must survive
    "complex64": np.dtype("<c8"),
    "float16": np.dtype("<f2"),
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
}

DTYPES: tuple[str, ...] = get_args(Dtype)
QUANTIZED: tuple[str, ...] = get_args(QuantizedDtype)


def stored(name: str) -> np.dtype[Any]:
    """Return the little-endian dtype of values of type `name` in a shard. Strings have none."""
    return _STORED[name]


def logical(name: str) -> np.dtype[Any]:
    """Return the dtype, in the host's byte order, of a decoded weight of type `name`; object for strings."""
    if name == STRING:
        return np.dtype(object)
    return np.dtype(bool) if name == "bool" else _STORED[name].newbyteorder("=")


def itemsize(name: str) -> int:
    """Return the bytes that one value of type `name` takes in a shard; for strings the least they can take."""
    return STRING_PREFIX if name == STRING else _STORED[name].itemsize
