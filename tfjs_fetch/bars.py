"""progress_bars(): events shown to a person, as bars on a terminal and as lines elsewhere. Needs the extra `cli`."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from tfjs_fetch.errors import MissingExtraError
from tfjs_fetch.events import Event, Finished, OnEvent, Planned, Retrying, Warned, ignore
from tfjs_fetch.progress import ProgressState, ShardState

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress_bar import ProgressBar
    from rich.text import Text

# Shards get lines of their own only while they are few: more would push the model's bar out of sight.
_MAX_SHARD_LINES = 4
# Seconds between two drawings, and between two lines where there is no terminal.
_DRAW_SECONDS = 0.1
_LINE_SECONDS = 3.0
# Seconds after which the bars are drawn again when there are no events.
_BEAT_SECONDS = 0.5
# Columns left free at the right: Ctrl-C shows ^C there, which would else begin a new line and leave half a drawing.
_MARGIN = 3
# Columns from which on there is room for the sizes, and for the rate.
_WIDE, _MEDIUM = 72, 56


@contextmanager
def progress_bars(stream: TextIO | None = None) -> Iterator[OnEvent]:
    """Give a listener that shows the events it is given on `stream`, the standard error unless told otherwise.

    On a terminal there is one bar for each model, and a line for each active shard while those are few; elsewhere a
    line every few seconds. NO_COLOR is honoured. What `stream` raises comes out of the listener.

    Raises MissingExtraError if rich is not installed.
    """
    try:
        from rich.live import Live
    except ImportError:
        raise MissingExtraError("showing progress bars", "cli") from None
    stream = stream or sys.stderr
    if stream is None:  # closed by whoever started this process; rich would fall back on the standard output
        yield ignore
        return
    console = _console(stream)
    # The stream itself is asked, too: FORCE_COLOR makes rich take a log file for a terminal.
    if not stream.isatty() or not console.is_terminal or console.is_dumb_terminal:
        yield _Lines(console).show
        return
    live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    bars, lock = _Bars(console), threading.Lock()

    def show(event: Event) -> None:
        with lock:
            live.start()  # at the first event only: an empty drawing would leave an empty line
            if bars.take(event, time.monotonic()):
                live.update(bars.drawing(), refresh=True)

    def show_time_passing() -> None:
        with lock:
            if bars.wait(time.monotonic()):
                live.update(bars.drawing(), refresh=True)

    try:
        with _heartbeat(show_time_passing):
            yield show
    except BaseException:
        with suppress(OSError, ValueError):  # a stream that just failed does so again: that would hide the first error
            live.stop()
        raise
    live.stop()


def describe(event: Event) -> str | None:
    """Return a sentence for an event that a person should be told of, None for the others."""
    match event:
        case Retrying():
            return f"{event.error}; attempt {event.attempt} in {event.delay:.1f} s"
        case Warned():
            return f"Warning: {event.message}"
        case _:  # Stalled, too: the error or the Retrying that follows says the same
            return None


def printable(text: str) -> str:
    """Return `text` with all that is no printable character replaced: names come from outside, and terminals obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def counted(number: int, noun: str) -> str:
    """Return a number of things in words: 1 weight, 1,234 weights."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(count: int) -> str:
    """Return a number of bytes in words, with decimal prefixes: 12.3 MB."""
    if count < 1000:
        return counted(count, "byte")
    value, unit = count / 1000, "kB"
    for larger in ("MB", "GB"):
        if value >= 999.5:
            value, unit = value / 1000, larger
    return f"{value:,.0f} {unit}" if value >= 99.95 else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Return seconds as 1:02:03 or 2:03; a dash if they are unknown or beyond all use."""
    if seconds is None or seconds > 100 * 3600:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    class Plain(Console):
        """Lets a BrokenPipeError out. rich's own way is to redirect this process's standard output and to exit."""

        def on_broken_pipe(self) -> None:
            raise  # this is called while the error is being handled

    return Plain(file=stream)


