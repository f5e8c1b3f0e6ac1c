import hashlib
import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

import tfjs_fetch
from tests.cli.running import Run, command
from tests.cli.terminal import Terminal

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "demo_model.json").read_text(encoding="utf-8")
)["weights"]
FOLDER = Path(tfjs_fetch.__file__).parent / "demo_model"

# Run before the command line: what leaves this machine, or asks for the address of another, ends the process.
ALONE = """
import sys
def check(event, arguments):
    if event == "socket.connect" and arguments[1][0] != "127.0.0.1":
        raise SystemExit(f"{event} {arguments}")
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", b"127.0.0.1", None):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(check)
from tfjs_fetch.cli import main
main()
"""


def test_it_shows_the_weights_that_tensorflow_js_made(process: Run) -> None:
    ran = process("demo", "--seconds", "0.2", "--json")

    listed = [{key: weight[key] for key in ("name", "shape", "dtype")} for weight in ran.json["weights"]]
    assert (ran.code, listed) == (0, [{key: one[key] for key in ("name", "shape", "dtype")} for one in GOLDEN])
    bundle = tfjs_fetch.fetch_sync(FOLDER)
    assert {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in bundle.items()} == {
        one["name"]: one["sha256"] for one in GOLDEN
    }
    assert ran.json["digest"] == bundle.digest


def test_it_says_what_it_does_and_what_to_do_next(run: Run) -> None:
    ran = run("demo", "--seconds", "0.2")

    assert (ran.code, len(ran.rows)) == (0, 1 + len(GOLDEN))
    said = ran.err.splitlines()
    assert re.fullmatch(r"Fetching http://127\.0\.0\.1:\d+/model\.json, which this command serves itself", said[0])
    assert said[-1].startswith("Now one of yours: tfjs-fetch get ")


@pytest.mark.parametrize("words", [["--progress", "none"], ["--progress", "json"]])
def test_it_does_not_talk_between_the_lines(words: list[str], run: Run) -> None:
    ran = run("demo", "--seconds", "0", *words)

    assert ran.code == 0
    assert [event["event"] for event in ran.events][-1:] == ([] if words[1] == "none" else ["finished"])


def test_it_needs_no_network() -> None:
    words = [sys.executable, "-W", "error", "-c", ALONE, "demo", "--seconds", "0.2", "--progress", "none"]

    done = subprocess.run(words, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_it_does_not_ask_a_proxy_for_this_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "example.com")

    ran = run("demo", "--seconds", "0", "--progress", "none")

    assert ran.code == 0
    assert "no_proxy" not in os.environ
    assert os.environ["NO_PROXY"] == "example.com"


@pytest.mark.parametrize("width", [40, 80])
def test_on_a_terminal_there_are_bars_and_then_the_table(width: int) -> None:
    terminal = Terminal(_written_to_a_terminal(command("demo", "--seconds", "0.6"), width))

    assert terminal.frames > 3
    assert terminal.cursor_is_shown
    first = next(line for line in terminal.screen if "━" in line)
    assert len(first) <= width
    assert re.search(r"━ 100% .*done$", first)
    name = "".join(line.split()[0] for line in terminal.screen[terminal.screen.index(first) + 2 :])
    assert name.startswith("stem_conv/kernelstem_conv/bias")
    assert terminal.screen[-1].startswith("Now one of yours: ")


def _written_to_a_terminal(words: list[str], width: int) -> str:
    """Return what a command writes to both streams where those are a terminal of so many columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (60, width))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        written = b""
        while piece := _read(ours):
            written += piece
    os.close(ours)
    return written.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way to say that the other end is closed
        return b""
