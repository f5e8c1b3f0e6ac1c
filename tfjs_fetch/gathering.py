"""Weights out of buffers at hand: mapped files, members of archives, bytes that a caller has."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np

from tfjs_fetch.content import HEAD_BYTES, suspicion, unmistakable
from tfjs_fetch.errors import ExtraBytesError, MissingBytesError, WrongContentError
from tfjs_fetch.format.decoding import odd_bools
from tfjs_fetch.format.layout import GroupLayout, PlacedWeight, scan
from tfjs_fetch.format.manifest import WeightSpec
from tfjs_fetch.planning import Blueprint, extra_bytes, warn_of_surplus


def gather(
    blueprint: Blueprint, shards: Mapping[str, memoryview], warn: Callable[[str], None]
) -> Mapping[str, memoryview]:
    """Return the stored bytes of the wanted weights, without a copy but of those that lie across shards.

    `shards` are the files of all needed groups, by their path in model.json; `warn` is told what is odd.

    Raises DecodeError if they do not fit, WrongContentError if one is visibly something else.
    """
    stored: dict[str, memoryview] = {}
    for layout in blueprint.layouts:
        files = [shards[path] for path in layout.paths] if blueprint.is_needed(layout) else []
        for spec, data in _weights(blueprint, layout, files, warn):
            if spec.name in blueprint.wanted:
                stored[spec.name] = data
                if odd := odd_bools(spec, data):
                    warn(odd_message(spec, odd))
    return stored


def odd_message(spec: WeightSpec, odd: int) -> str:
    """Return what to tell of `odd` bytes of a bool weight that are neither 0 nor 1."""
    return f"weight {spec.name!r} is bool, but {odd:,} of its bytes are neither 0 nor 1"


def _weights(
    blueprint: Blueprint, layout: GroupLayout, files: Sequence[memoryview], warn: Callable[[str], None]
) -> Sequence[tuple[WeightSpec, memoryview]]:
    group = _Concatenation(files)
    heads = [(path, bytes(file[:HEAD_BYTES])) for path, file in zip(layout.paths, files, strict=False)]
    try:
        placed, surplus = _placed(blueprint, layout, group)
    except (MissingBytesError, ExtraBytesError) as error:
        raise suspicion(heads, error) or error from None
    for path, head in heads:
        if (content := unmistakable(head)) is not None:
            raise WrongContentError(path, content)
    if surplus:
        warn_of_surplus(layout, group.sizes, group.size - surplus, heads, warn)
    return [(weight.spec, group.slice(weight.start, weight.stop)) for weight in placed]


def _placed(blueprint: Blueprint, layout: GroupLayout, group: "_Concatenation") -> tuple[Sequence[PlacedWeight], int]:
    """Return the weights of the group, and how many bytes lie behind them."""
    if layout.size is not None:
        surplus = blueprint.check_total(layout, group.sizes) if blueprint.is_needed(layout) else 0
        return [weight for weight in layout.weights if weight.spec.name in blueprint.wanted], surplus
    if not blueprint.holds_wanted(layout):
        return (), 0
    weights = scan(layout.index, layout.specs, layout.paths, group.slice(0, group.size))
    used = weights[-1].stop if weights else 0
    if used < group.size and not blueprint.tolerates_extra(layout):
        raise extra_bytes(layout, group.sizes, used)
    return weights, group.size - used


class _Concatenation:
    """Buffers one behind the other, as if they were one."""

    def __init__(self, buffers: Sequence[memoryview]) -> None:
        self.sizes = [len(buffer) for buffer in buffers]
        self.size = sum(self.sizes)
        self._buffers = buffers
        self._stops = list(accumulate(self.sizes))

    def slice(self, start: int, stop: int) -> memoryview:
        """Return the bytes from `start` up to `stop`: a view if they lie in one buffer, else a copy."""
        if start >= stop:
            return memoryview(b"")
        first = bisect_right(self._stops, start)
        before = self._stops[first] - self.sizes[first]
        if stop <= self._stops[first]:
            return self._buffers[first][start - before : stop - before]
        last = bisect_right(self._stops, stop - 1)
        pieces = [self._buffers[first][start - before :], *self._buffers[first + 1 : last]]
        pieces.append(self._buffers[last][: stop - (self._stops[last] - self.sizes[last])])
        whole = np.empty(stop - start, np.uint8)
        at = 0
        for piece in pieces:
            # By numpy, which lets other threads run meanwhile: the pages of a mapped file may have to be read first.
            whole[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)
        return whole.data
