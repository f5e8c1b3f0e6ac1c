import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mock_server import MockServer, Stall
from tests.cli.running import Run, command, written
from tests.models import Model, floats, group, model
from tfjs_fetch.cli.app import COMMANDS
from tfjs_fetch.cli.options import exit_code
from tfjs_fetch.errors import (
    IntegrityError,
    ManifestError,
    RefusedError,
    StatusError,
    TruncatedError,
    UnknownWeightError,
    UnreachableError,
)

NAMES = [command.name or "" for command in COMMANDS]


def test_without_arguments_help_is_given_and_nothing_is_done(run: Run) -> None:
    ran = run()

    assert (ran.code, ran.out) == (2, "")
    assert all(f"\n  {name} " in ran.err for name in NAMES)
    assert "tfjs-fetch demo" in ran.err


@pytest.mark.parametrize("words", [["--help"], ["-h"], *([name, "-h"] for name in NAMES)])
def test_help_is_whole_sentences_at_eighty_columns(words: list[str], run: Run) -> None:
    ran = run(*words)

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Usage: tfjs-fetch ")
    assert max(map(len, ran.out.splitlines())) <= 80
    assert not re.search(r"\.\.\.$", ran.out.partition("\n")[2], re.MULTILINE)  # nothing is cut


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_its_help(name: str) -> None:
    options = [option for one in COMMANDS if one.name == name for option in one.params if option.opts != ["source"]]

    assert options
    assert not [option.name for option in options if not getattr(option, "help", None)]


def test_exit_codes_and_examples_are_in_the_help(run: Run) -> None:
    ran = run("--help")

    assert re.findall(r"\b(\d+) \w+", ran.out.split("Exit codes:")[1]) == ["0", "1", "2", "3", "4", "6", "130"]
    assert set(re.findall(r"^    tfjs-fetch (\w+)", ran.out, re.MULTILINE)) <= set(NAMES)


def test_the_version_is_told(process: Run) -> None:
    ran = process("--version")

    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(r"tfjs-fetch \d+\.\d+\.\d+\n", ran.out)


@pytest.mark.parametrize(
    "words",
    [
        ["fetch", "model.json"],
        ["get"],
        ["get", ""],
        ["get", "a", "b"],
        ["get", "a", "--nope"],
        ["get", "a", "--progress", "loud"],
        ["get", "a", "--allow", "everything"],
        ["get", "a", "--expected", "abc"],
        ["show", "a", "--header", "no colon"],
        ["plan", "a", "--progress", "json"],
        ["demo", "--seconds", "-1"],
        ["demo", "--seconds", "soon"],
    ],
)
def test_misuse_is_explained(words: list[str], run: Run) -> None:
    ran = run(*words)

    assert (ran.code, ran.out) == (2, "")
    assert re.search(r"^Error: .+", ran.err, re.MULTILINE)
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownWeightError("w"), 1),
        (ManifestError("https://host/model.json", "", "it is not JSON"), 1),
        (UnreachableError("/nowhere/model.json", "there is no such file"), 1),
        (UnreachableError("file:///nowhere/model.json", "there is no such file"), 1),
        (OSError(28, "No space left on device"), 1),
        (UnreachableError("http://host/model.json", "connection refused"), 3),
        (StatusError("https://host/model.json", 404), 3),
        (TruncatedError("https://host/w", 1, 2), 3),
        (IntegrityError("https://host/model.json", "a", "b"), 4),
        (RefusedError("https://host/model.json", "too large"), 6),
        (RefusedError("/model.json", "too large"), 6),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_shell_is_told_what_failed_by_the_exit_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_a_missing_page_is_a_failure_of_the_network(run: Run, server: MockServer) -> None:
    ran = run("get", f"{server.url}/model.json", "--progress", "none")

    assert (ran.code, ran.out) == (3, "")
    assert re.fullmatch(rf"Error: {re.escape(server.url)}/model.json answered 404.*\n", ran.err)


def test_a_server_that_is_not_there_is_a_failure_of_the_network(run: Run) -> None:
    ran = run("show", "http://127.0.0.1:1/model.json")

    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("Error: http://127.0.0.1:1/model.json could not be reached: ")
    assert ran.err.count("\n") == 1


