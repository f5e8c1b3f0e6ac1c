"""WeightBundle: weights by name, read-only, decoded when they are asked for."""

import copy
import hashlib
import json
import pickle
import struct
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.format.groups import spec
from tests.format.splits import assert_same
from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.errors import EncodeError, UnknownWeightError
from tfjs_fetch.format.decoding import decode
from tfjs_fetch.format.dtypes import Array
from tfjs_fetch.format.layout import lay_out
from tfjs_fetch.format.manifest import parse

UINT8 = {"dtype": "uint8", "min": -1, "scale": 0.5}
# Each weight: its entry in model.json, its bytes, and what it is.
WEIGHTS: list[tuple[dict[str, Any], bytes, Array]] = [
    (spec("f", [2]), struct.pack("<2f", 1.5, -2), np.array([1.5, -2], "f4")),
    (spec("i", [1, 2], "int32"), struct.pack("<2i", 7, -8), np.array([[7, -8]], "i4")),
    (spec("b", [4], "bool"), b"\0\1\1\0", np.array([False, True, True, False])),
    (spec("q", [4], quantization=UINT8), b"\0\1\2\3", np.array([-1, -0.5, 0, 0.5], "f4")),
    (spec("h", [2], quantization={"dtype": "float16"}), b"\0\x3c\0\xc0", np.array([1, -2], "f4")),
    (spec("c", [1], "complex64"), struct.pack("<2f", 1, 2), np.array([1 + 2j], "c8")),
    (spec("s", [2], "string"), b"\2\0\0\0hi\0\0\0\0", np.array([b"hi", b""], object)),
    (spec("e", [0, 3]), b"", np.zeros((0, 3), "f4")),
    (spec("n", []), struct.pack("<f", 9), np.array(9, "f4")),
]
MODEL = {
    "format": "layers-model",
    "modelTopology": {"class_name": "Sequential", "config": {"layers": []}},
    "weightsManifest": [
        {"paths": ["w0"], "weights": [entry for entry, _, _ in WEIGHTS[:4]]},
        {"paths": ["w1"], "weights": [entry for entry, _, _ in WEIGHTS[4:]]},
    ],
}


def bundle(document: Any = None, arrays: Mapping[str, Array] | None = None) -> WeightBundle:
    stored = {entry["name"]: memoryview(bytearray(data)) for entry, data, _ in WEIGHTS}
    manifest = parse(json.dumps(MODEL if document is None else document).encode())
    return WeightBundle(manifest, stored, arrays or {}, source="https://h/model.json")


def many(count: int) -> WeightBundle:
    return WeightBundle.from_arrays({f"block_{index // 10}/layer_{index}/kernel": [index] for index in range(count)})


def test_a_bundle_is_a_mapping_in_the_order_of_the_document() -> None:
    weights = bundle()

    assert isinstance(weights, Mapping)
    assert [*weights] == [*weights.keys()] == ["f", "i", "b", "q", "h", "c", "s", "e", "n"]
    assert len(weights) == len(weights.values()) == len(weights.items()) == 9
    assert "f" in weights
    assert "x" not in weights
    assert bool(weights)
    assert not bundle([])


@pytest.mark.parametrize(("name", "expected"), [(entry["name"], array) for entry, _, array in WEIGHTS])
def test_every_weight_is_what_the_document_declares(name: str, expected: Array) -> None:
    weights = bundle()

    assert_same(weights[name], expected)
    assert weights[name] is weights[name]
    assert weights[name] is weights.get(name) is dict(weights)[name]


@pytest.mark.parametrize("name", [entry["name"] for entry, _, _ in WEIGHTS])
def test_no_weight_can_be_written_to(name: str) -> None:
    weights = bundle()

    for array in (weights[name], weights.stored(name)):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = array


def test_a_bundle_cannot_be_changed() -> None:
    weights: Any = bundle()

    with pytest.raises(TypeError):
        weights["f"] = np.zeros(2)
    with pytest.raises(TypeError):
        del weights["f"]
    for mapping in (weights.shapes, weights.dtypes):
        with pytest.raises(TypeError):
            mapping["f"] = None


