import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus import model, on_every_model
from tfjs_fetch.format.manifest import Manifest, parse
from tfjs_fetch.format.topology import GraphTopology, Layer, LayersTopology, Node, Port, topology

_DENSE = {"name": "dense", "units": 4, "batch_input_shape": [None, 3], "dtype": "float32"}
_INPUT = {"batch_input_shape": [None, 3], "dtype": "int32"}


def document(model_topology: object, **more: object) -> Manifest:
    return parse(json.dumps({"modelTopology": model_topology, "weightsManifest": [], **more}).encode())


def layers(model_topology: object) -> LayersTopology:
    found = topology(document(model_topology))
    assert isinstance(found, LayersTopology)
    return found


def graph(model_topology: object, **more: object) -> GraphTopology:
    found = topology(document(model_topology, **more))
    assert isinstance(found, GraphTopology)
    return found


def named(found: tuple[Layer, ...]) -> list[tuple[str, str]]:
    return [(layer.name, layer.class_name) for layer in found]


def layer(class_name: str, name: str, **config: object) -> dict[str, Any]:
    return {"class_name": class_name, "name": name, "config": {"name": name, **config}}


# Layers models (reference section 1.4)


def test_a_document_without_a_topology_has_none() -> None:
    assert topology(parse(b"[]")) is None
    assert topology(document({"something": "else"})) is None


@pytest.mark.parametrize(
    "config",
    [
        [{"class_name": "Dense", "config": _DENSE}],
        {"name": "my_model", "layers": [{"class_name": "Dense", "config": _DENSE}]},
    ],
    ids=["list", "object"],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_sequential_model_is_a_list_or_an_object_and_wrapped_or_not(config: Any, wrapped: bool) -> None:
    plain = {"class_name": "Sequential", "config": config}

    found = layers({"model_config": plain, "keras_version": "2.1.6"} if wrapped else plain)

    assert found.class_name == "Sequential"
    assert found.name == ("my_model" if isinstance(config, dict) else "")
    assert found.layers == (Layer("dense", "Dense", _DENSE),)
    assert found.inputs == (Port("dense", (None, 3), "float32"),)
    assert found.outputs == (Port("dense", (None, 4), None),)


@pytest.mark.parametrize("class_name", ["Model", "Functional"])
@pytest.mark.parametrize(
    ("input_layers", "output_layers"),
    [
        ([["left", 0, 0], ["right", 0, 0]], [["sum", 0, 0]]),  # Keras 2 and TF.js
        ({"a": ["left", 0, 0], "b": ["right", 0, 0]}, ["sum", 0, 0]),  # Keras 3
    ],
)
def test_a_functional_model_names_its_ends(class_name: str, input_layers: Any, output_layers: Any) -> None:
    config = {
        "name": "siamese",
        "layers": [layer("InputLayer", "left", **_INPUT), layer("Add", "sum"), layer("InputLayer", "right", **_INPUT)],
        "input_layers": input_layers,
        "output_layers": output_layers,
    }

    found = layers({"class_name": class_name, "config": config})

    assert (found.name, found.class_name) == ("siamese", class_name)
    assert named(found.layers) == [("left", "InputLayer"), ("sum", "Add"), ("right", "InputLayer")]
    assert found.inputs == (Port("left", (None, 3), "int32"), Port("right", (None, 3), "int32"))
    assert found.outputs == (Port("sum", None, None),)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"batch_input_shape": [None, 28, 28, 1]}, (None, 28, 28, 1)),
        ({"batch_shape": [None, 5]}, (None, 5)),  # Keras 3
        ({"input_shape": [5]}, (None, 5)),
        ({"batch_input_shape": [2, None]}, (2, None)),
        ({"batch_input_shape": [None]}, (None,)),
        ({"batch_input_shape": [None, "5"]}, None),
        ({"batch_input_shape": [[None, 5], [None, 6]]}, None),
        ({"batch_input_shape": None}, None),
        ({}, None),
    ],
)
def test_an_input_has_the_shape_that_its_layer_declares(
    config: dict[str, Any], expected: tuple[int | None, ...] | None
) -> None:
    found = layers({"class_name": "Sequential", "config": [layer("InputLayer", "x", **config)]})

    assert found.inputs == (Port("x", expected, "float32"),)


