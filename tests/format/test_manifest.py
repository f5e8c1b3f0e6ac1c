import json
from typing import Any

import pytest

from tfjs_fetch.errors import ManifestError
from tfjs_fetch.format.manifest import Quantization, WeightGroup, WeightSpec, parse

_LAYERS = {"class_name": "Sequential", "config": []}
_GRAPH: dict[str, Any] = {"node": [], "library": {}, "versions": {}}
_SPEC: dict[str, Any] = {"name": "w", "shape": [2], "dtype": "float32"}
_GROUP = {"paths": ["w0"], "weights": [_SPEC]}
_UINT8 = {"dtype": "uint8", "min": -1.0, "scale": 0.5}


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


def one(**fields: object) -> bytes:
    """Return a bare manifest of one weight, with these fields in place of the usual ones."""
    return encoded([{"paths": ["w0"], "weights": [{**_SPEC, **fields}]}])


def rejected(data: bytes) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        parse(data, source="model.json")
    return caught.value


# The kinds of document (reference sections 1.1 to 1.3)


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"modelTopology": _LAYERS, "weightsManifest": [_GROUP]}, "layers"),
        ({"modelTopology": {"model_config": _LAYERS}, "weightsManifest": [_GROUP]}, "layers"),
        ({"modelTopology": _GRAPH, "weightsManifest": [_GROUP]}, "graph"),
        ({"modelTopology": _GRAPH, "weightsManifest": [_GROUP], "format": "layers-model"}, "graph"),
        ({"modelTopology": _LAYERS, "weightsManifest": [_GROUP], "format": "tfjs-graph-model"}, "layers"),
        ({"modelTopology": {"anything": 1}, "weightsManifest": [_GROUP]}, "weights"),
        ({"modelTopology": None, "weightsManifest": [_GROUP]}, "weights"),
        ({"weightsManifest": [_GROUP]}, "weights"),
        ([_GROUP], "weights"),
    ],
)
def test_the_kind_of_a_document_is_told_from_its_content(document: object, kind: str) -> None:
    manifest = parse(encoded(document))

    assert manifest.kind == kind
    assert manifest.document == document
    assert manifest.groups == (WeightGroup(("w0",), (WeightSpec("w", (2,), "float32"),)),)


@pytest.mark.parametrize(
    "document",
    [
        {"modelTopology": _LAYERS},
        {"modelTopology": _LAYERS, "weightsManifest": None},
        {"modelTopology": _LAYERS, "weightsManifest": []},
        {"weightsManifest": []},
        [],
    ],
)
def test_a_model_without_weights_has_no_groups(document: object) -> None:
    manifest = parse(encoded(document))

    assert (manifest.groups, manifest.weights) == ((), ())
    assert list(manifest.entries) == []


def test_the_older_manifest_of_posenet_gives_each_weight_its_file() -> None:
    document = {
        "conv/biases": {"filename": "conv_biases", "shape": [24]},
        "conv/weights": {"filename": "conv_weights", "shape": [3, 3, 3, 24]},
    }

    manifest = parse(encoded(document))

    assert manifest.kind == "weights"
    assert [group.paths for group in manifest.groups] == [("conv_biases",), ("conv_weights",)]
    assert manifest.entries[0] == {
        "paths": ["conv_biases"],
        "weights": [{"name": "conv/biases", "shape": [24], "dtype": "float32"}],
    }
    assert manifest.weights == (
        WeightSpec("conv/biases", (24,), "float32"),
        WeightSpec("conv/weights", (3, 3, 3, 24), "float32"),
    )