def test_weights_that_need_no_conversion_are_views_of_the_memory_they_came_in() -> None:
    memory = np.arange(4, dtype="<f4")
    manifest = parse(json.dumps([{"paths": ["w"], "weights": [spec("w", [2, 2])]}]).encode())

    weights = WeightBundle(manifest, {"w": memory.view(np.uint8).data})

    assert np.shares_memory(weights["w"], memory)
    assert np.shares_memory(weights.stored("w"), memory)


def test_arrays_that_are_decoded_already_are_not_decoded_again() -> None:
    array = np.array([5, 6], "f4")

    assert bundle(arrays={"f": array})["f"] is array


def test_weights_are_decoded_when_they_are_asked_for_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def noting(spec: Any, data: memoryview) -> Array:
        decoded.append(spec.name)
        return decode(spec, data)

    monkeypatch.setattr("tfjs_fetch.bundle.decode", noting)
    weights = bundle()
    assert (weights.nbytes, weights.digest, weights.shapes["q"], decoded) == (weights.nbytes, weights.digest, (4,), [])

    for _ in range(2):
        assert weights["q"].tolist() == [-1, -0.5, 0, 0.5]
    assert decoded == ["q"]


def test_many_threads_that_ask_at_once_get_one_array(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(8)

    def slow(spec: Any, data: memoryview) -> Array:
        together.wait(5)
        return decode(spec, data)

    monkeypatch.setattr("tfjs_fetch.bundle.decode", slow)
    weights = bundle()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: weights["q"], range(8)))

    assert len({id(array) for array in found}) == 1
    assert found[0].tolist() == [-1, -0.5, 0, 0.5]


def test_a_missing_name_is_a_key_error_with_the_nearest_names() -> None:
    weights = many(30)

    asks: tuple[Callable[[str], object], ...] = (weights.__getitem__, weights.spec, weights.stored, weights.select)
    for ask in asks:
        with pytest.raises(KeyError) as caught:
            ask("block_1/layer_12/kernal")
        assert isinstance(caught.value, UnknownWeightError)
        assert caught.value.name == "block_1/layer_12/kernal"
        assert caught.value.nearest[0] == "block_1/layer_12/kernel"


def test_a_default_stands_in_for_a_missing_name() -> None:
    weights = bundle()

    assert weights.get("x") is None
    assert weights.get("x", 7) == 7
    assert weights.get("x", default="none") == "none"


def test_asking_whether_a_name_is_there_is_fast_among_very_many() -> None:
    weights = many(50_000)
    began = time.monotonic()

    for index in range(1000):
        assert f"block_0/layer_{index}/kernal" not in weights
        assert weights.get(f"block_0/layer_{index}/kernal") is None
        assert weights.get(f"block_{index // 10}/layer_{index}/kernel") is not None

    assert time.monotonic() - began < 1


def test_shapes_dtypes_and_sizes_are_known_without_decoding() -> None:
    weights = bundle()

    assert dict(weights.shapes) == {
        "f": (2,),
        "i": (1, 2),
        "b": (4,),
        "q": (4,),
        "h": (2,),
        "c": (1,),
        "s": (2,),
        "e": (0, 3),
        "n": (),
    }
    assert list(weights.dtypes.values()) == [
        "float32",
        "int32",
        "bool",
        "float32",
        "float32",
        "complex64",
        "string",
        "float32",
        "float32",
    ]
    assert weights.nbytes == 8 + 8 + 4 + 16 + 8 + 8 + 10 + 0 + 4
    assert weights.spec("q").stored_dtype == "uint8"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("f", np.array([1.5, -2], "f4")),
        ("b", np.array([0, 1, 1, 0], "u1")),
        ("q", np.array([0, 1, 2, 3], "u1")),
        ("h", np.array([1, -2], "f2")),
        ("s", np.array([b"hi", b""], object)),
    ],
)
def test_a_weight_can_be_seen_as_it_is_stored(name: str, expected: Array) -> None:
    assert_same(bundle().stored(name), expected)


def test_a_weight_can_be_had_with_its_type_known() -> None:
    weights = bundle()

    assert weights.array("f", np.float32) is weights["f"]
    assert weights.array("i", np.int32, (1, 2)) is weights["i"]
    assert weights.array("b", np.bool_, (4,)) is weights["b"]
    assert weights.array("s", np.object_) is weights["s"]


