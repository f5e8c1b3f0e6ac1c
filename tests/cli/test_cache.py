import json
from pathlib import Path

import pytest

from mock_server import MockServer
from tests.cli.running import Run
from tests.models import Model


@pytest.fixture
def url(server: MockServer, small: Model, run: Run) -> str:
    """The URL of a model that was fetched."""
    server.files.update(small.hosted())
    url = f"{server.url}/m/model.json"
    assert run("get", url, "--progress", "none").code == 0
    return url


def test_it_says_where_it_is(run: Run, cache_directory: Path) -> None:
    assert run("cache", "dir").out.strip() == str(cache_directory)


def test_it_lists_what_it_has(run: Run, url: str) -> None:
    (listed,) = json.loads(run("cache", "ls", "--json").out)

    assert (listed["url"], listed["complete"]) == (url, True)
    assert listed["bytes"] > 0
    assert url in run("cache", "ls").out


def test_it_shows_the_files_of_a_model(run: Run, url: str, small: Model) -> None:
    ((model),) = json.loads(run("cache", "info", url, "--json").out)

    assert [(file["url"].rpartition("/")[2], file["bytes"]) for file in model["files"]] == [
        (name, len(content)) for name, content in small.files.items()
    ]
    assert all(len(file["sha256"]) == 64 for file in model["files"])


def test_a_damaged_file_is_found_and_comes_again_alone(
    run: Run, url: str, cache_directory: Path, server: MockServer
) -> None:
    assert run("cache", "verify").code == 0
    (file,) = cache_directory.rglob("weights-0.bin")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    seen = len(server.requests)

    ran = run("cache", "verify", "--json")
    (report,) = json.loads(ran.out)
    offline = run("get", url, "--cache", "offline", "--progress", "none")
    again = run("get", url, "--progress", "none")

    assert (ran.code, offline.code, again.code) == (4, 3, 0)
    assert [damaged.rpartition("/")[2] for damaged in report["damaged"]] == ["w1"]
    assert {request.path for request in server.requests[seen:] if request.status == 200} == {"/m/model.json", "/m/w1"}
    assert run("cache", "verify").code == 0


@pytest.mark.parametrize("words", [["rm"], ["clear"], ["prune", "--max-size", "0"], ["prune", "--older-than", "0s"]])
def test_models_are_removed_and_only_told_of_in_a_dry_run(words: list[str], run: Run, url: str) -> None:
    words = [*words, url] if words == ["rm"] else words

    assert url in run("cache", *words, "--dry-run").out
    assert len(json.loads(run("cache", "ls", "--json").out)) == 1
    assert run("cache", *words).code == 0
    assert json.loads(run("cache", "ls", "--json").out) == []


@pytest.mark.parametrize("words", [["info", "http://h/m/model.json"], ["rm", "http://h/m/model.json"]])
def test_what_is_not_there_is_an_error(words: list[str], run: Run) -> None:
    ran = run("cache", *words)

    assert ran.code == 1
    assert "not in the cache" in ran.err


@pytest.mark.parametrize("words", [["--max-size", "much"], ["--older-than", "long"]])
def test_spans_and_sizes_are_checked(words: list[str], run: Run) -> None:
    assert run("cache", "prune", *words).code == 2
