"""Example models for tests: a document, its shards, and the arrays that they stand for."""

import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from mock_server import File
from mock_server.files import LONG_AGO, Entry
from tfjs_fetch import Retry, WeightBundle
from tfjs_fetch.format.dtypes import Array

# Attempts follow each other at once.
QUICK = Retry(delay=0.0, max_delay=0.0)

# Clients with this one need not load the certificates of the world.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_NAMES = {"f": "float32", "i": "int32", "b": "bool", "c": "complex64"}


@dataclass(frozen=True)
class Group:
    """A group as JSON, and the content of its shards by their path."""

    entry: Mapping[str, Any]
    shards: Mapping[str, bytes]
    arrays: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A model: its files by name, and what its weights are."""

    document: Any  # JSON
    shards: Mapping[str, bytes]
    arrays: Mapping[str, Array]

    @property
    def files(self) -> dict[str, bytes]:
        """All files, model.json first."""
        return {"model.json": json.dumps(self.document).encode(), **self.shards}

    def hosted(
        self,
        at: str = "/m/",
        *,
        framing: Literal["length", "chunked", "close"] = "length",
        gzip: Literal["never", "always", "accepted"] = "never",
        etag: str | None = "sha256",
        last_modified: datetime | None = LONG_AGO,
    ) -> dict[str, Entry]:
        """Return the files as those of a server, by path; it frames, encodes and names the shards as is said."""
        shards = {
            at + path: File(data, framing=framing, gzip=gzip, etag=etag, last_modified=last_modified)
            for path, data in self.shards.items()
        }
        return {f"{at}model.json": File(self.files["model.json"]), **shards}


def model(*groups: Group, **more: object) -> Model:
    """Return the model of `groups`; `more` goes into its document."""
    shards = {path: content for group in groups for path, content in group.shards.items()}
    arrays = {name: array for group in groups for name, array in group.arrays.items()}
    return Model({"modelTopology": None, "weightsManifest": [g.entry for g in groups], **more}, shards, arrays)


def group(arrays: Mapping[str, Any], sizes: Sequence[int] | None = None, name: str = "w") -> Group:
    """Return the group of `arrays` in shards `name`0, `name`1… of these `sizes`; in one without them."""
    values = {key: np.asarray(value) for key, value in arrays.items()}
    data = b"".join(value.astype(value.dtype.newbyteorder("<")).tobytes() for value in values.values())
    weights = [
        {"name": key, "shape": list(value.shape), "dtype": _NAMES[value.dtype.kind]} for key, value in values.items()
    ]
    shards = cut(data, [len(data)] if sizes is None else sizes, name)
    return Group({"paths": list(shards), "weights": weights}, shards, values)


def cut(data: bytes, sizes: Sequence[int], name: str = "w") -> dict[str, bytes]:
    """Return `data` in shards of these `sizes`, by path."""
    stops = list(accumulate(sizes, initial=0))
    assert stops[-1] == len(data)
    return {f"{name}{index}": data[start:stop] for index, (start, stop) in enumerate(pairwise(stops))}


def f32(values: ArrayLike) -> Array:
    """Return `values` as float32."""
    return np.array(values, np.float32)


def floats(count: int, first: float = 0.0) -> Array:
    """Return `count` float32 values that differ from their neighbours."""
    return np.arange(count, dtype=np.float32) + np.float32(first)


def many(shards: int, *, first: float = 0.0) -> Model:
    """Return a model of so many shards with a weight of four values each."""
    arrays = {f"w{index}": floats(4, first + index) for index in range(shards)}
    return model(group(arrays, [16] * shards, name="s"))


def written(directory: Path, files: Mapping[str, bytes]) -> Path:
    """Write `files` into `directory` and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def assert_equal(bundle: Mapping[str, Array], expected: Mapping[str, Any]) -> None:
    """Check names and their order, types, shapes and values, bit for bit."""
    assert list(bundle) == list(expected)
    for name, wanted in expected.items():
        array, wanted = bundle[name], np.asarray(wanted)
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape), name
        assert array.tobytes() == wanted.tobytes(), name
        assert not array.flags.writeable


def is_one_of(bundle: WeightBundle, *models: Model) -> bool:
    """Whether `bundle` has the weights of one of `models`, all of them from the same one."""
    return any(all(np.array_equal(bundle[name], value) for name, value in one.arrays.items()) for one in models)
