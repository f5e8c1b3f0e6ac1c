"""Choosing and renaming weights: what remains of a manifest."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from tfjs_fetch.errors import UnknownWeightError
from tfjs_fetch.format.manifest import Json, Manifest, WeightGroup, WeightSpec


def chosen(names: Collection[str], patterns: str | Iterable[str]) -> frozenset[str]:
    """Return those of `names` that match one of `patterns`: an exact name, or a glob whose `*` crosses slashes.

    Raises UnknownWeightError for a pattern that matches none, with the nearest names.
    """
    known = frozenset(names)
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = {pattern} if pattern in known else {name for name in known if fnmatchcase(name, pattern)}
        if not matches:
            raise UnknownWeightError.among(pattern, names)
        found |= matches
    return frozenset(found)


def restrict(manifest: Manifest, names: Collection[str]) -> Manifest:
    """Return the manifest of the weights `names` alone; it lists no files, for none holds just these."""
    groups, entries = [], []
    for group, entry in zip(manifest.groups, manifest.entries, strict=True):
        kept = [index for index, spec in enumerate(group.weights) if spec.name in names]
        if kept:
            groups.append(WeightGroup((), tuple(group.weights[index] for index in kept)))
            entries.append({**entry, "paths": [], "weights": [entry["weights"][index] for index in kept]})
    return with_groups(manifest, groups, entries)


def renamed(manifest: Manifest, names: Mapping[str, str]) -> Manifest:
    """Return the manifest with each weight called what `names` says for it, if anything."""

    def rename(spec: WeightSpec) -> WeightSpec:
        return replace(spec, name=names.get(spec.name, spec.name))

    groups = [replace(group, weights=tuple(map(rename, group.weights))) for group in manifest.groups]
    entries = [
        {**entry, "weights": [{**weight, "name": names.get(weight["name"], weight["name"])} for weight in weights]}
        for entry in manifest.entries
        for weights in [entry.get("weights") or []]
    ]
    return with_groups(manifest, groups, entries)


def with_groups(manifest: Manifest, groups: Sequence[WeightGroup], entries: Sequence[Json]) -> Manifest:
    """Return `manifest` with other groups; `entries` are the same groups as JSON."""
    bare = not isinstance(manifest.document, dict)
    document: Json = list(entries) if bare else {**manifest.document, "weightsManifest": list(entries)}
    return Manifest(manifest.kind, tuple(groups), document)
