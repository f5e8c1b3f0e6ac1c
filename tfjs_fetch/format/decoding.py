"""GroupDecoder: memory in, whole weights out, in any order of arrival.

The decoder is given the memory of a group and is told which ranges of it hold their final bytes. It keeps the ranges
merged in order, so that telling which weights became whole costs a bisection for each range and a look at the weights
that the range touches. What a weight becomes is decided by `decode` from its bytes alone.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tfjs_fetch.format.dtypes import STRING, STRING_PREFIX, Array, logical, stored
from tfjs_fetch.format.layout import GroupLayout, PlacedWeight, scan
from tfjs_fetch.format.manifest import WeightSpec
from tfjs_fetch.format.quantization import dequantize, widen


class Buffer(Protocol):
    """Anything that lends its memory: bytes, bytearray, memoryview, mmap, an array."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class GroupDecoder:
    """Tells which weights of a group are whole, and decodes them.

    `memory` holds the bytes of the group from `start` on, at least as many as `layout` spans. It stays the caller's:
    it may be filled while the decoder exists, and the arrays of weights that need no conversion are views of it.
    """

    def __init__(self, layout: GroupLayout, memory: Buffer, *, start: int = 0) -> None:
        self._layout = layout
        view = memoryview(memory)
        # Memory without bytes cannot be cast.
        self._memory = (view.cast("B") if view.nbytes else memoryview(b"")).toreadonly()
        self._start = start
        self._ranges = _Ranges()
        self._weights = layout.weights
        self._starts = [weight.start for weight in layout.weights]

    def add(self, start: int, stop: int) -> tuple[PlacedWeight, ...]:
        """Take note that the bytes of the group from `start` up to `stop` are there; return what became whole by them.

        With strings in the group that is nothing until all bytes of the memory are there, and then everything.
        Raises MissingBytesError if the strings in the memory run beyond its end.
        """
        if self._layout.size is None:
            return self._add_to_strings(start, stop)
        if start >= stop:
            return ()
        before = self._ranges.around(start, stop)
        merged = self._ranges.add(start, stop)
        first, last = bisect_right(self._starts, start) - 1, bisect_left(self._starts, stop)
        touched = self._weights[max(first, 0) : last]
        whole = (weight for weight in touched if _holds(merged, weight))
        return tuple(weight for weight in whole if not any(_holds(known, weight) for known in before))

    def discard(self, start: int, stop: int) -> None:
        """Take note that the bytes from `start` up to `stop` come anew: weights with some of them are not whole."""
        if start >= stop:
            return
        self._ranges.discard(start, stop)
        if self._layout.size is None:
            self._weights = ()

    @property
    def weights(self) -> tuple[PlacedWeight, ...]:
        """The weights and where they lie; empty for a group with strings until all its bytes are there."""
        return self._weights

    @property
    def empty(self) -> tuple[PlacedWeight, ...]:
        """The weights without values: whole from the beginning, `add` never returns them (but with strings)."""
        return tuple(weight for weight in self._layout.weights if weight.start == weight.stop)

    def data(self, weight: PlacedWeight) -> memoryview:
        """Return the stored bytes of `weight`, read-only, without a copy."""
        return self._memory[weight.start - self._start : weight.stop - self._start]

    def decode(self, weight: PlacedWeight) -> Array:
        """Return `weight` as an array: see the function `decode`. May be called from any thread."""
        return decode(weight.spec, self.data(weight))

    def _add_to_strings(self, start: int, stop: int) -> tuple[PlacedWeight, ...]:
        whole = (self._start, self._start + len(self._memory))
        # Nothing is all there is if the memory is empty: then the strings are missing.
        merged = self._ranges.add(start, stop) if start < stop else (start, stop)
        if self._weights or merged != whole:
            return ()
        self._weights = scan(self._layout.index, self._layout.specs, self._layout.paths, self._memory)
        return self._weights


def decode(spec: WeightSpec, data: memoryview) -> Array:
    """Return the weight `spec` from its stored bytes `data`, as TF.js reads it: shape `spec.shape`, read-only.

    A view of `data` where type and alignment allow it, else a new array. Strings are an object array of bytes; a bool
    byte other than 0 and 1 reads as True.
    """
    values = stored_values(spec, data)
    if spec.dtype == STRING:
        return values
    match spec.quantization:
        case None if spec.dtype == "bool":
            values = values.view(bool) if not odd_bools(spec, data) else values.astype(bool)
        case None:
            # A view in the other byte order would be slow in every use: only hosts with that order pay for a copy.
            values = values.astype(logical(spec.dtype), copy=False)
        case quantization if quantization.dtype == "float16":
            values = widen(values)
        case quantization:
            assert quantization.scale is not None
            assert quantization.min is not None
            values = dequantize(values, quantization.scale, quantization.min, spec.dtype)
    values.flags.writeable = False
    return values


def stored_values(spec: WeightSpec, data: memoryview) -> Array:
    """Return the values as they are stored: uint8, uint16 or float16 if quantized, uint8 for bool; read-only.

    A view of `data` if it is aligned, else a copy.
    """
    if spec.dtype == STRING:
        return _strings(spec, data)
    values = np.frombuffer(data, stored(spec.stored_dtype), spec.size).reshape(spec.shape)
    if not values.flags.aligned:
        values = values.copy()
        values.flags.writeable = False
    return values


def is_view(spec: WeightSpec, start: int) -> bool:
    """Whether a weight at `start` of an aligned memory is decoded without a look at its values."""
    if spec.quantization is not None or spec.dtype in ("bool", STRING):
        return False
    return start % stored(spec.stored_dtype).alignment == 0


def odd_bools(spec: WeightSpec, data: memoryview) -> int:
    """Return how many values of a bool weight are stored as something else than 0 or 1."""
    if spec.dtype != "bool":
        return 0
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) > 1))


def _strings(spec: WeightSpec, data: memoryview) -> Array:
    values = np.empty(spec.size, object)
    start = 0
    for index in range(spec.size):
        stop = start + STRING_PREFIX + int.from_bytes(data[start : start + STRING_PREFIX], "little")
        values[index] = bytes(data[start + STRING_PREFIX : stop])
        start = stop
    values.flags.writeable = False
    return values.reshape(spec.shape)


def _holds(covered: tuple[int, int], weight: PlacedWeight) -> bool:
    return covered[0] <= weight.start < weight.stop <= covered[1]


class _Ranges:
    """Disjoint ranges of whole numbers, sorted, neighbours merged."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def around(self, start: int, stop: int) -> Sequence[tuple[int, int]]:
        """Return the ranges that touch `start` to `stop`."""
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        return list(zip(self._starts[first:last], self._stops[first:last], strict=True))

    def add(self, start: int, stop: int) -> tuple[int, int]:
        """Add a range and return the merged one that it is now part of."""
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]
        return start, stop

    def discard(self, start: int, stop: int) -> None:
        """Take the numbers from `start` up to `stop` out."""
        kept = [
            (low, high)
            for begin, end in self.around(start, stop)
            for low, high in ((begin, min(end, start)), (max(begin, stop), end))
            if low < high
        ]
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        self._starts[first:last] = [low for low, _ in kept]
        self._stops[first:last] = [high for _, high in kept]