def test_a_model_inside_a_model_shows_its_layers() -> None:
    inner = {"name": "inner", "layers": [layer("InputLayer", "x", **_INPUT), layer("Dense", "y", units=2)]}
    outer = [
        {"class_name": "Functional", "config": inner},
        {"class_name": "Sequential", "config": [layer("Dense", "z", units=7)]},
    ]

    found = layers({"class_name": "Sequential", "config": outer})

    assert named(found.layers) == [("inner", "Functional"), ("", "Sequential")]
    assert named(found.layers[0].layers) == [("x", "InputLayer"), ("y", "Dense")]
    assert named(found.layers[1].layers) == [("z", "Dense")]
    assert found.inputs == (Port("inner", (None, 3), "int32"),)
    assert found.outputs == (Port("", (None, 7), None),)


@pytest.mark.parametrize("class_name", ["Bidirectional", "TimeDistributed"])
def test_a_wrapped_layer_is_inside_its_wrapper(class_name: str) -> None:
    wrapper = layer(class_name, "wrapper", layer=layer("LSTM", "lstm", units=3))

    found = layers({"class_name": "Sequential", "config": [wrapper]})

    assert named(found.layers[0].layers) == [("lstm", "LSTM")]


def test_what_a_layers_model_spells_strangely_is_left_out() -> None:
    config = {
        "layers": [1, None, {}, {"class_name": 5, "config": "x"}],
        "input_layers": {"a": 1},
        "output_layers": [[], "b"],
    }

    found = layers({"class_name": ["M"], "config": config})

    assert (found.name, found.class_name, found.inputs, found.outputs) == ("", "", (), ())
    assert named(found.layers) == [("", ""), ("", "")]
    assert layers({"model_config": '{"class_name": "Model"}'}).layers == ()


# Graph models (section 1.5)

_NODES = [
    {
        "name": "x",
        "op": "Placeholder",
        "attr": {"dtype": {"type": "DT_FLOAT"}, "shape": {"shape": {"dim": [{"size": "-1"}, {"size": "2"}]}}},
    },
    {"name": "w", "op": "Const", "attr": {"dtype": {"type": "DT_FLOAT"}}},
    {"name": "y", "op": "Mul", "input": ["x", "w", "^init"]},
]
_SIGNATURE = {
    "inputs": {"a": {"name": "x:0", "dtype": "DT_FLOAT", "tensorShape": {"dim": [{"size": "-1"}, {"size": "2"}]}}},
    "outputs": {"b": {"name": "y:0", "dtype": "DT_INT32", "tensorShape": {}}},
}
_PORTS = ((Port("a", (None, 2), "float32"),), (Port("b", (), "int32"),))


def test_the_nodes_of_a_graph_are_listed_with_their_inputs() -> None:
    found = graph({"node": _NODES, "library": {}, "versions": {}})

    assert found.nodes == (Node("x", "Placeholder", ()), Node("w", "Const", ()), Node("y", "Mul", ("x", "w", "^init")))


def test_the_signature_says_what_goes_in_and_comes_out() -> None:
    found = graph({"node": _NODES}, signature=_SIGNATURE)

    assert (found.inputs, found.outputs) == _PORTS


@pytest.mark.parametrize("other", [None, {}, {"inputs": {"wrong": {}}, "outputs": {"wrong": {}}}])
def test_a_signature_in_the_metadata_has_precedence(other: object) -> None:
    found = graph({"node": _NODES}, signature=other, userDefinedMetadata={"signature": _SIGNATURE})

    assert (found.inputs, found.outputs) == _PORTS


