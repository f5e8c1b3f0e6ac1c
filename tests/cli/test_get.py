import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from mock_server import MockServer, Status
from tests.cli.running import Run, written
from tests.cli.schema import EVENTS, is_event, is_failure
from tests.cli.terminal import HOSTILE, TAMED
from tests.models import Model, floats, group, model


def digest(example: Model) -> str:
    """Return the digest of a model of one group, as the design defines it."""
    hashed = hashlib.sha256()
    data = b"".join(example.shards.values())
    for spec in example.document["weightsManifest"][0]["weights"]:
        size = 4 * math.prod(spec["shape"])
        hashed.update(json.dumps([spec["name"], spec["dtype"], spec["shape"], None], separators=(",", ":")).encode())
        hashed.update(b"\n" + data[:size])
        data = data[size:]
    return hashed.hexdigest()


def test_weights_are_listed_with_tabs(process: Run, folder: str, small: Model) -> None:
    ran = process("get", folder)

    assert (ran.code, ran.rows) == (
        0,
        [
            ["name", "shape", "dtype", "stored", "bytes"],
            ["dense/kernel", "4x2", "float32", "float32", "32"],
            ["dense/bias", "2", "float32", "float32", "8"],
            ["step", "scalar", "int32", "int32", "4"],
        ],
    )
    said = re.sub(r"\d\.\d s", "0.0 s", ran.err).splitlines()
    assert said == [
        f"Fetching {folder}",
        "small: 3 weights in 2 files, 44 bytes",
        "small: done in 0.0 s",
        "3 weights, 44 bytes stored, 44 bytes decoded",
        f"digest {digest(small)}",
    ]