def test_a_file_that_is_not_there_is_a_plain_failure(run: Run, tmp_path: Path) -> None:
    ran = run("show", str(tmp_path / "none.json"))

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"Error: {tmp_path}/none.json ")


def test_a_document_that_is_none_is_a_plain_failure(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"weightsManifest": 5}')

    ran = run("plan", str(tmp_path))

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1


def test_a_failure_names_the_option_that_would_help_and_not_the_python(run: Run, tmp_path: Path) -> None:
    first = group({"a": floats(2)}, name="a")
    surplus = {"a0": first.shards["a0"] + b"more"}
    example = model(first, group({"b": floats(1)}, name="b"))
    folder = written(tmp_path / "m", Model(example.document, {**example.shards, **surplus}, {}))

    ran = run("get", folder)

    assert ran.code == 1
    assert "--allow extra-bytes" in ran.err
    assert "Policy(" not in ran.err


def test_an_error_does_not_control_the_terminal(run: Run, tmp_path: Path) -> None:
    ran = run("show", str(tmp_path / "\x1b[31m\x9bm\nmodel.json"))

    assert ran.code == 1
    assert ran.err.startswith(f"Error: {tmp_path}/�[31m�m�model.json ")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("progress", "last"),
    [
        ("bar", "Interrupted."),
        ("json", '{"event": "failed", "error": "KeyboardInterrupt", "message": "interrupted", "exit_code": 130}'),
    ],
)
def test_ctrl_c_ends_it_at_once_and_quietly(progress: str, last: str) -> None:
    words = command("demo", "--seconds", "50", "--progress", progress)

    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()  # it has begun
        process.send_signal(signal.SIGINT)
        before = time.monotonic()
        out, err = process.communicate(timeout=20)
        seconds = time.monotonic() - before

    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == last
    assert not [line for line in err.splitlines() if line == "" or "Traceback" in line]
    assert seconds < 5


def test_ctrl_c_ends_waiting_for_a_server_that_is_silent(server: MockServer, small: Model) -> None:
    server.files.update(small.hosted())
    server.misbehave("/m/model.json", Stall(at=10))
    words = command("show", f"{server.url}/m/model.json")

    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not server.requests:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert (process.returncode, out, err) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize("words", [["get", "--progress", "none"], ["show"], ["show", "--json"], ["plan"]])
def test_a_reader_that_leaves_early_is_no_reason_for_a_traceback(words: list[str], folder: str) -> None:
    with subprocess.Popen(command(*words, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()

    assert "Traceback" not in said
    assert "Exception" not in said
    assert "Error" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device of full disks is Linux's")
def test_a_full_disk_is_a_failure(folder: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("show", folder, "--json"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )

    assert (done.returncode, done.stderr) == (1, "Error: [Errno 28] No space left on device\n")


def test_closed_streams_are_no_reason_for_a_traceback(folder: str) -> None:
    closed = f"{' '.join(command('get', folder))} >&- 2>{folder}/talk"

    code = subprocess.run(closed, shell=True, check=False).returncode

    assert (code, "Traceback" in Path(folder, "talk").read_text()) == (0, False)


def test_without_a_standard_error_talk_does_not_end_up_among_the_data(folder: str) -> None:
    done = subprocess.run(
        f"{' '.join(command('get', folder, '--json'))} 2>&-", shell=True, check=False, stdout=subprocess.PIPE
    )

    assert done.returncode == 0
    assert json.loads(done.stdout)["kind"] == "weights"


@pytest.mark.parametrize("missing", ["click", "rich", "rich.console"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from tfjs_fetch.cli import main; main()"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("the command line needs more packages; install them with: pip install 'tfjs-fetch[cli]'\n")


def test_names_survive_where_the_encoding_does_not_have_them(process: Run, tmp_path: Path) -> None:
    folder = written(tmp_path / "m", model(group({"模型": floats(1)})))

    ran = process("get", folder, PYTHONIOENCODING="latin-1")

    assert (ran.code, ran.rows[1][0]) == (0, "\\u6a21\\u578b")
