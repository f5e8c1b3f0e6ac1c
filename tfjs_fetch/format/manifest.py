"""model.json -> Manifest: all of it is checked before a byte of weights is asked for.

Four documents are understood: layers and graph models (an object with `modelTopology` and `weightsManifest`), weights
without a topology, a bare array of groups, and the older `manifest.json` of PoseNet, an object that gives each weight
its file and shape. The kind is told from the content: TF.js never looks at `format` either.

The checks go from cheap to dear, so that a hostile document costs little: size, nesting, counts, types, sums.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, FailFast, Field, TypeAdapter, ValidationError

from tfjs_fetch.config import Limits
from tfjs_fetch.errors import ManifestError, RefusedError
from tfjs_fetch.format.dtypes import Dtype, QuantizedDtype, itemsize
from tfjs_fetch.format.nesting import depth

# numpy before version 2 has no arrays of more dimensions; TF.js itself stops at 6.
_MAX_RANK = 32
# Lists and objects in the JSON for each weight that is allowed; a weight or a node of a graph has about ten.
_MAX_CONTAINERS = 50

Json: TypeAlias = Any  # what json.loads gives
Kind: TypeAlias = Literal["layers", "graph", "weights"]

# What pydantic takes from JSON into the dataclasses below: nothing is turned from one type into another, but that
# JavaScript writes 1.0 as 1, and may write 3 as 3.0.
_Text: TypeAlias = Annotated[str, Field(strict=True)]
_Number: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Dimension: TypeAlias = Annotated[int, Field(strict=True, ge=0)]


@dataclass(frozen=True, slots=True)
class Quantization:
    """How stored values are read back: value = stored * scale + min, in float64. float16 has neither."""

    dtype: QuantizedDtype
    min: _Number | None = None
    scale: _Number | None = None


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """One weight as model.json declares it.

    `dtype` is the type after dequantization; `group` is "optimizer" for the state of an optimizer, else mostly None.
    """

    name: _Text
    shape: Annotated[tuple[_Dimension, ...], Field(max_length=_MAX_RANK), FailFast()]
    dtype: Dtype
    quantization: Annotated[Quantization | None, BeforeValidator(lambda value: value or None)] = None
    group: _Text | None = None

    @property
    def stored_dtype(self) -> str:
        """The type of the values in the shard."""
        return self.dtype if self.quantization is None else self.quantization.dtype

    @property
    def size(self) -> int:
        """How many values there are."""
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes in the shard; for strings the least that they can take."""
        return self.size * itemsize(self.stored_dtype)


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Weights that lie one behind the other in the concatenation of the files `paths`."""

    paths: Annotated[tuple[Annotated[_Text, Field(min_length=1)], ...], FailFast()]
    weights: Annotated[tuple[WeightSpec, ...], FailFast(), BeforeValidator(lambda value: value or ())] = ()


@dataclass(frozen=True)
class Manifest:
    """A model.json: its groups of weights, and in `document` the JSON as it came, keys that nobody knows included.

    PoseNet's older manifest is kept as the bare manifest that says the same.
    """

    kind: Kind
    groups: tuple[WeightGroup, ...]
    document: Json

    @cached_property
    def weights(self) -> tuple[WeightSpec, ...]:
        """All weights, in the order of the document."""
        return tuple(spec for group in self.groups for spec in group.weights)

    @property
    def topology(self) -> Mapping[str, Json] | None:
        """The `modelTopology` as it came; None if there is none."""
        topology = self.document.get("modelTopology") if isinstance(self.document, dict) else None
        return topology if isinstance(topology, dict) else None

    @property
    def entries(self) -> Sequence[Json]:
        """The groups as they stand in the document."""
        groups = self.document.get(_KEY) if isinstance(self.document, dict) else self.document
        return groups or ()


_GROUPS = TypeAdapter(Annotated[tuple[WeightGroup, ...], FailFast()])


def parse(data: bytes, *, source: str = "model.json", limits: Limits | None = None) -> Manifest:
    """Return what the JSON text `data` (UTF-8, with or without byte order mark) says; `source` names it in errors.

    Raises ManifestError if it is no such document or contradicts itself, RefusedError if it goes beyond `limits`.
    """
    limits = limits or Limits()
    document = _load(data, source, limits)
    root, groups = _groups(document, source)
    _check_counts(groups, source, limits)
    parsed = _validate(groups, root, source)
    _check_weights(parsed, root, source, limits)
    manifest = Manifest("weights", parsed, groups if root == _CHECKPOINT else document)
    return replace(manifest, kind=_kind(manifest.topology))


_KEY = "weightsManifest"
_CHECKPOINT = "manifest"  # how places in a checkpoint's manifest.json begin
_HOLDS_SHAPES = ("weights", "shape")
# pydantic speaks of Python's types where a reader of JSON thinks in its own.
_PROBLEMS = {
    "missing": "it is missing",
    "tuple_type": "it should be a list",
    "dataclass_type": "it should be an object",
    "too_long": f"it should have at most {_MAX_RANK} dimensions",
}


def _load(data: bytes, source: str, limits: Limits) -> Json:
    if len(data) > limits.manifest_bytes:
        raise RefusedError(source, f"it has {len(data):,} bytes, Limits.manifest_bytes is {limits.manifest_bytes:,}")
    if (levels := depth(data)) > limits.depth:
        raise RefusedError(source, f"its JSON is nested {levels:,} deep, Limits.depth is {limits.depth:,}")
    # Empty objects are the dearest JSON there is: three bytes of text become seventy of memory.
    if (containers := data.count(b"{") + data.count(b"[")) > _MAX_CONTAINERS * limits.weights:
        raise RefusedError(source, f"it has {containers:,} lists and objects, over {_MAX_CONTAINERS} for each weight")
    try:
        # Browsers replace bytes that are no UTF-8, too.
        return json.loads(data.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(source, "", f"it is not JSON ({error})") from error


def _groups(document: Json, source: str) -> tuple[str, Sequence[Json]]:
    """Return where in the document the groups stand, and the groups."""
    if isinstance(document, list):
        return "", document
    if not isinstance(document, dict):
        raise ManifestError(source, "", f"it holds {_kind_of_json(document)}, not a model")
    groups = document.get(_KEY)
    if isinstance(groups, list):
        return _KEY, groups
    if groups is not None:
        raise ManifestError(source, _KEY, f"{_kind_of_json(groups)} where a list of groups belongs")
    if document.get("modelTopology") is not None:
        return _KEY, ()
    if document and all(isinstance(value, dict) and "filename" in value for value in document.values()):
        return _CHECKPOINT, [_checkpoint_group(name, entry) for name, entry in document.items()]
    raise ManifestError(source, "", "it has neither modelTopology nor weightsManifest")


def _checkpoint_group(name: str, entry: Mapping[str, Json]) -> Json:
    """Return the group for one weight of a deeplearn.js checkpoint: a file of float32 each."""
    spec = {"name": name, "shape": entry.get("shape"), "dtype": "float32"}
    return {"paths": [entry["filename"]], "weights": [spec]}


def _check_counts(groups: Sequence[Json], source: str, limits: Limits) -> None:
    lists = [group for group in groups if isinstance(group, dict)]
    for key in ("weights", "paths"):
        count = sum(len(group[key]) for group in lists if isinstance(group.get(key), list))
        if count > limits.weights:
            raise RefusedError(source, f"it lists {count:,} {key}, Limits.weights is {limits.weights:,}")
    if len(groups) > limits.weights:
        raise RefusedError(source, f"it lists {len(groups):,} groups, Limits.weights is {limits.weights:,}")


def _validate(groups: Sequence[Json], root: str, source: str) -> tuple[WeightGroup, ...]:
    try:
        return _GROUPS.validate_python(groups)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "int_type" and isinstance(first["input"], float) and first["input"].is_integer():
        return _validate(_with_whole_numbers(groups), root, source)
    place = root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    raise ManifestError(source, place.lstrip("."), _problem(first["type"], first["msg"], first["input"]))


def _with_whole_numbers(value: Json) -> Json:
    """Return the groups with 3.0 in a shape as 3: the same number to JavaScript, so TF.js takes either."""
    if isinstance(value, dict):
        return {key: _with_whole_numbers(item) if key in _HOLDS_SHAPES else item for key, item in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _problem(kind: str, message: str, value: Json) -> str:
    said = _PROBLEMS.get(kind, message.replace("Input should", "it should"))
    return said if kind == "missing" else f"{said}, found {_shown(value)}"


def _check_weights(groups: Sequence[WeightGroup], root: str, source: str, limits: Limits) -> None:
    names: set[str] = set()
    stored = decoded = 0
    for index, group in enumerate(groups):
        before = stored
        for position, spec in enumerate(group.weights):
            if spec.quantization is not None and (problem := _quantization_problem(spec)):
                raise ManifestError(source, f"{root}[{index}].weights[{position}].quantization", problem)
            if spec.name in names:
                place = f"{root}[{index}].weights[{position}].name"
                raise ManifestError(source, place, f"a second weight is called {_shown(spec.name)}")
            names.add(spec.name)
            size = _size(spec, f"{root}[{index}].weights[{position}].shape", source, limits)
            stored += size * itemsize(spec.stored_dtype)
            decoded += size * itemsize(spec.dtype)
        if stored > before and not group.paths:
            raise ManifestError(source, f"{root}[{index}].paths", "no file holds the weights of this group")
    if max(stored, decoded) > limits.weight_bytes:
        raise _too_large(source, f"{root}: {max(stored, decoded):,} bytes of weights go", limits)


def _size(spec: WeightSpec, place: str, source: str, limits: Limits) -> int:
    """Return how many values `spec` has; refuse shapes whose numbers alone are absurd, beside a 0 as well."""
    size = 1
    empty = False
    for dimension in spec.shape:
        if dimension == 0:
            empty = True
        else:
            size *= dimension
            if size > limits.weight_bytes:
                raise _too_large(source, f"{place}: weight {_shown(spec.name)} with {_shown(spec.shape)} goes", limits)
    return 0 if empty else size


def _too_large(source: str, what: str, limits: Limits) -> RefusedError:
    return RefusedError(source, f"{what} beyond Limits.weight_bytes, which is {limits.weight_bytes:,}")


def _quantization_problem(spec: WeightSpec) -> str | None:
    assert spec.quantization is not None
    allowed = ("float32",) if spec.quantization.dtype == "float16" else ("float32", "int32")
    if spec.dtype not in allowed:
        return f"{spec.quantization.dtype} cannot be read back as {spec.dtype}, only as {' or '.join(allowed)}"
    if spec.quantization.dtype != "float16" and (spec.quantization.min is None or spec.quantization.scale is None):
        return f"{spec.quantization.dtype} needs both min and scale"
    return None


def _kind(topology: Mapping[str, Json] | None) -> Kind:
    if topology is None:
        return "weights"
    if "node" in topology:
        return "graph"
    return "layers" if "class_name" in topology or "model_config" in topology else "weights"


def _kind_of_json(value: Json) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: Json) -> str:
    """Return `value` as a short text: what came from outside may be of any length."""
    if isinstance(value, (dict, list)):
        return _kind_of_json(value)
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
