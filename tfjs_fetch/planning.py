"""Plan: what a load will bring, known from model.json alone."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from tfjs_fetch.config import Limits, Policy
from tfjs_fetch.content import suspicion
from tfjs_fetch.errors import ExtraBytesError
from tfjs_fetch.format.layout import GroupLayout, check_order, check_total, lay_out, misplaced_surplus, usual_sizes
from tfjs_fetch.format.manifest import Manifest, WeightSpec
from tfjs_fetch.format.selection import chosen, restrict
from tfjs_fetch.stretches import Stretch, joined

# Bytes behind the weights that are unpacked from an archive all the same, to warn of them.
_SURPLUS_BYTES = 64 * 2**20
# Wanted bytes of a file that are at most so far apart are asked for at once, together with what lies between them.
GAP_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A file to load. `index` counts the files of the model from 0; `size` is None where model.json does not tell.

    `ranges` are the bytes (start, stop) of it to ask for, all if empty; a server may send the whole all the same.
    `path` and `url` are kept out of the repr: they may carry a signature.
    """

    index: int
    group: int
    path: str = field(repr=False)
    url: str = field(repr=False)
    size: int | None
    ranges: tuple[Stretch, ...] = ()

    @property
    def asked_bytes(self) -> int | None:
        """How many bytes will be asked for; None if that is unknown."""
        return sum(stop - start for start, stop in self.ranges) if self.ranges else self.size


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load will bring: `weights` out of the files `shards`.

    `total_bytes` counts the stored bytes of the weights and is exact; None if there are strings. `cached_bytes` of
    them need not travel. When only some weights are wanted, `shards` are all files that may hold them, and their
    `ranges` the parts that will be asked for.
    """

    source: str
    manifest: Manifest = field(repr=False)
    weights: tuple[WeightSpec, ...] = field(repr=False)
    shards: tuple[PlannedShard, ...]
    total_bytes: int | None
    cached_bytes: int = 0

    @property
    def asked_bytes(self) -> int | None:
        """How many bytes of the shards will be asked for; None if that is unknown."""
        counts = [shard.asked_bytes for shard in self.shards]
        return None if None in counts else sum(count or 0 for count in counts)

    def as_json(self) -> Mapping[str, Any]:
        """Return the plan as values that `json.dumps` takes, without the queries of URLs."""
        return {
            "source": self.source,
            "kind": self.manifest.kind,
            "weights": len(self.weights),
            "total_bytes": self.total_bytes,
            "cached_bytes": self.cached_bytes,
            "asked_bytes": self.asked_bytes,
            "shards": [
                {
                    "index": shard.index,
                    "group": shard.group,
                    "path": shard.path.split("?")[0],
                    "size": shard.size,
                    "ranges": shard.ranges,
                }
                for shard in self.shards
            ],
        }


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A manifest laid out for one load: all groups, and the names of the weights that are wanted."""

    manifest: Manifest
    layouts: tuple[GroupLayout, ...]
    wanted: frozenset[str]
    policy: Policy

    @property
    def everything(self) -> bool:
        """Whether all weights are wanted."""
        return len(self.wanted) == len(self.manifest.weights)

    @property
    def wanted_manifest(self) -> Manifest:
        """The manifest of the wanted weights."""
        return self.manifest if self.everything else restrict(self.manifest, self.wanted)

    @property
    def wanted_specs(self) -> tuple[WeightSpec, ...]:
        """The wanted weights, in order."""
        if self.everything:
            return self.manifest.weights
        return tuple(spec for spec in self.manifest.weights if spec.name in self.wanted)

    @property
    def total_bytes(self) -> int | None:
        """Stored bytes of the wanted weights; None if a group with strings is among what has to be loaded."""
        if any(layout.size is None for layout in self.layouts if self.holds_wanted(layout)):
            return None
        if self.everything:
            return sum(layout.size or 0 for layout in self.layouts)
        return sum(spec.stored_bytes for spec in self.wanted_specs)

    def holds_wanted(self, layout: GroupLayout) -> bool:
        """Whether a wanted weight is in that group."""
        return any(spec.name in self.wanted for spec in layout.specs)

    def is_needed(self, layout: GroupLayout) -> bool:
        """Whether files of that group must be loaded.

        One without weights says nothing and often has no file, although one is listed. With weights that are all
        empty its file matters where surplus bytes in it would shift what TF.js reads behind it.
        """
        if layout.size == 0:
            return self.everything and bool(layout.specs) and bool(layout.paths) and not self.tolerates_extra(layout)
        return self.holds_wanted(layout)

    def tolerates_extra(self, layout: GroupLayout) -> bool:
        """Whether bytes behind the weights of that group are no error: in the last group TF.js ignores them."""
        return self.policy.extra_bytes == "ignore" or layout.index == len(self.layouts) - 1

    def room(self, limits: Limits) -> int:
        """Return how many bytes the needed files may have: what their weights take, and some surplus."""
        sizes = [layout.size for layout in self.layouts if self.is_needed(layout)]
        known = [size for size in sizes if size is not None]
        return sum(known) + _SURPLUS_BYTES if len(known) == len(sizes) else limits.weight_bytes

    def check_total(self, layout: GroupLayout, sizes: Sequence[int]) -> int:
        """Return how many surplus bytes shards of these sizes have; raise if that, or a lack, is an error."""
        surplus = check_total(layout, sizes, tolerate_extra=self.tolerates_extra(layout))
        if surplus and self.policy.extra_bytes == "error" and (shard := misplaced_surplus(layout, sizes)) is not None:
            raise ExtraBytesError(layout.index, shard, layout.size or 0, sum(sizes))
        return surplus