def test_weights_are_listed_as_json(run: Run, folder: str, small: Model) -> None:
    ran = run("get", folder, "--json", "--progress", "none")

    assert (ran.code, ran.err) == (0, "")
    assert ran.json == {
        "source": folder,
        "kind": "weights",
        "digest": digest(small),
        "nbytes": 44,
        "weights": [
            {"name": "dense/kernel", "shape": [4, 2], "dtype": "float32", "stored_dtype": "float32", "bytes": 32},
            {"name": "dense/bias", "shape": [2], "dtype": "float32", "stored_dtype": "float32", "bytes": 8},
            {"name": "step", "shape": [], "dtype": "int32", "stored_dtype": "int32", "bytes": 4},
        ],
    }


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_pipe_gets_neither_colours_nor_cut_names(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder = written(tmp_path / "m", model(group({"n" * 300: floats(1)})))

    ran = run("get", folder)

    assert ran.code == 0
    assert ran.rows[1][0] == "n" * 300
    assert "\x1b" not in ran.out + ran.err


@pytest.mark.parametrize(
    "words", [["get"], ["get", "--json"], ["show"], ["show", "--json"], ["plan"], ["plan", "--json"]]
)
def test_hostile_names_break_nothing(words: list[str], run: Run, tmp_path: Path) -> None:
    folder = written(tmp_path / "m", model(group({HOSTILE: floats(1)}, name="[red]\x1b[2J")))

    ran = run(*words, folder)

    assert ran.code == 0
    assert all(letter.isprintable() or letter in "\t\n" for letter in ran.out + ran.err)
    if "--json" in words:
        assert ran.json["weights"][0]["name"] == HOSTILE
    elif words != ["plan"]:
        assert ran.rows[1] == [TAMED, "1", "float32", "float32", "4"]


def test_chosen_weights_come_alone(run: Run, folder: str) -> None:
    ran = run("get", folder, "--weights", "*/bias", "--weights", "step", "--json")

    assert [weight["name"] for weight in ran.json["weights"]] == ["dense/bias", "step"]


@pytest.mark.parametrize("name", ["get", "plan", "show"])
def test_a_pattern_that_matches_nothing_is_a_failure_with_the_nearest_names(name: str, run: Run, folder: str) -> None:
    ran = run(name, folder, "--weights", "dense/kernels")

    assert (ran.code, ran.out) == (1, "")
    assert "'dense/kernels'" in ran.err
    assert "'dense/kernel'" in ran.err


def test_the_expected_digest_is_checked(run: Run, folder: str, small: Model) -> None:
    same = run("get", folder, "--expected", digest(small).upper())
    other = run("get", folder, "--expected", "0" * 64)

    assert (same.code, len(same.rows)) == (0, 4)
    assert (other.code, other.out) == (4, "")
    assert digest(small) in other.err


def test_shards_may_be_elsewhere(run: Run, server: MockServer, small: Model) -> None:
    server.files.update({f"/elsewhere/{name}": content for name, content in small.shards.items()})
    server.files["/m/model.json"] = small.files["model.json"]

    ran = run("get", f"{server.url}/m/model.json", "--shard-url", f"{server.url}/elsewhere/", "--json")

    assert (ran.code, ran.json["digest"]) == (0, digest(small))


def test_secrets_of_an_address_are_not_shown(run: Run, server: MockServer, small: Model) -> None:
    server.files.update(small.hosted())

    for words in (["--json"], ["--progress", "json"], []):
        ran = run("get", server.url.replace("//", "//me:secret@") + "/m/model.json?token=secret", *words)
        assert ran.code == 0
        assert "secret" not in ran.out + ran.err


def refusals(url: str) -> dict[str, Model]:
    """Return models that are refused, by what allows them."""
    first, second = group({"a": floats(2)}, name="a"), group({"b": floats(1)}, name="b")
    long = model(first, second)
    swapped = model(group({"a": floats(2)}, [4, 4], name="x"))
    names = ["w-shard2of2", "w-shard1of2"]
    swapped.document["weightsManifest"][0]["paths"] = names
    away = model(group({"a": floats(2)}))
    away.document["weightsManifest"][0]["paths"] = [f"{url}/m/w0"]
    return {
        "extra-bytes": Model(long.document, {**long.shards, "a0": long.shards["a0"] + b"more"}, {}),
        "shard-order": Model(swapped.document, dict(zip(names, swapped.shards.values(), strict=True)), {}),
        "absolute-shards": away,
    }


@pytest.mark.parametrize(("allowed", "code"), [("extra-bytes", 1), ("shard-order", 1), ("absolute-shards", 6)])
def test_what_is_refused_can_be_allowed(allowed: str, code: int, run: Run, server: MockServer) -> None:
    server.files.update(refusals(server.url)[allowed].hosted())

    refused = run("get", f"{server.url}/m/model.json")
    tolerated = run("get", f"{server.url}/m/model.json", "--allow", allowed)

    assert (refused.code, refused.out) == (code, "")
    assert f"--allow {allowed} " in refused.err
    assert (tolerated.code, tolerated.rows[1][0]) == (0, "a")


def test_progress_is_told_as_one_json_a_line(run: Run, server: MockServer) -> None:
    example = model(group({"a": floats(2), "b": floats(1)}, [8, 4]))
    server.files.update(Model(example.document, {**example.shards, "w1": example.shards["w1"] + b"more"}, {}).hosted())
    server.misbehave("/m/w0", Status(503), times=1)
    url = f"{server.url}/m/model.json"

    ran = run("get", url, "--progress", "json")

    assert ran.code == 0
    assert all(map(is_event, ran.events))
    assert {event["source"] for event in ran.events} == {url}
    kinds = [event["event"] for event in ran.events]
    assert (kinds[0], kinds[-1]) == ("planned", "finished")
    assert set(kinds) == set(EVENTS) - {"stalled"}
    assert (ran.events[-1]["done_bytes"], ran.events[-1]["total_bytes"]) == (12, 12)


@pytest.mark.parametrize(
    ("words", "error", "code"),
    [
        (["{url}/none.json"], "StatusError", 3),
        (["{url}/m/model.json", "--weights", "none"], "UnknownWeightError", 1),
        (["{url}/m/model.json", "--expected", "0" * 64], "IntegrityError", 4),
        (["ftp://host/model.json"], "RefusedError", 6),
    ],
)
def test_a_failure_ends_the_lines_of_json(
    words: list[str], error: str, code: int, run: Run, server: MockServer, small: Model
) -> None:
    server.files.update(small.hosted())

    ran = run("get", *(word.format(url=server.url) for word in words), "--progress", "json")

    last: dict[str, Any] = ran.events[-1]
    assert (ran.code, ran.out) == (code, "")
    assert is_failure(last)
    assert (last["error"], last["exit_code"]) == (error, code)


def test_a_shard_that_is_missing_is_a_failure_of_the_network(run: Run, server: MockServer, small: Model) -> None:
    server.files.update(small.hosted())
    del server.files["/m/w1"]

    ran = run("get", f"{server.url}/m/model.json")

    assert (ran.code, ran.out) == (3, "")
    assert ran.err.splitlines()[-1].startswith(f"Error: {server.url}/m/w1 answered 404")
