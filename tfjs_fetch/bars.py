"""progress_bars(): events shown to a person, as bars on a terminal and as lines elsewhere. Needs the extra `cli`."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from tfjs_fetch.errors import MissingExtraError
from tfjs_fetch.events import Event, Finished, OnEvent, Planned, Retrying, Stalled, Warned
from tfjs_fetch.progress import ProgressState, ShardState

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

# Shards get lines of their own only while they are few: more would push the model's bar out of sight.
_MAX_SHARD_LINES = 4
# Seconds between two drawings, and between two lines where there is no terminal.
_DRAW_SECONDS = 0.1
_LINE_SECONDS = 3.0
# Columns from which on there is room for the sizes, and for the rate.
_WIDE, _MEDIUM = 72, 56


@contextmanager
def progress_bars(stream: TextIO | None = None) -> Iterator[OnEvent]:
    """Give a listener that shows the events it is given on `stream`, the standard error unless told otherwise.

    On a terminal there is one bar for each model, and a line for each active shard while those are few; elsewhere a
    line every few seconds. NO_COLOR is honoured.

    Raises MissingExtraError if rich is not installed.
    """
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        raise MissingExtraError("showing progress bars", "cli") from None
    console = Console(file=stream or sys.stderr, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines(console).show
        return
    live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    bars = _Bars(console)

    def show(event: Event) -> None:
        live.start()  # at the first event only: an empty drawing would leave an empty line
        if bars.take(event, time.monotonic()):
            live.update(bars.drawing(), refresh=True)

    try:
        yield show
    finally:
        live.stop()


def describe(event: Event) -> str | None:
    """Return a sentence for an event that a person should be told of, None for the others."""
    match event:
        case Retrying():
            return f"{event.error}; attempt {event.attempt} in {event.delay:.1f} s"
        case Stalled():
            return f"{event.url} stalled: next to nothing came for {event.seconds:g} s"
        case Warned():
            return f"warning: {event.message}"
        case _:
            return None


def size(count: int) -> str:
    """Return a number of bytes in words, with decimal prefixes: 12.3 MB."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            return f"{value:,.0f} {unit}" if unit == "bytes" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def duration(seconds: float | None) -> str:
    """Return seconds as 1:02:03 or 2:03; a dash if they are unknown or beyond all use."""
    if seconds is None or seconds > 100 * 3600:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Bars:
    """The state of all models, and how it looks."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._states: dict[str, ProgressState] = {}
        self._drawn = 0.0

    def take(self, event: Event, now: float) -> bool:
        """Take `event` in; return whether it is time to draw."""
        self._states.setdefault(event.source, ProgressState()).fold(event, now)
        if (message := describe(event)) is not None:
            self._console.print(message, markup=False, soft_wrap=True)
        due = isinstance(event, (Planned, Finished)) or now - self._drawn >= _DRAW_SECONDS
        if due:
            self._drawn = now
        return due

    def drawing(self) -> "RenderableType":
        """Return the bars for the present width of the terminal."""
        from rich.table import Table

        width = self._console.width
        grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", max_width=max(8, width // 4))
        grid.add_column(ratio=1, min_width=4)
        for _ in range(1 + (width >= _WIDE) + (width >= _MEDIUM) + 1):
            grid.add_column(no_wrap=True, justify="right")
        for state in self._states.values():
            self._add_model(grid, state, width)
        return grid

    def _add_model(self, grid: "Table", state: ProgressState, width: int) -> None:
        from rich.progress_bar import ProgressBar

        bar = ProgressBar(total=max(state.total or 0, 1), completed=_completed(state), pulse=state.total is None)
        cells: list[RenderableType] = [_text(_name(state.source), "bold"), bar, _text(_percent(state))]
        if width >= _WIDE:
            cells.append(_text(_sizes(state)))
        if width >= _MEDIUM:
            cells.append(_text(f"{size(round(state.rate))}/s", "cyan"))
        grid.add_row(*cells, _text("done" if state.complete else duration(state.time_left), "green"))
        if state.shards > 1 and len(state.active) <= _MAX_SHARD_LINES:
            for _, shard in sorted(state.active.items()):
                self._add_shard(grid, shard, len(cells) - 2)

    def _add_shard(self, grid: "Table", shard: ShardState, blanks: int) -> None:
        from rich.progress_bar import ProgressBar

        total = shard.size if shard.size is not None else max(shard.received, 1)
        bar = ProgressBar(total=max(total, 1), completed=shard.received, style="dim", complete_style="dim cyan")
        name = _shard_name(shard.url, max(8, self._console.width // 4) - 2)
        grid.add_row(_text(f"  {name}", "dim"), bar, *[_text("")] * blanks, _text(""))


class _Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._states: dict[str, ProgressState] = {}
        self._told: dict[str, float] = {}

    def show(self, event: Event) -> None:
        """Print a line if it is time."""
        now = time.monotonic()
        state = self._states.setdefault(event.source, ProgressState()).fold(event, now)
        if (message := describe(event)) is not None:
            self._print(message)
        if isinstance(event, (Planned, Finished)) or now - self._told.get(event.source, now) >= _LINE_SECONDS:
            self._told[event.source] = now
            self._print(_line(state, event))
        self._told.setdefault(event.source, now)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


def _line(state: ProgressState, event: Event) -> str:
    name = _name(state.source)
    match event:
        case Planned():
            total = "an unknown size" if event.total_bytes is None else size(event.total_bytes)
            return f"{name}: {event.weights:,} weights in {event.shards:,} files, {total}"
        case Finished():
            return f"{name}: done, {size(event.received_bytes)} received in {event.seconds:.1f} s"
        case _:
            rate, left = f"{size(round(state.rate))}/s", duration(state.time_left)
            return f"{name}: {_percent(state)} {_sizes(state)}, {rate}, {left} left"


def _completed(state: ProgressState) -> int:
    """Return what to draw: a model without bytes is done when it is complete."""
    return state.done if state.total else int(state.complete)


def _percent(state: ProgressState) -> str:
    if state.complete:
        return "100%"
    # Rounded down: 100 % is said when everything is there, decoded.
    return "" if not state.total else f"{min(99, state.done * 100 // state.total)}%"


def _sizes(state: ProgressState) -> str:
    return size(state.done) if state.total is None else f"{size(state.done)} of {size(state.total)}"


def _name(source: str) -> str:
    """Return the telling end of a URL or path: the directory of a model.json, else the file."""
    parts = [part for part in source.split("?", 1)[0].replace("\\", "/").split("/") if part]
    if len(parts) > 2 and parts[-1] in ("model.json", "manifest.json"):
        return parts[-2]
    return parts[-1] if parts else source


def _shard_name(url: str, room: int) -> str:
    """Return the end of a shard's name, which tells it from the others."""
    name = _name(url).removesuffix(".bin")
    return name if len(name) <= room else f"…{name[1 - room :]}"


def _text(content: str, style: str = "") -> "Text":
    from rich.text import Text

    return Text(content, style=style)
