"""every_split: a group whose bytes arrive in every manner. The weights must be the same, reported once, never early."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from random import Random
from typing import Literal, TypeAlias

import numpy as np

from tfjs_fetch.format.decoding import GroupDecoder
from tfjs_fetch.format.dtypes import Array
from tfjs_fetch.format.layout import GroupLayout

Step: TypeAlias = tuple[Literal["add", "discard"], int, int]
"""The bytes from one position up to another arrive, or are taken back."""

_UNWRITTEN = b"\xa5"


def every_split(layout: GroupLayout, data: bytes) -> dict[str, Array]:
    """Return the weights in `data`, by name, after checking that every manner of arrival gives just these."""
    whole = feed(layout, data, [("add", 0, len(data))])
    for steps in _arrivals(len(data)):
        found = feed(layout, data, steps)
        for name in whole:
            assert_same(found[name], whole[name])
    return whole


def feed(layout: GroupLayout, data: bytes, steps: Iterable[Step]) -> dict[str, Array]:
    """Return copies of the weights, each made when it was reported; the memory holds only what has arrived."""
    memory, arrived = bytearray(_UNWRITTEN * len(data)), bytearray(len(data))
    decoder = GroupDecoder(layout, memory)
    found = {weight.spec.name: decoder.decode(weight).copy() for weight in decoder.empty}
    for action, start, stop in steps:
        if action == "discard":
            found = _lost(decoder, found, start, stop)
            memory[start:stop], arrived[start:stop] = _UNWRITTEN * (stop - start), bytes(stop - start)
            decoder.discard(start, stop)
            continue
        memory[start:stop], arrived[start:stop] = data[start:stop], b"\1" * (stop - start)
        for weight in decoder.add(start, stop):
            assert weight.spec.name not in found, "reported twice"
            assert 0 not in arrived[weight.start : weight.stop], "reported early"
            found[weight.spec.name] = decoder.decode(weight).copy()
        assert found.keys() == _whole(decoder, arrived), "reported late"
    assert found.keys() == {spec.name for spec in layout.specs}
    return found


def assert_same(found: Array, expected: Array) -> None:
    """Assert that two arrays agree in type, shape and every bit."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if found.dtype == object:
        assert found.tolist() == expected.tolist()
    else:
        assert found.tobytes() == expected.tobytes()


def bits(array: Array) -> str:
    """Return the values of `array`, little-endian, in hex."""
    return array.astype(array.dtype.newbyteorder("<")).tobytes().hex()


def floats(*values: float) -> Array:
    """Return a float32 array."""
    return np.array(values, np.float32)


def _arrivals(size: int) -> Iterator[list[Step]]:
    yield _in_order(size, 1)
    yield _in_order(size, 1)[::-1]
    yield _in_order(size, 14)  # as the tests of TF.js do
    yield _in_order(size, 14)[::2] + _in_order(size, 14)[1::2]
    for seed in range(20):
        yield _at_random(size, Random(seed))


def _in_order(size: int, length: int) -> list[Step]:
    # A group without bytes is told so, too.
    return [("add", start, min(start + length, size)) for start in range(0, size or 1, length)]


def _at_random(size: int, random: Random) -> list[Step]:
    cuts = sorted(random.randrange(size + 1) for _ in range(random.randrange(9)))
    pieces: list[Step] = [("add", start, stop) for start, stop in pairwise((0, *cuts, size))]
    random.shuffle(pieces)
    steps: list[Step] = []
    for piece in pieces:
        start, stop = sorted(random.randrange(size + 1) for _ in range(2))
        steps += [
            piece,
            random.choice([piece, ("add", start, stop), ("discard", start, stop), ("discard", stop, stop)]),
        ]
    return steps + pieces


def _lost(decoder: GroupDecoder, found: dict[str, Array], start: int, stop: int) -> dict[str, Array]:
    """Return what stays whole when bytes are taken back: with strings nothing, they are found only by all bytes."""
    if start == stop:
        return found
    if any(array.dtype == object and array.size for array in found.values()):
        return {}
    filled = (weight for weight in decoder.weights if weight.start < weight.stop)
    hit = {weight.spec.name for weight in filled if weight.start < stop and start < weight.stop}
    return {name: array for name, array in found.items() if name not in hit}


def _whole(decoder: GroupDecoder, arrived: bytearray) -> set[str]:
    return {weight.spec.name for weight in decoder.weights if 0 not in arrived[weight.start : weight.stop]}
