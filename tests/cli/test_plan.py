from pathlib import Path

import pytest

from mock_server import MockServer
from tests.cli.running import Run, written
from tests.models import Model, floats, group, model

MEBIBYTE = 2**20


def test_the_files_are_listed_by_one_request(run: Run, server: MockServer, small: Model) -> None:
    server.files.update(small.hosted())

    ran = run("plan", f"{server.url}/m/model.json")

    # The sizes are not in model.json, and these shards are not cut in the usual way.
    assert (ran.code, ran.rows) == (0, [["file", "bytes"], ["w0", ""], ["w1", ""]])
    assert ran.err == "2 files: 3 weights, 44 bytes stored, 44 bytes decoded\n"
    assert [request.path for request in server.requests] == ["/m/model.json"]


def test_sizes_are_listed_where_model_json_implies_them(run: Run, tmp_path: Path) -> None:
    example = model(group({"a": floats(MEBIBYTE), "b": floats(2)}, [4 * MEBIBYTE, 8]))
    folder = written(tmp_path / "m", Model(example.document, {}, {}))  # no shard is looked at

    ran = run("plan", folder)

    assert ran.rows == [["file", "bytes"], ["w0", "4194304"], ["w1", "8"]]
    assert ran.err == "2 files: 2 weights, 4.2 MB stored, 4.2 MB decoded\n"


def test_what_will_be_asked_for_of_chosen_weights_is_listed(run: Run, server: MockServer) -> None:
    example = model(group({f"w{index}": floats(40_000) for index in range(4)}))
    server.files.update(example.hosted())
    url = f"{server.url}/m/model.json"

    ran = run("plan", url, "--weights", "w1", "--weights", "w3")
    as_json = run("plan", url, "--weights", "w1", "--weights", "w3", "--json").json

    assert ran.rows == [["file", "bytes", "asked for"], ["w0", "640000", "320000"]]
    assert as_json["asked_bytes"] == 320_000
    assert as_json["shards"][0]["ranges"] == [[160_000, 320_000], [480_000, 640_000]]


def test_a_plan_is_given_as_json(run: Run, folder: str) -> None:
    ran = run("plan", folder, "--json", "--weights", "step")

    assert (ran.code, ran.err) == (0, "")
    assert ran.json == {
        "source": folder,
        "kind": "weights",
        "weights": [{"name": "step", "shape": [], "dtype": "int32", "stored_dtype": "int32", "bytes": 4}],
        "total_bytes": 4,
        "cached_bytes": 0,
        "asked_bytes": 44,
        "shards": [
            {"index": 0, "group": 0, "path": "w0", "size": 20, "ranges": []},
            {"index": 1, "group": 0, "path": "w1", "size": 24, "ranges": []},
        ],
    }


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_signature_in_a_path_is_not_shown(words: list[str], run: Run, tmp_path: Path) -> None:
    example = model(group({"a": floats(1)}))
    example.document["weightsManifest"][0]["paths"] = ["w0?signature=secret"]

    ran = run("plan", written(tmp_path / "m", Model(example.document, {}, {})), *words)

    assert ran.code == 0
    assert "w0" in ran.out
    assert "secret" not in ran.out + ran.err