@pytest.mark.parametrize(
    ("document", "place", "problem"),
    [
        ({}, "", "neither modelTopology nor weightsManifest"),
        ({"modelTopology": None, "weightsManifest": None}, "", "neither modelTopology nor weightsManifest"),
        ({"error": "not found"}, "", "neither modelTopology nor weightsManifest"),
        (None, "", "null, not a model"),
        (True, "", "a truth value, not a model"),
        (1.5, "", "a number, not a model"),
        ("model", "", "a string, not a model"),
        ({"weightsManifest": {"paths": []}}, "weightsManifest", "an object where a list of groups belongs"),
        ({"weightsManifest": "w"}, "weightsManifest", "a string where a list of groups belongs"),
        ({"weightsManifest": [1]}, "weightsManifest[0]", "should be an object, found 1"),
        ([[]], "[0]", "should be an object, found a list"),
        ({"modelTopology": _LAYERS, "weightsManifest": [{"weights": []}]}, "weightsManifest[0].paths", "missing"),
        ([_GROUP, {"paths": None}], "[1].paths", "should be a list, found None"),
        ([{"paths": "w0"}], "[0].paths", "should be a list, found 'w0'"),
        ([{"paths": ["w0", 1]}], "[0].paths[1]", "valid string, found 1"),
        ([{"paths": [""]}], "[0].paths[0]", "at least 1 character"),
        ([{"paths": [], "weights": {"w": _SPEC}}], "[0].weights", "should be a list, found an object"),
        ([{"paths": [], "weights": [_SPEC]}], "[0].paths", "no file holds the weights"),
    ],
)
def test_what_is_no_model_is_rejected(document: object, place: str, problem: str) -> None:
    error = rejected(encoded(document))

    assert (error.source, error.place) == ("model.json", place)
    assert problem in error.problem


@pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html>", b'{"weightsManifest": [', b"\xff\xfe[\x00]\x00"])
def test_hazard_36_what_is_no_json_is_rejected_with_the_cause(data: bytes) -> None:
    error = rejected(data)

    assert error.place == ""
    assert error.problem.startswith("it is not JSON (")
    assert str(error.__cause__) in error.problem


# What is tolerated (sections 1.3, 2.1)


def test_a_byte_order_mark_in_front_is_skipped() -> None:
    assert parse(b"\xef\xbb\xbf" + one()).weights[0].name == "w"


def test_bytes_that_are_no_utf8_are_replaced_as_browsers_do() -> None:
    assert parse(one().replace(b'"w"', b'"\xff"')).weights[0].name == "\ufffd"


def test_python_writes_nan_into_topologies_and_it_is_read_there() -> None:
    data = b'{"modelTopology": {"class_name": "M", "config": {"x": NaN}}, "weightsManifest": []}'

    assert parse(data).kind == "layers"


def test_hazard_26_unknown_keys_are_kept_in_the_document_and_else_ignored() -> None:
    spec = {**_SPEC, "quantization": {**_UINT8, "original_dtype": "float32"}, "mine": {"a": [1]}}
    document = {"weightsManifest": [{"paths": ["w0"], "weights": [spec], "yours": 1}], "theirs": None}

    manifest = parse(encoded(document))

    assert manifest.document == document
    assert list(manifest.entries) == document["weightsManifest"]
    assert manifest.weights == (WeightSpec("w", (2,), "float32", Quantization("uint8", -1.0, 0.5)),)


@pytest.mark.parametrize(
    "group", [{"paths": ["w0"]}, {"paths": ["w0"], "weights": None}, {"paths": ["w0"], "weights": []}]
)
def test_hazard_29_a_group_without_weights_is_an_empty_one(group: dict[str, Any]) -> None:
    """TF.js itself writes these when it saves a topology alone over HTTP."""
    assert parse(encoded({"modelTopology": _LAYERS, "weightsManifest": [group]})).groups == (WeightGroup(("w0",)),)


def test_a_group_of_no_bytes_needs_no_file() -> None:
    manifest = parse(encoded([{"paths": [], "weights": [{**_SPEC, "shape": [0]}]}]))

    assert manifest.groups[0].paths == ()