@pytest.mark.parametrize("signature", [{}, None, {"outputs": {}}, "text"])
def test_without_a_signature_placeholders_go_in_and_unconsumed_nodes_come_out(signature: object) -> None:
    found = graph({"node": _NODES}, signature=signature)

    assert found.inputs == (Port("x", (None, 2), "float32"),)
    assert found.outputs == (Port("y", None, None),)


def test_a_placeholder_without_a_shape_is_not_taken_for_a_scalar() -> None:
    found = graph({"node": [{"name": "x", "op": "Placeholder"}, {"name": "y", "op": "PlaceholderWithDefault"}]})

    assert found.inputs == (Port("x", None, None), Port("y", None, None))


def test_a_node_is_consumed_by_any_of_its_outputs_and_by_control() -> None:
    nodes = [{"name": name, "op": "Op"} for name in ("a", "b", "c")]

    found = graph({"node": [*nodes, {"name": "d", "op": "Op", "input": ["a:1", "^b"]}]})

    assert [port.name for port in found.outputs] == ["c", "d"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *[
            ("DT_FLOAT", "float32"),
            (1, "float32"),
            ("DT_INT32", "int32"),
            (3, "int32"),
            ("DT_BOOL", "bool"),
            (10, "bool"),
        ],
        *[("DT_STRING", "string"), (7, "string"), ("DT_HALF", "float16"), (19, "float16"), ("DT_DOUBLE", "float64")],
        *[("DT_RESOURCE", "resource"), (999, None), (None, None), ([], None)],
    ],
)
def test_types_are_written_as_names_or_as_numbers(written: object, read: str | None) -> None:
    found = graph({"node": _NODES}, signature={"inputs": {"a": {"dtype": written}}})

    assert found.inputs == (Port("a", None, read),)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({}, ()),
        ({"dim": []}, ()),
        ({"dim": [{"size": "-1"}, {"size": "3"}]}, (None, 3)),
        ({"dim": [{"size": -1}, {"size": 3}]}, (None, 3)),
        ({"dim": [{}]}, (0,)),  # protobuf leaves zeros out
        ({"unknownRank": True}, None),
        (None, None),
        ({"dim": [{"size": "many"}]}, None),
        ({"dim": [{"size": []}]}, None),
        ({"dim": [{"size": float("inf")}]}, None),
        ({"dim": [{"size": float("nan")}]}, None),
        ({"dim": [{"size": "9" * 5000}]}, None),
    ],
)
def test_shapes_are_written_as_protobuf_does(written: object, read: tuple[int | None, ...] | None) -> None:
    found = graph({"node": _NODES}, signature={"inputs": {"a": {"tensorShape": written}}})

    assert found.inputs == (Port("a", read, None),)


def test_what_a_graph_spells_strangely_is_left_out() -> None:
    found = graph(
        {"node": [1, {"name": 5, "input": ["a", 5]}, {"op": "Placeholder", "attr": 5}]}, userDefinedMetadata=5
    )

    assert found.nodes == (Node("", "", ("a",)), Node("", "Placeholder", ()))
    assert found.inputs == (Port("", None, None),)
    assert graph({"node": "x"}) == GraphTopology((), (), ())


_keys = st.sampled_from(
    [
        *("class_name", "config", "model_config", "layers", "layer", "name", "input_layers", "output_layers", "units"),
        *("batch_input_shape", "input_shape", "node", "op", "input", "attr", "dtype", "shape", "type", "dim", "size"),
        *("signature", "inputs", "outputs", "tensorShape"),
    ]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
)


@given(st.dictionaries(_keys, _json, min_size=1), _json, _json)
def test_no_topology_is_refused(model_topology: dict[str, Any], signature: object, metadata: object) -> None:
    found = topology(document(model_topology, signature=signature, userDefinedMetadata=metadata))

    assert found is None or isinstance(found, (LayersTopology, GraphTopology))


# The corpus

