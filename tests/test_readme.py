"""The README says what is so: its code runs, its tables name what there is."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

import tfjs_fetch
from tfjs_fetch.cli.app import COMMANDS
from tfjs_fetch.events import Event

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", PYTHON_BLOCKS, ids=range(len(PYTHON_BLOCKS)))
def test_its_python_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode, "hidden1/kernel" in done.stdout) == (0, True), done.stderr


def test_its_tree_of_errors_is_complete() -> None:
    listed = set(re.findall(r"[├└]── (\w+Error)", README))

    errors = {name for name in tfjs_fetch.__all__ if name.endswith("Error")} - {"TfjsFetchError"}
    assert listed == errors


def test_its_table_of_events_is_complete() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .*\|$", README, re.MULTILINE))

    known = {kind.__name__: [f.name for f in fields(kind) if f.name != "source"] for kind in get_args(Event)}
    assert {name: re.findall(r"`(\w+)`(?=[, ]|$)", row.split("(`")[0]) for name, row in rows.items()} == known


def test_it_lists_every_command() -> None:
    listed = re.findall(r"^tfjs-fetch (\w+) ", README, re.MULTILINE)

    assert listed == [command.name for command in COMMANDS]


def test_the_files_it_draws_and_links_exist() -> None:
    named = re.findall(r"\]\((?!http)([^)]+)\)", README)
    drawn = re.findall(r"(\w+\.py)", README.split("```text\ntfjs_fetch/")[1].split("```")[0])

    modules = {path.name for path in (ROOT / "tfjs_fetch").rglob("*.py")}
    assert all((ROOT / name).exists() for name in named)
    assert set(drawn) <= modules
    assert {path.name for path in (ROOT / "tfjs_fetch").glob("*.py")} - {"__init__.py", "__main__.py"} <= set(drawn)
