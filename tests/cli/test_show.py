import json
from pathlib import Path
from typing import Any

import pytest

from mock_server import MockServer
from tests.cli.running import Run, written
from tests.models import Model, floats, group, model

WEIGHTS = group({"dense/kernel": floats(6).reshape(2, 3), "dense/bias": floats(3)})

DENSE = {"class_name": "Dense", "config": {"name": "dense", "units": 3, "batch_input_shape": [None, 2]}}
INSIDE = {"class_name": "Sequential", "config": {"name": "body", "layers": [DENSE]}}
LAYERS = {"class_name": "Sequential", "config": {"name": "classifier", "layers": [INSIDE]}}

GRAPH = {
    "node": [
        {
            "name": "image",
            "op": "Placeholder",
            "attr": {"dtype": {"type": "DT_FLOAT"}, "shape": {"shape": {"dim": [{"size": "-1"}, {"size": "2"}]}}},
        },
        {"name": "dense/kernel", "op": "Const"},
        {"name": "dense/bias", "op": "Const"},
        {"name": "classes", "op": "_FusedMatMul", "input": ["image", "dense/kernel", "dense/bias"]},
    ]
}


@pytest.fixture
def layers(tmp_path: Path) -> str:
    return written(tmp_path / "m", model(WEIGHTS, modelTopology=LAYERS))


@pytest.fixture
def graph(tmp_path: Path) -> str:
    return written(tmp_path / "m", model(WEIGHTS, modelTopology=GRAPH))


def test_layers_inputs_and_outputs_of_a_layers_model_are_shown(run: Run, layers: str) -> None:
    ran = run("show", layers)

    assert ran.code == 0
    assert ran.rows == [
        ["name", "shape", "dtype", "stored", "bytes"],
        ["dense/kernel", "2x3", "float32", "float32", "24"],
        ["dense/bias", "3", "float32", "float32", "12"],
        [""],
        ["layer", "class"],
        ["body", "Sequential"],
        ["  dense", "Dense"],
        [""],
        ["total", "weights", "values", "bytes"],
        ["float32", "2", "9", "36"],
        [""],
        ["port", "name", "shape", "dtype"],
        ["input", "body", "?x2", "float32"],
        ["output", "body", "?x3", ran.rows[-1][3]],
    ]
    assert ran.err == f"{layers} is a layers model of 2 layers: 2 weights, 36 bytes stored, 36 bytes decoded\n"


def test_operations_inputs_and_outputs_of_a_graph_model_are_shown(run: Run, graph: str) -> None:
    ran = run("show", graph)

    assert ran.rows[4:8] == [["operation", "nodes"], ["Const", "2"], ["Placeholder", "1"], ["_FusedMatMul", "1"]]
    assert ran.rows[-3:] == [
        ["port", "name", "shape", "dtype"],
        ["input", "image", "?x2", "float32"],
        ["output", "classes", "", ""],
    ]
    assert ran.err == f"{graph} is a graph model of 4 nodes: 2 weights, 36 bytes stored, 36 bytes decoded\n"


def test_of_weights_alone_there_are_the_weights(run: Run, folder: str) -> None:
    ran = run("show", folder)

    assert [row[0] for row in ran.rows] == [
        "name",
        "dense/kernel",
        "dense/bias",
        "step",
        "",
        "total",
        "float32",
        "int32",
    ]
    assert ran.err == f"{folder} is weights without a topology: 3 weights, 44 bytes stored, 44 bytes decoded\n"


def test_a_model_without_weights_is_shown(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"modelTopology": LAYERS, "weightsManifest": []}))

    ran = run("show", str(tmp_path))

    assert (ran.code, ran.rows[0]) == (0, ["layer", "class"])
    assert "0 weights" in ran.err


def test_a_layers_model_is_shown_as_json(run: Run, layers: str) -> None:
    ran = run("show", layers, "--json")

    assert (ran.code, ran.err) == (0, "")
    shown: dict[str, Any] = ran.json
    assert [weight["name"] for weight in shown.pop("weights")] == ["dense/kernel", "dense/bias"]
    (output,) = shown.pop("outputs")
    assert (output["name"], output["shape"]) == ("body", [None, 3])
    assert shown == {
        "source": layers,
        "kind": "layers",
        "stored_bytes": 36,
        "decoded_bytes": 36,
        "inputs": [{"name": "body", "shape": [None, 2], "dtype": "float32"}],
        "layers": [{"name": "body", "class_name": "Sequential", "layers": [{"name": "dense", "class_name": "Dense"}]}],
    }


def test_a_graph_model_is_shown_as_json(run: Run, graph: str) -> None:
    ran = run("show", graph, "--json")

    assert ran.json["kind"] == "graph"
    assert ran.json["inputs"] == [{"name": "image", "shape": [None, 2], "dtype": "float32"}]
    assert ran.json["operations"] == {"Placeholder": 1, "Const": 2, "_FusedMatMul": 1}


def test_no_shard_is_asked_for(run: Run, server: MockServer, small: Model) -> None:
    server.files.update(small.hosted())

    ran = run("show", f"{server.url}/m/model.json")

    assert ran.code == 0
    assert [request.path for request in server.requests] == ["/m/model.json"]


def test_chosen_weights_are_shown_alone(run: Run, layers: str) -> None:
    ran = run("show", layers, "--weights", "*bias")

    assert [row[0] for row in ran.rows[:3]] == ["name", "dense/bias", ""]
    assert "1 weight, 12 bytes stored" in ran.err


def test_hostile_names_of_layers_break_nothing(run: Run, tmp_path: Path) -> None:
    name = "[red]\x1b[2J\n\t\ud800"
    layer = {"class_name": name, "config": {"name": name, "batch_input_shape": [None, 2], "dtype": name}}
    topology = {"class_name": "Sequential", "config": {"name": name, "layers": [layer]}}
    folder = written(tmp_path / "m", model(WEIGHTS, modelTopology=topology))

    tables, document = run("show", folder), run("show", folder, "--json")

    assert ["[red]�[2J���", "[red]�[2J���"] in tables.rows
    assert ["input", "[red]�[2J���", "?x2", "[red]�[2J���"] in tables.rows
    assert document.json["layers"] == [{"name": name, "class_name": name}]
