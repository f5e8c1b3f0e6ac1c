"""WeightBundle: the weights of a model, by name."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfjs_fetch.errors import EncodeError, UnknownWeightError
from tfjs_fetch.format.decoding import decode, stored_values
from tfjs_fetch.format.dtypes import Array, itemsize
from tfjs_fetch.format.encoding import encode
from tfjs_fetch.format.manifest import Json, Manifest, WeightGroup, WeightSpec
from tfjs_fetch.format.selection import chosen, renamed, restrict, with_groups
from tfjs_fetch.format.topology import GraphTopology, LayersTopology, topology

Scalar = TypeVar("Scalar", bound=np.generic)
Default = TypeVar("Default")


class WeightBundle(Mapping[str, Array]):
    """A read-only mapping of weight name to array, in the order of model.json.

    Arrays have the shape and, after dequantization, the type that model.json declares: float32, int32, bool,
    complex64, or object arrays of bytes for strings (float16, uint8 and uint16 where a Python tool wrote them).
    Weights that need no conversion are views of the memory they arrived in, or of a mapped file; others are decoded
    on first use at the latest. A bundle needs no close and may be read from any thread. Two bundles are equal if
    their digests are.

    Bundles come from `fetch`, `decode` and `from_arrays`.
    """

    def __init__(
        self,
        manifest: Manifest,
        stored: Mapping[str, memoryview],
        arrays: Mapping[str, Array] = MappingProxyType({}),
        *,
        source: str = "",
    ) -> None:
        """Take the stored bytes of every weight of `manifest`, and those arrays that are already decoded."""
        self.manifest = manifest
        self.source = source
        self._stored = {spec.name: _readonly(stored[spec.name]) for spec in manifest.weights}
        self._arrays = dict(arrays)

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, ArrayLike] | Sequence[Mapping[str, ArrayLike]],
        *,
        like: "WeightBundle | None" = None,
    ) -> Self:
        """Return a bundle of copies of `arrays`; a sequence of mappings gives as many groups.

        With `like` the bundle takes over the topology and all other parts of that one's model.json.

        Raises EncodeError if a value cannot be stored (see `format.encoding.encode`) or a name comes twice.
        """
        groups, entries, stored = [], [], {}
        for mapping in [arrays] if isinstance(arrays, Mapping) else arrays:
            specs = []
            for name, values in mapping.items():
                if not isinstance(name, str):
                    raise TypeError(f"the name of a weight is a string, not {name!r}")
                if name in stored:
                    raise EncodeError(name, "is there twice")
                dtype, shape, data = encode(name, values)
                stored[name] = memoryview(data)
                specs.append(WeightSpec(name, shape, dtype))
            groups.append(WeightGroup((), tuple(specs)))
            entries.append({"paths": [], "weights": [_entry(spec) for spec in specs]})
        model = like.manifest if like is not None else Manifest("weights", (), {"weightsManifest": []})
        return cls(with_groups(model, groups, entries), stored, source=like.source if like is not None else "")

    def __getitem__(self, name: str) -> Array:
        """Return the weight `name`. Raises UnknownWeightError, a KeyError, with the nearest names."""
        array = self._arrays.get(name)
        if array is None:
            # Two threads may both decode it; `setdefault` lets both have the same array.
            array = self._arrays.setdefault(name, decode(self.spec(name), self._stored[name]))
        return array

    @overload
    def get(self, name: str, /) -> Array | None: ...

    @overload
    def get(self, name: str, /, default: Array | Default) -> Array | Default: ...

    def get(self, name: str, /, default: object = None) -> object:
        """Return the weight `name`, else `default`, without a look for the nearest names."""
        return self[name] if name in self._stored else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, WeightBundle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<WeightBundle {self.source or 'of arrays'}: {len(self)} weights, {self.nbytes:,} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        stored = {name: bytes(data) for name, data in self._stored.items()}
        return _restored, (type(self), self.manifest, stored, self.source)

    def spec(self, name: str) -> WeightSpec:
        """Return what model.json declares of the weight `name`."""
        try:
            return self._specs[name]
        except KeyError:
            raise UnknownWeightError.among(name, self) from None

    def array(self, name: str, dtype: type[Scalar], shape: tuple[int, ...] | None = None) -> NDArray[Scalar]:
        """Return the weight `name`, known to have this type and shape to type checkers as well.

        Raises TypeError if its dtype is another one, ValueError if its shape is.
        """
        array = self[name]
        if array.dtype != np.dtype(dtype):
            raise TypeError(f"weight {name!r} is {array.dtype}, not {np.dtype(dtype)}")
        if shape is not None and array.shape != shape:
            raise ValueError(f"weight {name!r} has the shape {array.shape}, not {shape}")
        return array

    def stored(self, name: str) -> Array:
        """Return the weight `name` as it lies in the file: uint8, uint16 or float16 if quantized, uint8 for bool."""
        return stored_values(self.spec(name), self._stored[name])

    def select(self, names: str | Iterable[str]) -> "WeightBundle":
        """Return the bundle of the weights that match `names`, globs or exact names, sharing their memory.

        Raises UnknownWeightError for one that matches nothing.
        """
        keep = chosen(self._stored, names)
        arrays = {name: array for name, array in self._arrays.items() if name in keep}
        return WeightBundle(restrict(self.manifest, keep), self._stored, arrays, source=self.source)

    def rename(self, names: Mapping[str, str] | Callable[[str], str]) -> "WeightBundle":
        """Return the same weights under other names: a mapping of those that change, or a function of the name.

        Raises UnknownWeightError for a name in the mapping that no weight has, ValueError if two would be called the
        same.
        """
        new = self._new_names(names)
        ((called, count),) = Counter(new.values()).most_common(1) or [("", 0)]
        if count > 1:
            raise ValueError(f"two weights would be called {called!r}")
        stored = {new[name]: data for name, data in self._stored.items()}
        arrays = {new[name]: array for name, array in self._arrays.items()}
        return WeightBundle(renamed(self.manifest, new), stored, arrays, source=self.source)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each weight."""
        return MappingProxyType({spec.name: spec.shape for spec in self.manifest.weights})

    @cached_property
    def dtypes(self) -> Mapping[str, str]:
        """The type of each weight as model.json names it, after dequantization."""
        return MappingProxyType({spec.name: spec.dtype for spec in self.manifest.weights})

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all decoded arrays; strings count with the bytes they are stored in."""
        return sum(
            len(self._stored[spec.name]) if spec.dtype == "string" else spec.size * itemsize(spec.dtype)
            for spec in self.manifest.weights
        )

    @cached_property
    def digest(self) -> str:
        """The sha256, in hex, of all declarations and stored bytes, however they are cut into groups and shards.

        For each weight in order: the compact JSON of `[name, dtype, shape, quantization]`, a newline, the bytes.
        """
        digest = hashlib.sha256()
        entries = [weight for group in self.manifest.entries for weight in group.get("weights") or ()]
        for spec, entry in zip(self.manifest.weights, entries, strict=True):
            declared = [spec.name, spec.dtype, list(spec.shape), entry.get("quantization") or None]
            digest.update(json.dumps(declared, separators=(",", ":")).encode() + b"\n")
            digest.update(self._stored[spec.name])
        return digest.hexdigest()

    @cached_property
    def topology(self) -> LayersTopology | GraphTopology | None:
        """The layers or nodes of the model, None if model.json has none."""
        return topology(self.manifest)

    @cached_property
    def _specs(self) -> Mapping[str, WeightSpec]:
        return {spec.name: spec for spec in self.manifest.weights}

    def _new_names(self, names: Mapping[str, str] | Callable[[str], str]) -> dict[str, str]:
        if not isinstance(names, Mapping):
            return {name: names(name) for name in self}
        for name in names:
            self.spec(name)
        return {name: names.get(name, name) for name in self}


def _readonly(data: memoryview) -> memoryview:
    return data if data.readonly else data.toreadonly()


def _entry(spec: WeightSpec) -> Json:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _restored(kind: type[WeightBundle], manifest: Manifest, stored: Mapping[str, bytes], source: str) -> WeightBundle:
    return kind(manifest, {name: memoryview(data) for name, data in stored.items()}, source=source)
