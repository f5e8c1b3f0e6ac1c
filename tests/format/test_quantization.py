import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.groups import javascript_int32
from tests.format.splits import bits, floats
from tfjs_fetch.format.quantization import dequantize, widen

_GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "dequantization.json").read_text("utf-8"))
_EVERY = {"uint8": np.arange(2**8, dtype="<u1"), "uint16": np.arange(2**16, dtype="<u2")}
_EVERY_FLOAT16 = np.arange(2**16, dtype="<u2").view("<f2")


@pytest.mark.parametrize("golden", _GOLDEN["affine"], ids=lambda one: "{stored}-{dtype}-{min}-{scale}".format(**one))
def test_every_stored_value_is_read_back_as_by_tfjs(golden: dict[str, Any]) -> None:
    decoded = dequantize(_EVERY[golden["stored"]], float(golden["scale"]), float(golden["min"]), golden["dtype"])

    assert decoded.dtype == golden["dtype"]
    assert [f"{pattern:08x}" for pattern in decoded[:8].view(np.uint32)] == golden["first"]
    assert hashlib.sha256(decoded.tobytes()).hexdigest() == golden["sha256"]


def test_every_float16_is_widened_as_by_tfjs() -> None:
    wide = widen(_EVERY_FLOAT16)

    patterns = wide.view(np.uint32)
    assert [
        [f"{int(narrow, 16):04x}", f"{patterns[int(narrow, 16)]:08x}"] for narrow, _ in _GOLDEN["float16"]["examples"]
    ] == (_GOLDEN["float16"]["examples"])
    assert hashlib.sha256(wide.tobytes()).hexdigest() == _GOLDEN["float16"]["sha256"]


def test_every_pattern_is_in_the_golden_file() -> None:
    assert len(_GOLDEN["affine"]) == 88


@pytest.mark.parametrize("stored", ["<u1", "<u2"])
def test_affine_values_are_read_back_as_floats(stored: str) -> None:
    decoded = dequantize(np.array([0, 48, 255], stored), 0.1, -1.0, "float32")

    assert bits(decoded) == bits(floats(-1, 3.8, 24.5))


@pytest.mark.parametrize("stored", ["<u1", "<u2"])
def test_affine_values_are_read_back_as_integers(stored: str) -> None:
    decoded = dequantize(np.array([0, 48, 255], stored), 0.1, -1.0, "int32")

    assert decoded.dtype == np.int32
    assert decoded.tolist() == [-1, 4, 25]


def test_hazard_19_halves_round_toward_plus_infinity_as_in_javascript() -> None:
    stored = np.arange(8, dtype=np.uint8)

    assert dequantize(stored, 0.5, -1.5, "int32").tolist() == [-1, -1, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("minimum", "rounded"),
    [(0.49999999999999994, 0), (-0.5, 0), (-0.50000000000000011, -1), (2.5, 3), (-4503599627370497.0, -1), (1e300, 0)],
)
def test_rounding_errs_nowhere_near_a_half(minimum: float, rounded: int) -> None:
    assert dequantize(np.zeros(1, np.uint8), 1.0, minimum, "int32").tolist() == [rounded]


def test_integers_out_of_range_wrap_and_infinities_become_zero() -> None:
    assert dequantize(np.array([0, 1, 2], np.uint8), 1.0, 2.0**31 - 1, "int32").tolist() == [
        2**31 - 1,
        -(2**31),
        -(2**31) + 1,
    ]
    assert dequantize(np.array([0, 255], np.uint8), 1e308, 0.0, "int32").tolist() == [0, 0]


def test_floats_out_of_range_become_infinite() -> None:
    assert dequantize(np.array([0, 255], np.uint8), 1e38, 0.0, "float32").tolist() == [0.0, float("inf")]


def test_hazard_16_the_arithmetic_is_that_of_float64() -> None:
    assert dequantize(np.array([200], np.uint8), 2.0, -1.0, "float32").tolist() == [399.0]
    assert bits(dequantize(np.array([3], np.uint8), 0.1, 0.3, "float32")) == struct.pack("<f", 3 * 0.1 + 0.3).hex()


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_073])
def test_long_arrays_are_read_back_like_short_ones(size: int) -> None:
    stored = np.arange(size, dtype=np.uint32).astype("<u2")

    decoded = dequantize(stored, 0.25, -3.5, "float32")

    assert decoded.tolist() == [(value % 65_536) * 0.25 - 3.5 for value in range(size)]


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,), (2, 0, 3)])
def test_the_shape_stays(shape: tuple[int, ...]) -> None:
    assert dequantize(np.zeros(shape, np.uint8), 1.0, 0.0, "int32").shape == shape
    assert widen(np.zeros(shape, np.float16)).shape == shape


@given(st.integers(0, 2**16 - 1), st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_integers_are_those_of_exact_arithmetic(stored: int, scale: float, minimum: float) -> None:
    decoded = dequantize(np.array([stored], np.uint16), scale, minimum, "int32")

    assert decoded.tolist() == [javascript_int32(float(stored) * scale + minimum)]


@given(
    st.integers(0, 2**16 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["float32", "int32"]),
)
def test_any_finite_factors_are_read_without_a_warning(stored: int, scale: float, minimum: float, dtype: str) -> None:
    decoded = dequantize(np.array([stored], np.uint16), scale, minimum, dtype)

    assert not np.isnan(decoded).any()
