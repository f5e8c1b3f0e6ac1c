import json
from dataclasses import fields
from typing import Any, get_args

import pytest

from mock_server import MockServer
from tests.cli.running import Run
from tests.cli.schema import COMMON, EVENTS, is_event, is_failure
from tests.models import Model
from tfjs_fetch.cli import options
from tfjs_fetch.cli.options import shown
from tfjs_fetch.config import Policy
from tfjs_fetch.errors import StatusError
from tfjs_fetch.events import (
    Event,
    Finished,
    Planned,
    Retrying,
    ShardFinished,
    ShardProgress,
    Stalled,
    Warned,
    WeightReady,
)

SAMPLES: list[Event] = [
    Planned("https://host/m", 2, 3, 44, 0),
    Planned("https://host/m", 2, 3, None, 0),
    ShardProgress("https://host/m", "https://host/w", 0, 10, 20),
    ShardProgress("https://host/m", "https://host/w", 0, 10, None),
    ShardFinished("https://host/m", "https://host/w", 0, 20, "network"),
    Retrying("https://host/m", "https://host/w", 2, 0.5, "https://host/w answered 503"),
    Stalled("https://host/m", "https://host/w", None, 30.0),
    WeightReady("https://host/m", "a\nb\x1b \ud800 模", 1, 3),
    Warned("https://host/m", "odd"),
    Finished("https://host/m", 44, 1.25),
]


def test_the_schema_has_every_event_with_all_its_fields() -> None:
    classes = {"".join(word.title() for word in name.split("_")): set(own) for name, own in EVENTS.items()}

    known = {kind.__name__: {field.name for field in fields(kind)} - set(COMMON) for kind in get_args(Event)}
    assert classes == known
    assert {type(sample) for sample in SAMPLES} == set(get_args(Event))


@pytest.mark.parametrize("event", SAMPLES)
def test_an_event_is_a_line_of_json(event: Event, capsys: pytest.CaptureFixture[str]) -> None:
    with shown("json") as show:
        show(event)

    out, err = capsys.readouterr()
    line = json.loads(err)
    assert (out, err.count("\n"), err.isascii()) == ("", 1, True)
    assert is_event(line), line
    assert all(line[field.name] == getattr(event, field.name) for field in fields(event) if field.name in line)


def test_each_line_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with shown("json") as show:
        show(Planned("m", 2, 3, 44, 0))
        show(ShardProgress("m", "w0", 0, 10, 20))
        show(ShardFinished("m", "w0", 0, 20, "network"))
        show(Finished("m", 44, 1.0))

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["done_bytes"] for line in lines] == [0, 10, 20, 44]
    assert [line["total_bytes"] for line in lines] == [44, 44, 44, 44]
    assert lines[-1]["time_left"] == 0


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            StatusError("https://host/w?secret", 500),
            {"error": "StatusError", "message": "https://host/w?… answered 500", "exit_code": 3},
        ),
        (OSError(28, "No space"), {"error": "OSError", "message": "[Errno 28] No space", "exit_code": 1}),
        (KeyboardInterrupt(), {"error": "KeyboardInterrupt", "message": "interrupted", "exit_code": 130}),
    ],
)
def test_a_failure_is_a_line_of_json_too(
    error: BaseException, line: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with shown("json"):
            raise error

    with pytest.raises(Exception) as caught:  # noqa: PT011 - click's, which is looked at below
        fail()

    said = json.loads(capsys.readouterr().err)
    assert said == {"event": "failed", **line}
    assert is_failure(said)
    assert getattr(caught.value, "exit_code", None) == line["exit_code"]


def test_nothing_is_shown_if_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with shown("none") as show:
        for event in SAMPLES:
            show(event)

    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("X-Key: secret", "x-key", "secret"),
        ("X-Key:secret", "x-key", "secret"),
        ("  X-Key  :  secret  ", "x-key", "secret"),
        ("Authorization: Basic a:b==", "authorization", "Basic a:b=="),
        ("X-Key:", "x-key", ""),
    ],
)
def test_a_header_goes_with_every_request_to_the_model(
    text: str, name: str, value: str, run: Run, server: MockServer, small: Model
) -> None:
    server.files.update(small.hosted())

    ran = run("get", f"{server.url}/m/model.json", "--header", text, "--header", "X-Other: 1", "--cache", "none")

    assert ran.code == 0
    assert len(server.requests) == 3
    assert {(request.headers[name], request.headers["x-other"]) for request in server.requests} == {(value, "1")}


@pytest.mark.parametrize(
    "text",
    [
        "sesame",
        "",
        ": sesame",
        "X Key: sesame",
        "Schlüssel: sesame",
        "X-Key: sesame\r\nX: y",
        "X-Key: sesame ü",
        "\n:x",
    ],
)
@pytest.mark.parametrize("name", ["get", "plan", "show"])
def test_a_header_that_cannot_be_sent_is_misuse_and_not_repeated(name: str, text: str, run: Run, folder: str) -> None:
    ran = run(name, folder, "--header", text)

    assert (ran.code, ran.out) == (2, "")
    assert "--header" in ran.err
    assert "sesame" not in ran.err


@pytest.mark.parametrize(
    ("allowed", "policy"),
    [
        ([], Policy()),
        (["extra-bytes"], Policy(extra_bytes="ignore")),
        (["shard-order"], Policy(shard_order="ignore")),
        (["private-hosts"], Policy(private_hosts=True)),
        (["absolute-shards"], Policy(absolute_shards=True)),
        (["shard-order", "extra-bytes"], Policy(shard_order="ignore", extra_bytes="ignore")),
    ],
)
def test_what_is_allowed_becomes_the_policy(
    allowed: list[str], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(options, "Client", lambda **settings: made.append(settings))

    options.client((), allowed, "none")

    assert made == [{"headers": {}, "policy": policy, "cache": None}]
