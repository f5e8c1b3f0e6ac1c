"""Where each weight lies in its group, and which shard holds which bytes.

A group is the concatenation of its shards, in the order of `paths`; its weights lie in it one behind the other in the
order of `weights`, without padding, and are cut into shards anywhere. So all positions follow from the manifest alone,
unless there are strings: they carry their lengths with them, and are found by walking over the bytes. (A string weight
whose shape has a 0 holds no strings and takes no bytes.)
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import eq
from typing import NamedTuple

from tfjs_fetch.errors import ExtraBytesError, MissingBytesError, ShardOrderError
from tfjs_fetch.format.dtypes import STRING, STRING_PREFIX
from tfjs_fetch.format.manifest import Manifest, WeightGroup, WeightSpec
from tfjs_fetch.redaction import redact_path

# The shard size of every converter, unless its user asked for another one.
USUAL_SHARD_BYTES = 4 * 2**20

_NUMBERED = re.compile(r"(?P<before>.*\D|)(?P<number>\d{1,9})of(?P<count>\d{1,9})(?P<after>\D.*|)", re.DOTALL)


class PlacedWeight(NamedTuple):
    """A weight and the bytes of its group that hold it: from `start` up to `stop`."""

    spec: WeightSpec
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """The layout of one group, or of some neighbouring weights of one.

    `size` is the exact number of bytes; None if there are strings, and then `weights` is empty until `scan`ned.
    """

    index: int
    paths: tuple[str, ...]
    specs: tuple[WeightSpec, ...]
    weights: tuple[PlacedWeight, ...]
    size: int | None

    def shard_at(self, position: int, sizes: Sequence[int]) -> str:
        """Return the path of the shard that holds the byte at `position`, the last one beyond the end."""
        for path, stop in zip(self.paths, accumulate(sizes), strict=False):
            if position < stop:
                return path
        return self.paths[-1] if self.paths else ""

    def first_beyond(self, size: int) -> str:
        """Return the name of the first weight that does not fit into `size` bytes."""
        return next((weight.spec.name for weight in self.weights if weight.stop > size), "")


def lay_out(manifest: Manifest) -> tuple[GroupLayout, ...]:
    """Return the layouts of all groups, in order."""
    return tuple(_lay_out_group(index, group) for index, group in enumerate(manifest.groups))


def scan(index: int, specs: Sequence[WeightSpec], paths: tuple[str, ...], data: memoryview) -> tuple[PlacedWeight, ...]:
    """Return where the weights `specs` of a group with strings lie in its bytes `data`.

    Raises MissingBytesError if `data` ends before the last of them does.
    """
    weights: list[PlacedWeight] = []
    start = 0
    for spec in specs:
        stop = _string_end(spec, data, start) if spec.dtype == STRING else start + spec.stored_bytes
        if stop > len(data):
            raise MissingBytesError(index, spec.name, paths[-1] if paths else "", stop, len(data))
        weights.append(PlacedWeight(spec, start, stop))
        start = stop
    return tuple(weights)


def check_total(layout: GroupLayout, sizes: Sequence[int], *, tolerate_extra: bool) -> int:
    """Return how many bytes of shards with these `sizes` lie behind the weights of the group (0 with strings).

    Raises MissingBytesError if there are too few, ExtraBytesError if there are too many and that is not tolerated.
    """
    if layout.size is None:
        return 0
    total = sum(sizes)
    if total < layout.size:
        shard = layout.paths[_odd_one(sizes)] if layout.paths else ""
        raise MissingBytesError(layout.index, layout.first_beyond(total), shard, layout.size, total)
    if total > layout.size and not tolerate_extra:
        raise ExtraBytesError(layout.index, layout.shard_at(layout.size, sizes), layout.size, total)
    return total - layout.size


def misplaced_surplus(layout: GroupLayout, sizes: Sequence[int]) -> str | None:
    """Return the shard of these `sizes` with bytes too many in front of others that are wanted; None if none is known.

    TF.js reads such a group all the same: as garbage from there on.
    """
    usual = usual_sizes(layout)
    if usual is not None:
        odd = [path for path, size, right in zip(layout.paths[:-1], sizes, usual, strict=False) if size != right]
    else:
        # A file of which not a byte is read cannot be meant so.
        odd = [layout.paths[-2]] if len(sizes) > 1 and sum(sizes[:-1]) >= (layout.size or 0) and sizes[-1] else []
    return odd[0] if odd else None


def check_order(index: int, paths: Sequence[str]) -> None:
    """Raise ShardOrderError if `paths` have names of the form `…KofN…` and are not all of 1 to N, in order."""
    numbers: dict[tuple[str, str, int], list[int]] = {}
    for path in paths:
        found = _NUMBERED.fullmatch(redact_path(path).split("?", 1)[0])
        if found is None:
            return
        key = (found["before"], found["after"], int(found["count"]))
        numbers.setdefault(key, []).append(int(found["number"]))
    for (before, after, count), listed in numbers.items():
        if problem := _order_problem(listed, count):
            raise ShardOrderError(index, tuple(paths), f"of the shards {before}…of{count}{after} {problem}")


def usual_sizes(layout: GroupLayout) -> tuple[int, ...] | None:
    """Return the shard sizes if they follow from the usual one (4 MiB, and a rest) or from there being one shard.

    A guess that nearly always holds, to be checked when the server says the length; None if it cannot be made.
    """
    if layout.size is None or not layout.paths:
        return None
    full, rest = divmod(layout.size, USUAL_SHARD_BYTES)
    if len(layout.paths) == 1:
        return (layout.size,)
    sizes = (USUAL_SHARD_BYTES,) * full + ((rest,) if rest else ())
    return sizes if len(sizes) == len(layout.paths) else None


def _lay_out_group(index: int, group: WeightGroup) -> GroupLayout:
    if any(spec.dtype == STRING and spec.size for spec in group.weights):
        return GroupLayout(index, group.paths, group.weights, (), None)
    weights: list[PlacedWeight] = []
    start = 0
    for spec in group.weights:
        stop = start + spec.stored_bytes
        weights.append(PlacedWeight(spec, start, stop))
        start = stop
    return GroupLayout(index, group.paths, group.weights, tuple(weights), start)


def _string_end(spec: WeightSpec, data: memoryview, start: int) -> int:
    """Return where the strings of `spec` end; beyond the end of `data` if they are cut short."""
    if start + spec.stored_bytes > len(data):
        return start + spec.stored_bytes
    for _ in range(spec.size):
        prefix = data[start : start + STRING_PREFIX]
        if len(prefix) < STRING_PREFIX:
            return start + STRING_PREFIX
        start += STRING_PREFIX + int.from_bytes(prefix, "little")
    return start


def _odd_one(sizes: Sequence[int]) -> int:
    """Return the index of the shard that is probably short: the first smaller than the largest, else the last."""
    largest = max(sizes, default=0)
    return next((index for index, size in enumerate(sizes) if size < largest), max(len(sizes) - 1, 0))


def _order_problem(listed: list[int], count: int) -> str | None:
    first = 0 if 0 in listed else 1
    wanted = range(first, first + count)  # only to be walked as far as `listed` goes: `count` may be any number
    if len(listed) == count and all(map(eq, listed, wanted)):
        return None
    if (repeated := _repeated(listed)) is not None:
        return f"number {repeated} is listed twice"
    present = set(listed)
    if len(listed) != count or not all(number in wanted for number in present):
        missing = next((number for number in wanted if number not in present), None)
        return f"{len(listed)} are listed" + ("" if missing is None else f", number {missing} is missing")
    return f"the order is {', '.join(map(str, listed[:12]))}{'…' if len(listed) > 12 else ''}"


def _repeated(numbers: Iterable[int]) -> int | None:
    seen: set[int] = set()
    for number in numbers:
        if number in seen:
            return number
        seen.add(number)
    return None
