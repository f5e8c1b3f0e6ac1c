"""Tables and JSON on the standard output, for people on a terminal, tab-separated for programs; words elsewhere."""

import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfjs_fetch.bars import counted, printable, size
from tfjs_fetch.format.dtypes import itemsize
from tfjs_fetch.format.manifest import WeightSpec

Row: TypeAlias = Sequence[str | int | None]
_Length: TypeAlias = Callable[[WeightSpec], int | None]

WEIGHT_COLUMNS = ("name", "shape", "dtype", "stored", "bytes")
MINOR_WEIGHT_COLUMNS = ("dtype", "stored")
# Columns of a terminal below which minor columns are left out.
_NARROW = 64


def print_json(value: Any) -> None:
    """Print `value` as JSON: plain ASCII, so that names with half a surrogate pair or control characters are safe."""
    click.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Row], *, minor: Collection[str] = ()) -> None:
    """Print a table; numbers are set to the right, and columns called `minor` are left out where it is narrow.

    Where there is no terminal: tabs, nothing cut or left out, plain numbers.
    """
    # FORCE_COLOR and the like are not heard here: they would make a table of what a program is to read.
    if sys.stdout is None or not sys.stdout.isatty():
        click.echo("\n".join("\t".join(map(_plain, row)) for row in (columns, *rows)))
        return
    console = Console(highlight=False)
    kept = [index for index, column in enumerate(columns) if console.width >= _NARROW or column not in minor]
    columns, rows = [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        number = any(isinstance(row[index], int) for row in rows)
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(cell)) for cell in row))
    console.print(table)


def say(text: str) -> None:
    """Print a sentence on the standard error."""
    click.echo(printable(text), err=True)


def summary(specs: Sequence[WeightSpec]) -> str:
    """Return what weights come to, in words."""
    decoded = size(decoded_bytes(specs))
    if any(spec.dtype == "string" for spec in specs):  # their bytes are not known from model.json
        return f"{counted(len(specs), 'weight')}, at least {decoded} decoded"
    stored = size(sum(spec.stored_bytes for spec in specs))
    return f"{counted(len(specs), 'weight')}, {stored} stored, {decoded} decoded"


def stored_bytes(spec: WeightSpec) -> int | None:
    """Return the stored bytes of a weight as model.json tells them; None for strings."""
    return None if spec.dtype == "string" else spec.stored_bytes


def weight_rows(specs: Iterable[WeightSpec], length: _Length = stored_bytes) -> list[Row]:
    """Return a row for each weight: name, shape, type, stored type, stored bytes."""
    return [(spec.name, shape(spec.shape), spec.dtype, spec.stored_dtype, length(spec)) for spec in specs]


def weights_json(specs: Iterable[WeightSpec], length: _Length = stored_bytes) -> list[Mapping[str, Any]]:
    """Return the same for JSON."""
    return [
        {
            "name": spec.name,
            "shape": list(spec.shape),
            "dtype": spec.dtype,
            "stored_dtype": spec.stored_dtype,
            "bytes": length(spec),
        }
        for spec in specs
    ]


def shape(sizes: Iterable[int | None]) -> str:
    """Return a shape as people write it: 3x3x64, ? for what is free, or "scalar"."""
    return "x".join("?" if size is None else str(size) for size in sizes) or "scalar"


def totals(specs: Sequence[WeightSpec]) -> list[tuple[str, int, int, int]]:
    """Return for each type and stored type the number of weights, values and stored bytes."""
    kinds: dict[str, list[WeightSpec]] = {}
    for spec in specs:
        stored = "" if spec.stored_dtype == spec.dtype else f" stored as {spec.stored_dtype}"
        kinds.setdefault(spec.dtype + stored, []).append(spec)
    return [
        (kind, len(of), sum(spec.size for spec in of), sum(spec.stored_bytes for spec in of))
        for kind, of in sorted(kinds.items())
    ]


def decoded_bytes(specs: Iterable[WeightSpec]) -> int:
    """Return the bytes of the decoded arrays, strings with the least they can have."""
    return sum(spec.size * itemsize(spec.dtype) for spec in specs)


def _cell(cell: str | int | None) -> str:
    if cell is None:
        return "-"
    return f"{cell:,}" if isinstance(cell, int) else printable(cell)


def _plain(cell: str | int | None) -> str:
    return "" if cell is None else printable(str(cell))
