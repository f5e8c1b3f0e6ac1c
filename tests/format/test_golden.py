"""Whole models, decoded bit for bit as by the real TensorFlow.js: the demo model, small ones, the corpus."""

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.corpus import model, on_every_model
from tests.format.splits import Step, assert_same, bits, every_split, feed
from tfjs_fetch.format.dtypes import Array
from tfjs_fetch.format.layout import GroupLayout, check_order, check_total, lay_out
from tfjs_fetch.format.manifest import Manifest, parse

_GOLDEN = Path(__file__).parents[1] / "golden"
_DEMO = Path(__file__).parents[2] / "tfjs_fetch" / "demo_model"
_MODELS: dict[str, Any] = json.loads((_GOLDEN / "models.json").read_text("utf-8"))


@pytest.mark.parametrize("name", _MODELS)
def test_a_small_model_decodes_as_by_tfjs_in_every_manner(name: str) -> None:
    golden = _MODELS[name]
    manifest = parse(json.dumps(golden["document"]).encode())

    found = decoded(manifest, lambda path: base64.b64decode(golden["shards"][path]), every_split)

    assert described(manifest, found) == golden["weights"]


def test_hazard_1_a_second_bigger_group_is_not_read_as_zeros() -> None:
    golden = _MODELS["second_group_bigger"]
    manifest = parse(json.dumps(golden["document"]).encode())

    found = decoded(manifest, lambda path: base64.b64decode(golden["shards"][path]), every_split)

    assert golden["misread_by_loadLayersModel"] == ["expand/bias"]
    assert found["expand/bias"].any()


def test_the_demo_model_decodes_as_by_tfjs() -> None:
    golden = json.loads((_GOLDEN / "demo_model.json").read_text("utf-8"))
    manifest = parse((_DEMO / "model.json").read_bytes())

    found = decoded(manifest, lambda path: (_DEMO / path).read_bytes(), in_large_pieces)

    assert described(manifest, found) == golden["weights"]


@on_every_model
def test_a_model_of_the_corpus_decodes_as_by_tfjs(name: str) -> None:
    published = model(name)
    manifest = parse(published.document)

    found = decoded(manifest, published.shard, in_large_pieces)

    expected = [{key: one[key] for key in ("name", "shape", "dtype", "sha256")} for one in published.golden["weights"]]
    assert described(manifest, found) == expected


@on_every_model
def test_a_model_of_the_corpus_is_laid_out_as_its_shards_are(name: str) -> None:
    published = model(name)

    layouts = lay_out(parse(published.document))

    for layout, golden in zip(layouts, published.golden["groups"], strict=True):
        check_order(layout.index, layout.paths)
        assert list(layout.paths) == golden["paths"]
        assert len(layout.specs) == golden["weights"]
        assert layout.size in (golden["bytes"], None)


@on_every_model
def test_a_model_of_the_corpus_is_of_the_kind_that_tfjs_loads(name: str) -> None:
    published = model(name)

    assert parse(published.document).kind == published.loaded["kind"]


def decoded(
    manifest: Manifest, shard: Callable[[str], bytes], decode: Callable[[GroupLayout, bytes], dict[str, Array]]
) -> dict[str, Array]:
    """Return all weights by name, each group put together from its shards and read by `decode`."""
    found: dict[str, Array] = {}
    for layout in lay_out(manifest):
        shards = [shard(path) for path in layout.paths]
        assert check_total(layout, [len(one) for one in shards], tolerate_extra=False) == 0
        found |= decode(layout, b"".join(shards))
    return found


def in_large_pieces(layout: GroupLayout, data: bytes) -> dict[str, Array]:
    """Return the weights after checking that pieces in any order, partly taken back, give the same as all at once."""
    whole = feed(layout, data, [("add", 0, len(data))])
    random = Random(0)
    cuts = sorted(random.randrange(len(data)) for _ in range(6))
    pieces: list[Step] = [("add", start, stop) for start, stop in pairwise((0, *cuts, len(data)))]
    random.shuffle(pieces)
    found = feed(layout, data, [*pieces, ("discard", cuts[1], cuts[4]), *pieces[::-1]])
    for name, array in whole.items():
        assert_same(found[name], array)
    return whole


def described(manifest: Manifest, found: dict[str, Array]) -> list[dict[str, Any]]:
    """Return what the golden files say of weights."""
    return [
        {"name": one.name, "shape": list(found[one.name].shape), "dtype": one.dtype, "sha256": _digest(found[one.name])}
        for one in manifest.weights
    ]


def _digest(array: Array) -> str:
    if array.dtype == object:
        content = b"".join(struct.pack("<I", len(value)) + value for value in array.reshape(-1))
    else:
        content = bytes.fromhex(bits(array))
    return hashlib.sha256(content).hexdigest()