def test_a_weight_of_another_type_or_shape_is_an_error() -> None:
    weights = bundle()

    with pytest.raises(TypeError):
        weights.array("f", np.float64)
    with pytest.raises(TypeError):
        weights.array("q", np.uint8)
    with pytest.raises(ValueError, match="shape"):
        weights.array("f", np.float32, (2, 1))
    with pytest.raises(KeyError):
        weights.array("x", np.float32)


def test_the_digest_follows_its_formula() -> None:
    expected = hashlib.sha256()
    for entry, data, _ in WEIGHTS:
        declared = [entry["name"], entry["dtype"], entry["shape"], entry.get("quantization")]
        expected.update(json.dumps(declared, separators=(",", ":")).encode() + b"\n" + data)

    assert bundle().digest == expected.hexdigest()


def test_the_digest_of_one_weight_by_hand() -> None:
    weights = WeightBundle.from_arrays({"dense/é": np.array([[1.0]])})

    text = b'["dense/\\u00e9","float32",[1,1],null]\n\x00\x00\x80\x3f'
    assert weights.digest == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    "document",
    [
        [{"paths": ["a", "b", "c"], "weights": [entry for entry, _, _ in WEIGHTS]}],
        [{"paths": [entry["name"]], "weights": [entry]} for entry, _, _ in WEIGHTS],
        [{"paths": ["a"], "weights": [{**entry, "note": "?", "shape": [float(n) for n in entry["shape"]]}]}
         for entry, _, _ in WEIGHTS],
    ],
)  # fmt: skip
def test_groups_and_shards_do_not_change_the_digest(document: Any) -> None:
    other = bundle(document)

    assert other.digest == bundle().digest
    assert other == bundle()
    assert hash(other) == hash(bundle())


def test_other_names_types_shapes_or_bytes_do() -> None:
    bases: list[dict[str, Any]] = [
        {"w": np.zeros(2, "f4")},
        {"v": np.zeros(2, "f4")},
        {"w": np.zeros(2, "i4")},
        {"w": np.zeros((1, 2), "f4")},
        {"w": np.array([0, -0.0], "f4")},
        {"w": np.zeros(1, "f4"), "v": np.zeros(1, "f4")},
        {"v": np.zeros(1, "f4"), "w": np.zeros(1, "f4")},
        {},
    ]

    assert len({WeightBundle.from_arrays(arrays) for arrays in bases}) == len(bases)
    assert WeightBundle.from_arrays({}) != {}


@pytest.mark.parametrize("duplicate", [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy])
def test_a_bundle_is_pickled_with_its_bytes(duplicate: Callable[[WeightBundle], WeightBundle]) -> None:
    weights = bundle()
    weights["q"]

    twin = duplicate(weights)

    assert (twin, twin.source, twin.manifest) == (weights, weights.source, weights.manifest)
    for name, array in weights.items():
        assert_same(twin[name], array)
        assert array.nbytes == 0 or not np.shares_memory(twin[name], array)


def test_a_bundle_says_what_it_is() -> None:
    assert repr(bundle()) == "<WeightBundle https://h/model.json: 9 weights, 66 bytes>"


def test_chosen_weights_are_a_bundle_that_shares_the_memory() -> None:
    weights = bundle()
    quantized = weights["q"]

    some = weights.select(["q", "[fh]"])

    assert [*some] == ["f", "q", "h"]
    assert some["q"] is quantized
    assert np.shares_memory(some["f"], weights["f"])
    assert (some.source, some.topology is None) == (weights.source, False)
    assert [*weights.select([])] == []


def test_no_weights_are_lost_by_choosing_all() -> None:
    assert bundle().select("*") == bundle()


def test_weights_get_other_names_by_a_mapping_or_a_function() -> None:
    weights = bundle()

    swapped = weights.rename({"f": "i", "i": "f"})
    upper = weights.rename(str.upper)

    assert [*swapped][:3] == ["i", "f", "b"]
    assert swapped["i"] is weights["f"] or np.shares_memory(swapped["i"], weights["f"])
    assert [*upper] == [name.upper() for name in weights]
    assert swapped.rename({"f": "i", "i": "f"}) == weights
    assert swapped != weights


