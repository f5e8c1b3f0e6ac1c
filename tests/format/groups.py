"""Groups of weights for tests: from specs as model.json has them, and at random with an encoder of their own."""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tfjs_fetch.format.dtypes import Array
from tfjs_fetch.format.layout import GroupLayout, lay_out
from tfjs_fetch.format.manifest import parse

_STORED = {
    "float32": "<f4",
    "int32": "<i4",
    "bool": "|b1",
    "complex64": "<c8",
    "float16": "<f2",
    "uint8": "|u1",
    "uint16": "<u2",
}


@dataclass(frozen=True)
class EncodedGroup:
    """A group as JSON, its bytes, and the arrays that they stand for."""

    specs: tuple[Mapping[str, Any], ...]
    data: bytes
    arrays: Mapping[str, Array]

    @property
    def layout(self) -> GroupLayout:
        """The layout of the group."""
        return layout_of(*self.specs)


def layout_of(*specs: Mapping[str, Any], paths: tuple[str, ...] = ("w",)) -> GroupLayout:
    """Return the layout of one group with these weights."""
    document = [{"paths": paths, "weights": specs}]
    return lay_out(parse(json.dumps(document).encode()))[0]


def spec(name: str, shape: list[int], dtype: str = "float32", **more: object) -> dict[str, Any]:
    """Return the entry of one weight in model.json."""
    return {"name": name, "shape": shape, "dtype": dtype, **more}


@st.composite
def encoded_groups(draw: st.DrawFn) -> EncodedGroup:
    """Groups of weights of all types, shapes and quantizations."""
    specs, pieces, arrays = [], [], {}
    for index in range(draw(st.integers(0, 6))):
        described, data, array = draw(st.one_of(_plain(), _strings(), _affine(), _float16()))
        specs.append({"name": f"w{index}", **described})
        pieces.append(data)
        arrays[f"w{index}"] = array
    return EncodedGroup(tuple(specs), b"".join(pieces), arrays)


_SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
_FACTORS = st.floats(-1e6, 1e6) | st.integers(-1000, 1000)


@st.composite
def _plain(draw: st.DrawFn) -> tuple[dict[str, Any], bytes, Array]:
    dtype = draw(st.sampled_from(sorted(_STORED)))
    array = draw(npst.arrays(_STORED[dtype], draw(_SHAPES)))
    return spec_of(array, dtype), array.tobytes(), array.astype(array.dtype.newbyteorder("="))


@st.composite
def _strings(draw: st.DrawFn) -> tuple[dict[str, Any], bytes, Array]:
    array = draw(npst.arrays(object, draw(_SHAPES), elements=st.binary(max_size=9), fill=st.nothing()))
    data = b"".join(struct.pack("<I", len(value)) + value for value in array.reshape(-1).tolist())
    return spec_of(array, "string"), data, array


@st.composite
def _affine(draw: st.DrawFn) -> tuple[dict[str, Any], bytes, Array]:
    dtype, minimum, scale = draw(st.sampled_from(["float32", "int32"])), draw(_FACTORS), draw(_FACTORS)
    stored_dtype = draw(st.sampled_from(["uint8", "uint16"]))
    stored = draw(npst.arrays(_STORED[stored_dtype], draw(_SHAPES)))
    exact = [float(value) * float(scale) + float(minimum) for value in stored.reshape(-1).tolist()]
    values = exact if dtype == "float32" else [javascript_int32(value) for value in exact]
    array = np.array(values, dtype).reshape(stored.shape)
    quantization = {"dtype": stored_dtype, "min": minimum, "scale": scale}
    return {**spec_of(array, dtype), "quantization": quantization}, stored.tobytes(), array


@st.composite
def _float16(draw: st.DrawFn) -> tuple[dict[str, Any], bytes, Array]:
    stored = draw(npst.arrays("<f2", draw(_SHAPES), elements=st.floats(width=16, allow_nan=False)))
    array = np.array(stored.reshape(-1).tolist(), "float32").reshape(stored.shape)
    return {**spec_of(array, "float32"), "quantization": {"dtype": "float16"}}, stored.tobytes(), array


def spec_of(array: Array, dtype: str) -> dict[str, Any]:
    """Return the entry of `array` in model.json, without its name."""
    return {"shape": list(array.shape), "dtype": dtype}


def javascript_int32(value: float) -> int:
    """Return what JavaScript stores of a finite number in an Int32Array after Math.round, in exact arithmetic."""
    rounded = math.floor(Fraction(value) + Fraction(1, 2))
    return (rounded + 2**31) % 2**32 - 2**31