def test_hazard_28_the_weights_of_all_groups_are_there_in_order() -> None:
    second = {"paths": ["w1"], "weights": [{**_SPEC, "name": "a"}, {**_SPEC, "name": "b"}]}

    assert [spec.name for spec in parse(encoded([_GROUP, second])).weights] == ["w", "a", "b"]


@pytest.mark.parametrize("name", ["", "a b", "/ä/正:0", "w" * 10_000])
def test_any_text_is_a_name(name: str) -> None:
    assert parse(one(name=name)).weights[0].name == name


@pytest.mark.parametrize(
    ("shape", "read", "size"),
    [
        ([], (), 1),
        ([0], (0,), 0),
        ([3, 0, 5], (3, 0, 5), 0),
        ([2, 3], (2, 3), 6),
        ([2.0, 3], (2, 3), 6),
        ([1] * 32, (1,) * 32, 1),
    ],
)
def test_a_shape_is_a_list_of_whole_numbers(shape: list[float], read: tuple[int, ...], size: int) -> None:
    spec = parse(one(shape=shape)).weights[0]

    assert (spec.shape, spec.size) == (read, size)
    assert all(type(dimension) is int for dimension in spec.shape)


def test_state_of_an_optimizer_is_marked_by_its_group() -> None:
    assert parse(one(group="optimizer")).weights[0].group == "optimizer"
    assert parse(one()).weights[0].group is None


@pytest.mark.parametrize(
    ("fields", "place", "problem"),
    [
        ({"name": None}, ".name", "valid string, found None"),
        ({"name": 5}, ".name", "valid string, found 5"),
        ({"shape": None}, ".shape", "should be a list, found None"),
        ({"shape": "2"}, ".shape", "should be a list, found '2'"),
        ({"shape": {"0": 2}}, ".shape", "should be a list, found an object"),
        ({"shape": [2, -1]}, ".shape[1]", "greater than or equal to 0, found -1"),
        ({"shape": [2, -1.0]}, ".shape[1]", "greater than or equal to 0, found -1"),
        ({"shape": [None]}, ".shape[0]", "valid integer, found None"),
        ({"shape": [1.5]}, ".shape[0]", "valid integer, found 1.5"),
        ({"shape": ["2"]}, ".shape[0]", "valid integer, found '2'"),
        ({"shape": [True]}, ".shape[0]", "valid integer, found True"),
        ({"shape": [float("inf")]}, ".shape[0]", "valid integer, found inf"),
        ({"shape": [1] * 33}, ".shape", "at most 32 dimensions, found a list"),
        ({"dtype": None}, ".dtype", "found None"),
        ({"dtype": "float64"}, ".dtype", "found 'float64'"),
        ({"dtype": "Float32"}, ".dtype", "found 'Float32'"),
        ({"dtype": ["float32"]}, ".dtype", "found a list"),
        ({"group": 1}, ".group", "valid string, found 1"),
    ],
)
def test_a_wrong_field_of_a_weight_is_named(fields: dict[str, object], place: str, problem: str) -> None:
    error = rejected(one(**fields))

    assert error.place == f"[0].weights[0]{place}"
    assert problem in error.problem


@pytest.mark.parametrize("field", ["name", "shape", "dtype"])
def test_a_weight_needs_a_name_a_shape_and_a_type(field: str) -> None:
    spec = {key: value for key, value in _SPEC.items() if key != field}

    error = rejected(encoded({"weightsManifest": [{"paths": ["w0"], "weights": [spec]}]}))

    assert (error.place, error.problem) == (f"weightsManifest[0].weights[0].{field}", "it is missing")


def test_the_types_that_exist_are_named_when_one_is_unknown() -> None:
    problem = rejected(one(dtype="int64")).problem

    assert all(name in problem for name in ("float32", "int32", "bool", "string", "complex64", "uint16", "'int64'"))


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool", "string", "complex64", "float16", "uint8", "uint16"])
def test_hazard_20_types_that_only_python_writes_are_read_as_well(dtype: str) -> None:
    spec = parse(one(dtype=dtype)).weights[0]

    assert spec.dtype == spec.stored_dtype == dtype