def test_names_stay_different_and_known() -> None:
    weights = bundle()

    with pytest.raises(ValueError, match="'f'"):
        weights.rename({"i": "f"})
    with pytest.raises(UnknownWeightError):
        weights.rename({"x": "y"})


def test_a_name_that_comes_twice_is_found_at_once_among_very_many() -> None:
    weights = many(20_000)
    last = [*weights][-1]
    began = time.monotonic()

    with pytest.raises(ValueError, match="layer_0/"):
        weights.rename({last: "block_0/layer_0/kernel"})
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (np.array([0.1], "f8"), "float32", np.array([0.1], "f4")),
        (np.array([1.5], "f2"), "float32", np.array([1.5], "f4")),
        (np.array([1.5], ">f4"), "float32", np.array([1.5], "f4")),
        (np.array([200], "u1"), "int32", np.array([200], "i4")),
        (np.array([-5], ">i8"), "int32", np.array([-5], "i4")),
        (np.array([True]), "bool", np.array([True])),
        (np.array([1j], "c16"), "complex64", np.array([1j], "c8")),
        ([b"a", b"\xff\0"], "string", np.array([b"a", b"\xff\0"], object)),
        (np.asfortranarray(np.arange(6.0).reshape(2, 3)), "float32", np.arange(6, dtype="f4").reshape(2, 3)),
        (np.zeros((0, 2)), "float32", np.zeros((0, 2), "f4")),
        (7, "int32", np.array(7, "i4")),
    ],
)
def test_arrays_become_weights_of_the_types_of_the_format(values: Any, dtype: str, expected: Array) -> None:
    weights = WeightBundle.from_arrays({"w": values})

    assert_same(weights["w"], expected)
    assert weights.dtypes["w"] == dtype


@pytest.mark.parametrize("values", [[2**31], [1e39], [None], np.array(["2024"], "M8[Y]"), [[1], [1, 2]]])
def test_arrays_that_cannot_be_weights_are_an_error(values: Any) -> None:
    with pytest.raises(EncodeError) as caught:
        WeightBundle.from_arrays({"fine": [1], "w": values})

    assert caught.value.name == "w"


def test_arrays_are_copied() -> None:
    values = np.array([1, 2], "f4")
    weights = WeightBundle.from_arrays({"w": values})

    values[:] = 0

    assert weights["w"].tolist() == [1, 2]


def test_a_sequence_of_mappings_gives_groups() -> None:
    weights = WeightBundle.from_arrays([{"a": [1], "b": [2]}, {}, {"c": [3]}])

    assert [[one.name for one in group.weights] for group in weights.manifest.groups] == [["a", "b"], [], ["c"]]
    assert [layout.size for layout in lay_out(weights.manifest)] == [8, 0, 4]
    assert (len(weights), weights.source, weights.topology) == (3, "", None)


def test_a_name_that_comes_twice_is_an_error() -> None:
    with pytest.raises(EncodeError) as caught:
        WeightBundle.from_arrays([{"a": [1]}, {"a": [2]}])

    assert caught.value.name == "a"


def test_a_bundle_of_arrays_takes_over_the_rest_of_a_model() -> None:
    model = bundle()

    weights = WeightBundle.from_arrays({"f": [0.0, 1.0]}, like=model)

    assert (weights.manifest.kind, weights.source) == ("layers", model.source)
    assert weights.manifest.document == {
        **MODEL,
        "weightsManifest": [{"paths": [], "weights": [{"name": "f", "shape": [2], "dtype": "float32"}]}],
    }
    assert [*model] == ["f", "i", "b", "q", "h", "c", "s", "e", "n"]


def test_the_document_of_a_bundle_of_arrays_is_a_model_json() -> None:
    weights = WeightBundle.from_arrays({"a": [[1, 2]], "s": ["x"], "e": []})

    again = parse(json.dumps(weights.manifest.document).encode().replace(b'"paths": []', b'"paths": ["w"]'))

    assert again.weights == weights.manifest.weights
