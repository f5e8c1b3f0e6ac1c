import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.terminal import HOSTILE, TAMED, Terminal
from tfjs_fetch.cli.output import (
    MINOR_WEIGHT_COLUMNS,
    WEIGHT_COLUMNS,
    decoded_bytes,
    print_json,
    print_table,
    say,
    shape,
    summary,
    totals,
    weight_rows,
    weights_json,
)
from tfjs_fetch.format.manifest import WeightSpec, parse


def specs(*entries: dict[str, Any]) -> tuple[WeightSpec, ...]:
    document = [{"paths": ["w"], "weights": list(entries)}]
    return parse(json.dumps(document).encode(), source="test").weights


KERNEL = {"name": "kernel", "shape": [3, 3, 100], "dtype": "float32"}
SMALL = {"name": "small", "shape": [10], "dtype": "float32", "quantization": {"dtype": "uint8", "min": 0, "scale": 1}}
STEP = {"name": "step", "shape": [], "dtype": "int32"}
LABELS = {"name": "labels", "shape": [2], "dtype": "string"}


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Terminal]:
    """Makes the standard output a terminal of so many columns."""

    def opened(width: int) -> Terminal:
        terminal = Terminal()
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys, "stdout", terminal)
        return terminal

    return opened


def test_without_a_terminal_a_table_is_lines_of_cells_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "shape", "bytes"), [("a", "2x3", 1234567), ("b" * 300, None, None)], minor=("shape",))

    assert capsys.readouterr().out == f"name\tshape\tbytes\na\t2x3\t1234567\n{'b' * 300}\t\t\n"


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_what_a_program_reads_has_no_colours_even_if_they_are_forced(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "1")

    print_table(("name",), [("a",)])

    assert capsys.readouterr().out == "name\na\n"


def test_hostile_names_do_not_break_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "bytes"), [(HOSTILE, 4)])

    assert capsys.readouterr().out == f"name\tbytes\n{TAMED}\t4\n"


def test_hostile_names_survive_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": HOSTILE})

    out = capsys.readouterr().out
    assert json.loads(out) == {"name": HOSTILE}
    assert all(letter.isprintable() or letter == "\n" for letter in out)


def test_sentences_go_to_the_standard_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)

    assert capsys.readouterr() == ("", f"{TAMED}\n")


def test_a_person_sees_aligned_columns(open_terminal: Callable[[int], Terminal]) -> None:
    terminal = open_terminal(80)

    print_table(WEIGHT_COLUMNS, weight_rows(specs(KERNEL, SMALL, STEP, LABELS)), minor=MINOR_WEIGHT_COLUMNS)

    assert terminal.screen == [
        "name    shape    dtype    stored   bytes",
        "kernel  3x3x100  float32  float32  3,600",
        "small   10       float32  uint8       10",
        "step    scalar   int32    int32        4",
        "labels  2        string   string       -",
    ]


def test_minor_columns_are_left_out_of_a_narrow_terminal(open_terminal: Callable[[int], Terminal]) -> None:
    terminal = open_terminal(40)

    print_table(WEIGHT_COLUMNS, weight_rows(specs(KERNEL)), minor=MINOR_WEIGHT_COLUMNS)

    assert terminal.screen == ["name    shape    bytes", "kernel  3x3x100  3,600"]


@pytest.mark.parametrize("width", [20, 40, 64, 80, 200])
def test_a_long_name_is_folded_and_never_cut(width: int, open_terminal: Callable[[int], Terminal]) -> None:
    terminal = open_terminal(width)

    print_table(WEIGHT_COLUMNS, [("n" * 150, "1", "float32", "float32", 4)], minor=MINOR_WEIGHT_COLUMNS)

    assert terminal.widest <= width
    assert "".join(terminal.screen[1:]).count("n") == 150


def test_hostile_names_do_not_control_the_terminal(open_terminal: Callable[[int], Terminal]) -> None:
    terminal = open_terminal(80)  # it refuses commands

    print_table(("name", "bytes"), [(HOSTILE, 4)])

    assert terminal.screen[1].split() == [TAMED, "4"]


def test_an_empty_table_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("file", "bytes"), [])

    assert capsys.readouterr().out == "file\tbytes\n"


def test_weights_become_json() -> None:
    assert weights_json(specs(SMALL, LABELS)) == [
        {"name": "small", "shape": [10], "dtype": "float32", "stored_dtype": "uint8", "bytes": 10},
        {"name": "labels", "shape": [2], "dtype": "string", "stored_dtype": "string", "bytes": None},
    ]


@pytest.mark.parametrize(
    ("sizes", "text"),
    [((3, 3, 64), "3x3x64"), ((None, 224, 224, 3), "?x224x224x3"), ((5,), "5"), ((0, 4), "0x4"), ((), "scalar")],
)
def test_shapes_are_written_as_people_do(sizes: tuple[int | None, ...], text: str) -> None:
    assert shape(sizes) == text


def test_totals_are_by_type_and_by_how_it_is_stored() -> None:
    assert totals(specs(KERNEL, SMALL, STEP, {**KERNEL, "name": "other"})) == [
        ("float32", 2, 1800, 7200),
        ("float32 stored as uint8", 1, 10, 10),
        ("int32", 1, 1, 4),
    ]


@pytest.mark.parametrize(
    ("entries", "decoded", "words"),
    [
        ([KERNEL], 3600, "1 weight, 3.6 kB stored, 3.6 kB decoded"),
        ([KERNEL, SMALL, STEP], 3644, "3 weights, 3.6 kB stored, 3.6 kB decoded"),
        ([SMALL], 40, "1 weight, 10 bytes stored, 40 bytes decoded"),
        ([], 0, "0 weights, 0 bytes stored, 0 bytes decoded"),
    ],
)
def test_what_weights_come_to_is_said_in_words(entries: list[dict[str, Any]], decoded: int, words: str) -> None:
    assert decoded_bytes(specs(*entries)) == decoded
    assert summary(specs(*entries)) == words


def test_of_strings_only_the_least_is_said() -> None:
    assert summary(specs(STEP, LABELS)).startswith("2 weights, at least ")