def draw(manifest: Manifest, weights: str | Iterable[str] | None, policy: Policy) -> Blueprint:
    """Return the blueprint for the weights that match `weights`, or for all.

    Raises UnknownWeightError for a pattern that matches nothing, ShardOrderError if the names of shards contradict
    their order and `policy` does not ignore that.
    """
    layouts = lay_out(manifest)
    if policy.shard_order == "error":
        for layout in layouts:
            check_order(layout.index, layout.paths)
    names = [spec.name for spec in manifest.weights]
    return Blueprint(manifest, layouts, frozenset(names) if weights is None else chosen(names, weights), policy)


def needed_shards(blueprint: Blueprint, layout: GroupLayout, sizes: Sequence[int] | None) -> Collection[int]:
    """Return which shards of the group have to be loaded, by their place in it; all if their `sizes` are unknown."""
    if not blueprint.is_needed(layout):
        return ()
    if blueprint.everything or sizes is None or layout.size is None:
        return range(len(layout.paths))
    stops = list(accumulate(sizes))
    needed: set[int] = set()
    for weight in layout.weights:
        if weight.spec.name in blueprint.wanted and weight.start < weight.stop:
            needed.update(range(bisect_right(stops, weight.start), bisect_left(stops, weight.stop) + 1))
    return sorted(index for index in needed if sizes[index])


def plan_shards(blueprint: Blueprint, urls: Sequence[Sequence[str]]) -> tuple[PlannedShard, ...]:
    """Return the shards to load; `urls` are those of each group's files."""
    shards: list[PlannedShard] = []
    first = 0
    for layout, addresses in zip(blueprint.layouts, urls, strict=True):
        sizes = usual_sizes(layout)
        starts = None if sizes is None else list(accumulate(sizes, initial=0))
        for position in needed_shards(blueprint, layout, sizes):
            size = None if sizes is None else sizes[position]
            ranges = () if starts is None else _ranges(blueprint, layout, starts[position], starts[position + 1])
            path, url = layout.paths[position], addresses[position]
            shards.append(PlannedShard(first + position, layout.index, path, url, size, ranges))
        first += len(layout.paths)
    return tuple(shards)


def _ranges(blueprint: Blueprint, layout: GroupLayout, start: int, stop: int) -> tuple[Stretch, ...]:
    """Return the bytes to ask for of the file that lies between `start` and `stop` of its group; none for all."""
    if blueprint.everything:
        return ()
    first = bisect_right(layout.weights, start, key=lambda weight: weight.stop)
    last = bisect_left(layout.weights, stop, key=lambda weight: weight.start)
    inside = (
        (max(weight.start, start) - start, min(weight.stop, stop) - start)
        for weight in layout.weights[first:last]
        if weight.spec.name in blueprint.wanted and weight.start < weight.stop
    )
    ranges = joined(inside, GAP_BYTES)
    return () if ranges == [(0, stop - start)] else tuple(ranges)


def extra_bytes(layout: GroupLayout, sizes: Sequence[int], used: int) -> ExtraBytesError:
    """Return the error for shards of these sizes of which only `used` bytes are of use."""
    return ExtraBytesError(layout.index, layout.shard_at(used, sizes), used, sum(sizes))


def warn_of_surplus(
    layout: GroupLayout,
    sizes: Sequence[int],
    used: int,
    heads: Iterable[tuple[str, bytes]],
    warn: Callable[[str], None],
) -> None:
    """Tell `warn` of the bytes behind the `used` ones of a group whose files (URL, first bytes) begin as in `heads`.

    Raises WrongContentError if one of the files is visibly no weights: then it is no surplus at all.
    """
    if (error := suspicion(heads, extra_bytes(layout, sizes, used))) is not None:
        raise error
    warn(f"weight group {layout.index} has {sum(sizes) - used:,} bytes or more behind its weights; they are ignored")