@contextmanager
def _heartbeat(beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` now and then, in a thread: where nothing arrives there are no events, and a bar must not stand still
    at the rate it had before.
    """
    done = threading.Event()

    def run() -> None:
        while not done.wait(_BEAT_SECONDS):
            try:
                beat()
            except (OSError, ValueError):  # the stream is gone; the next event finds out and says so
                return

    thread = threading.Thread(target=run, name="tfjs_fetch.bars", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the drawing: `numbers` are right of the bar."""

    name: "Text"
    bar: "ProgressBar"
    numbers: Sequence["Text"] = ()


class _Bars:
    """The state of all models, and how it looks."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._states: dict[str, ProgressState] = {}
        self._latest: dict[str, Event] = {}
        self._drawn = 0.0
        self._widest_name = 0

    def take(self, event: Event, now: float) -> bool:
        """Take `event` in; return whether it is time to draw."""
        self._states.setdefault(event.source, ProgressState()).fold(event, now)
        self._latest[event.source] = event
        if (message := describe(event)) is not None:
            self._console.print(_text(message))
        return self._is_due(now, at_once=isinstance(event, (Planned, Finished)))

    def wait(self, now: float) -> bool:
        """Take in that it is `now` and nothing else happened; return whether it is time to draw."""
        waiting = [event for source, event in self._latest.items() if not self._states[source].complete]
        for event in waiting:
            self._states[event.source].fold(event, now)  # its counts are absolute: only time passes
        return bool(waiting) and self._is_due(now)

    def _is_due(self, now: float, *, at_once: bool = False) -> bool:
        due = at_once or now - self._drawn >= _DRAW_SECONDS
        if due:
            self._drawn = now
        return due

    def drawing(self) -> "RenderableType":
        """Return the bars for the present width of the terminal."""
        from rich.table import Table

        width = self._console.width
        room = max(8, width // 4)
        rows = [row for state in self._states.values() for row in self._rows(state, width, room)]
        # Columns never become narrower, else the bars would jump whenever a number has another digit.
        self._widest_name = max(self._widest_name, *(row.name.cell_len for row in rows))
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.width = max(width - _MARGIN, 1)
        grid.add_column(no_wrap=True, overflow="ellipsis", min_width=min(self._widest_name, room), max_width=room)
        grid.add_column(ratio=1, min_width=4)
        for column in self._columns(width):
            grid.add_column(no_wrap=True, justify="right", min_width=column)
        for row in rows:
            grid.add_row(row.name, row.bar, *row.numbers)
        return grid

    def _columns(self, width: int) -> Iterator[int]:
        """Yield the least widths of the numbers that there is room for: percent, sizes, rate, time left."""
        yield len("100%")
        if width >= _WIDE:
            yield max(len(_sizes(state.total or 0, state.total)) for state in self._states.values())
        if width >= _MEDIUM:
            yield len("99.9 MB/s")
        yield len("done")

    def _rows(self, state: ProgressState, width: int, room: int) -> Iterator[_Row]:
        yield _Row(_text(_name(state.source), "bold"), _model_bar(state), list(_numbers(state, width)))
        if state.shards > 1 and len(state.active) <= _MAX_SHARD_LINES:
            for _, shard in sorted(state.active.items()):
                yield _Row(_text(f"  {_shard_name(shard.url, room - 2)}", "dim"), _shard_bar(shard))


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
        self._console.print(_text(line), soft_wrap=True)


def _line(state: ProgressState, event: Event) -> str:
    name = _name(state.source)
    match event:
        case Planned():
            total = "an unknown size" if event.total_bytes is None else size(event.total_bytes)
            return f"{name}: {counted(event.weights, 'weight')} in {counted(event.shards, 'file')}, {total}"
        case Finished():
            received = f", {size(event.received_bytes)} received" if event.received_bytes else ""
            return f"{name}: done{received} in {event.seconds:.1f} s"
        case _:
            left = "" if state.time_left is None else f", {duration(state.time_left)} left"
            percent = f"{_percent(state)} ".lstrip()
            return f"{name}: {percent}{_sizes(state.done, state.total)}, {size(round(state.rate))}/s{left}"


def _numbers(state: ProgressState, width: int) -> "Iterator[Text]":
    """Yield what the columns of `_Bars` are for."""
    yield _text(_percent(state))
    if width >= _WIDE:
        yield _text(_sizes(state.done, state.total))
    if width >= _MEDIUM:
        yield _text(f"{size(round(state.rate))}/s", "cyan")
    yield _text("done" if state.complete else duration(state.time_left), "green")


def _model_bar(state: ProgressState) -> "ProgressBar":
    from rich.progress_bar import ProgressBar

    # A total of 1 stands for one that is unknown, and for none: a model without bytes is done when it is complete.
    completed = state.done if state.total else int(state.complete)
    return ProgressBar(total=state.total or 1, completed=completed, pulse=state.total is None and not state.complete)


def _shard_bar(shard: ShardState) -> "ProgressBar":
    from rich.progress_bar import ProgressBar

    total = shard.received if shard.size is None else shard.size
    return ProgressBar(total=max(total, 1), completed=shard.received, style="dim", complete_style="dim cyan")


def _percent(state: ProgressState) -> str:
    if state.complete:
        return "100%"
    # Rounded down: 100 % is said when everything is there, decoded.
    return "" if not state.total else f"{min(99, state.done * 100 // state.total)}%"


def _sizes(done: int, total: int | None) -> str:
    return size(done) if total is None else f"{size(done)} of {size(total)}"


def _name(source: str) -> str:
    """Return the telling end of a URL or path: the directory of a model.json, else the file."""
    place = source.partition("://")[2] or source
    parts = [part for part in place.split("?", 1)[0].replace("\\", "/").split("/") if part]
    if len(parts) > 1 and parts[-1] in ("model.json", "manifest.json"):
        return parts[-2]
    return parts[-1] if parts else source


def _shard_name(url: str, room: int) -> str:
    """Return the end of a shard's name, which tells it from the others."""
    name = _name(url).removesuffix(".bin")
    return name if len(name) <= room else f"…{name[1 - room :]}"


def _text(content: str, style: str = "") -> "Text":
    from rich.text import Text

    return Text(printable(content), style=style)
