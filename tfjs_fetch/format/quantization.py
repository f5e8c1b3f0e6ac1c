"""Affine uint8 and uint16, and float16: from the stored values back to the weights, bit for bit as TF.js does.

TF.js computes `q * scale + min` in float64 and rounds once to float32; to int32 it rounds to the nearest integer with
halves toward +infinity and then wraps modulo 2**32, with NaN and infinities becoming 0 (JavaScript's Math.round and
ToInt32). The work goes through in chunks whose float64 intermediates stay in the processor's cache: whole arrays of
them would travel to memory and back, which takes more than twice as long.
"""

import numpy as np

from tfjs_fetch.format.dtypes import Array

# Values a chunk: 1 MiB of float64, about a second-level cache; smaller ones pay more for each call of numpy.
_CHUNK = 128 * 1024


def dequantize(stored: Array, scale: float, minimum: float, dtype: str) -> Array:
    """Return `stored * scale + minimum` as a new array of the same shape.

    `stored` is uint8 or uint16, in C order; `dtype` is "float32" or "int32".
    """
    values = stored.reshape(-1)
    out = np.empty(values.shape, np.dtype(dtype))
    scratch = np.empty(min(_CHUNK, values.size), np.float64)
    # As arrays: numpy would make them anew from numbers for each chunk.
    factor, offset = np.asarray(scale, np.float64), np.asarray(minimum, np.float64)
    with np.errstate(all="ignore"):  # overflow to infinity is what TF.js gives, too
        for start in range(0, values.size, _CHUNK):
            chunk = values[start : start + _CHUNK]
            exact = scratch[: chunk.size]
            exact[...] = chunk
            exact *= factor
            exact += offset
            out[start : start + _CHUNK] = exact if dtype == "float32" else _to_int32(exact)
    return out.reshape(stored.shape)


def widen(stored: Array) -> Array:
    """Return float16 values as a new float32 array of the same shape, exactly, NaN payloads included."""
    return stored.astype(np.float32)


def _to_int32(exact: Array) -> Array:
    floor = np.floor(exact)
    rounded = floor + (exact - floor >= 0.5)  # not floor(x + 0.5), which errs just below one half
    wrapped = np.fmod(rounded, 2.0**32)
    return np.where(np.isfinite(wrapped), wrapped, 0.0).astype(np.int64).astype(np.int32)
