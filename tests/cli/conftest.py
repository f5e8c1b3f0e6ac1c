"""The command line, in this process and in one of its own, and a server to fetch from."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from anyio.from_thread import start_blocking_portal

from mock_server import MockServer
from tests.cli.running import Ran, Run, command, written
from tests.models import Model, floats, group, model
from tfjs_fetch.cli.app import app


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No preferences of whoever runs the tests, no proxies, no pauses before another attempt."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("tfjs_fetch.download.random.uniform", lambda low, high: low)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process; its streams are no terminals."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app(list(arguments), prog_name="tfjs-fetch")
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def process() -> Run:
    """Runs a command in a process of its own, with more in its environment if need be."""

    def process(*arguments: str, **environment: str) -> Ran:
        done = subprocess.run(
            command(*arguments), capture_output=True, env=os.environ | environment, encoding="utf-8", timeout=60
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return process


@pytest.fixture
def server() -> Iterator[MockServer]:
    """A server in a thread of its own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(MockServer()) as server:
        yield server


@pytest.fixture
def small() -> Model:
    """A model of 44 bytes in two shards, which cut its first weight."""
    arrays = {"dense/kernel": floats(8).reshape(4, 2), "dense/bias": floats(2, 0.5), "step": np.int32(7)}
    return model(group(arrays, [20, 24]))


@pytest.fixture
def folder(small: Model, tmp_path: Path) -> str:
    """The path of the files of `small`."""
    return written(tmp_path / "small", small)
