"""What the tests of commands say: what came of one, and what it was run on."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tests.models import Model


@dataclass(frozen=True)
class Ran:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The standard output as JSON."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The standard output as cells that tabs separate."""
        return [line.split("\t") for line in self.out.splitlines()]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The standard error as one JSON a line."""
        return [json.loads(line) for line in self.err.splitlines()]


Run: TypeAlias = Callable[..., Ran]


def command(*arguments: str) -> list[str]:
    """Return the words that run the command line in a process of its own, where warnings are errors."""
    return [sys.executable, "-W", "error", "-m", "tfjs_fetch", *arguments]


def written(folder: Path, example: Model) -> str:
    """Write the files of `example` into the new `folder`, and return its path."""
    folder.mkdir()
    for name, content in example.files.items():
        (folder / name).write_bytes(content)
    return str(folder)
