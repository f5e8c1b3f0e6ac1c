"""What holds for all tests."""

import os
import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Let interrupts reach the processes that tests start, and a name server that does not answer cost little time."""
    # A shell's background jobs ignore interrupts, as their children would.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Some tests ask for names that do not exist.
    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")


@pytest.fixture(autouse=True)
def cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test, also where it does not say so."""
    directory = tmp_path.with_name(f"{tmp_path.name} cache")
    monkeypatch.setenv("TFJS_FETCH_CACHE", str(directory))
    return directory