_F = "float32"
_EXPECTED: dict[str, tuple[int, list[Port], list[Port]]] = {
    "basic-pitch-ts.model": (
        500,
        [Port("input_2", (None, 43844, 1), _F)],
        [
            Port(name, (None, 172, size), _F)
            for name, size in [("contour", 264), ("Identity_1:0", 88), ("Identity_2:0", 88)]
        ],
    ),
    "cnn-explainer.assets.data": (12, [Port("conv_1_1", (None, 64, 64, 3), _F)], [Port("output", (None, 10), None)]),
    "derived.cnnexplainer-uint16-3shards": (
        12,
        [Port("conv_1_1", (None, 64, 64, 3), _F)],
        [Port("output", (None, 10), None)],
    ),
    "derived.tfjs-saved-optimizer": (3, [Port("dense_Dense1", (None, 6), _F)], [Port("dense_Dense2", (None, 3), None)]),
    "human-models.facemesh-detection-short": (
        196,
        [Port("input", (None, 128, 128, 3), _F)],
        [Port("objects", (None, 896, 17), _F)],
    ),
    "human-models.handtrack": (
        1185,
        [Port("input_tensor:0", (1, 320, 320, 3), "uint8")],
        [
            *[Port(f"Identity_{index}:0", (1, 100), _F) for index in (2, 4)],
            *[Port("Identity_6:0", (1, 12804, 4), _F), Port("Identity_1:0", (1, 100, 4), _F)],
            *[Port("Identity_3:0", (1, 100, 8), _F), Port("Identity_5:0", (1,), _F)],
            *[Port("Identity:0", (1, 100), _F), Port("Identity_7:0", (1, 12804, 8), _F)],
        ],
    ),
    "nsfwjs.mobilenet_v2": (162, [Port("input_1", (None, 224, 224, 3), _F)], [Port("dense_3", (None, 5), None)]),
    "teachablemachine-zip.tiny-image-model": (
        2,
        [Port("sequential_1", (None, 96, 96, 1), _F)],
        [Port("sequential_3", (None, 2), None)],
    ),
    "tfjs-ts-testdata.hash-table-v2": (
        5,
        [Port("input", (None,), "string"), Port("unknown:0", (), "resource")],
        [Port("output_0", (None,), "int32")],
    ),
    "what-if-tool.data.uci": (3, [Port("dense_1", (None, 104), _F)], [Port("dense_3", (None, 2), None)]),
}


@on_every_model
def test_a_model_of_the_corpus_says_what_goes_in_and_comes_out(name: str) -> None:
    found = topology(parse(model(name).document))

    if name not in _EXPECTED:
        assert found is None
        return
    assert found is not None
    count, inputs, outputs = _EXPECTED[name]
    assert len(found.layers if isinstance(found, LayersTopology) else found.nodes) == count
    assert (list(found.inputs), list(found.outputs)) == (inputs, outputs)


@on_every_model
def test_shapes_of_a_layers_model_of_the_corpus_are_those_that_tfjs_computes(name: str) -> None:
    published = model(name)
    found = topology(parse(published.document))

    if isinstance(found, LayersTopology):
        assert [list(port.shape or ()) for port in found.inputs] == [one["shape"] for one in published.loaded["inputs"]]
        outputs = [(one["name"], one["shape"][1:]) for one in published.loaded["outputs"]]  # loaded with a batch of one
        assert [(port.name, list(port.shape or ())[1:]) for port in found.outputs] == outputs


def test_a_long_chain_with_very_many_outputs_is_read_at_once() -> None:
    names = [f"l{index}" for index in range(20_000)]
    entries = [
        {"class_name": "Dropout", "name": name, "config": {"name": name}, "inbound_nodes": [[[before, 0, 0]]]}
        for before, name in zip(["l0", *names], names, strict=False)
    ]
    outputs = [[name, 0, 0] for name in names]
    manifest = document(
        {"class_name": "Model", "config": {"layers": entries, "input_layers": [], "output_layers": outputs}}
    )

    started = time.process_time()
    found = topology(manifest)

    assert isinstance(found, LayersTopology)
    assert len(found.outputs) == 20_000
    assert time.process_time() - started < 2