def test_hazard_30_a_name_in_two_groups_is_an_error() -> None:
    error = rejected(
        encoded({"weightsManifest": [_GROUP, {"paths": ["w1"], "weights": [{**_SPEC, "group": "optimizer"}]}]})
    )

    assert (error.place, error.problem) == ("weightsManifest[1].weights[0].name", "a second weight is called 'w'")


# Quantization: when it is there (section 2.4)


@pytest.mark.parametrize("nothing", [None, {}, [], False, 0, ""])
def test_a_falsy_quantization_is_none(nothing: object) -> None:
    spec = parse(one(quantization=nothing)).weights[0]

    assert (spec.quantization, spec.stored_dtype, spec.stored_bytes) == (None, "float32", 8)


@pytest.mark.parametrize(
    ("quantization", "dtype", "stored_bytes"),
    [(_UINT8, "float32", 2), ({**_UINT8, "dtype": "uint16"}, "int32", 4), ({"dtype": "float16"}, "float32", 4)],
)
def test_a_quantized_weight_is_stored_in_fewer_bytes(quantization: object, dtype: str, stored_bytes: int) -> None:
    spec = parse(one(quantization=quantization, dtype=dtype)).weights[0]

    assert (spec.dtype, spec.stored_bytes) == (dtype, stored_bytes)


def test_hazard_16_whole_numbers_in_min_and_scale_become_floats() -> None:
    """JavaScript prints 1.0 as 1; in numpy, uint8 times the integer 2 would wrap."""
    quantization = parse(one(quantization={"dtype": "uint8", "min": -1, "scale": 2})).weights[0].quantization

    assert quantization == Quantization("uint8", -1.0, 2.0)
    assert (type(quantization.min), type(quantization.scale)) == (float, float)


@pytest.mark.parametrize(
    ("quantization", "dtype", "place", "problem"),
    [
        ({"dtype": "uint8"}, "float32", "", "uint8 needs both min and scale"),
        ({"dtype": "uint8", "min": 0.0}, "float32", "", "uint8 needs both min and scale"),
        ({"dtype": "uint16", "scale": 1.0}, "int32", "", "uint16 needs both min and scale"),
        ({"dtype": "uint8", "min": None, "scale": 1.0}, "float32", "", "uint8 needs both min and scale"),
        (_UINT8, "bool", "", "uint8 cannot be read back as bool, only as float32 or int32"),
        (_UINT8, "string", "", "uint8 cannot be read back as string, only as float32 or int32"),
        (_UINT8, "complex64", "", "uint8 cannot be read back as complex64"),
        (_UINT8, "uint8", "", "uint8 cannot be read back as uint8"),
        ({"dtype": "float16"}, "int32", "", "float16 cannot be read back as int32, only as float32"),
        ({"dtype": "int8", "min": 0, "scale": 1}, "float32", ".dtype", "found 'int8'"),
        ({"min": 0, "scale": 1}, "float32", ".dtype", "it is missing"),
        ({**_UINT8, "min": "1"}, "float32", ".min", "valid number, found '1'"),
        ({**_UINT8, "scale": True}, "float32", ".scale", "valid number, found True"),
        ({**_UINT8, "scale": float("nan")}, "float32", ".scale", "finite number, found nan"),
        ({**_UINT8, "min": float("-inf")}, "float32", ".min", "finite number, found -inf"),
        ({**_UINT8, "min": 10**400}, "float32", ".min", "valid number"),
        ("uint8", "float32", "", "should be an object, found 'uint8'"),
    ],
)
def test_a_wrong_quantization_is_rejected(quantization: object, dtype: str, place: str, problem: str) -> None:
    error = rejected(one(quantization=quantization, dtype=dtype))

    assert error.place == f"[0].weights[0].quantization{place}"
    assert problem in error.problem
