import io
import re
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tests.cli.terminal import HOSTILE, TAMED, Terminal
from tfjs_fetch.bars import counted, describe, duration, printable, progress_bars, size
from tfjs_fetch.errors import MissingExtraError
from tfjs_fetch.events import Event, Finished, Planned, Retrying, ShardFinished, ShardProgress, Stalled, Warned

SOURCE = "https://host/classifier/model.json"
WIDTHS = (30, 40, 56, 72, 80, 120, 200)

OpenTerminal = Callable[[int], Terminal]


class Clock:
    """Monotonic seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> OpenTerminal:
    def opened(width: int) -> Terminal:
        monkeypatch.setenv("COLUMNS", str(width))
        return Terminal()

    return opened


def planned(shards: int = 4, total: int | None = 10_000, source: str = SOURCE) -> Planned:
    return Planned(source, shards, 12, total, 0)


def progress(index: int, received: int, size: int | None = 2500, name: str = "group1-shard{}of4.bin") -> ShardProgress:
    return ShardProgress(SOURCE, f"https://host/classifier/{name.format(index + 1)}", index, received, size)


def finished(index: int, size: int = 2500, source: str = SOURCE) -> ShardFinished:
    return ShardFinished(source, f"https://host/{index}", index, size, "network")


def shown(terminal: Terminal, clock: Clock, *events: Event) -> list[str]:
    """Return what is on the screen after `events`, which came a second apart."""
    with progress_bars(terminal) as show:
        for event in events:
            show(event)
            clock.now += 1.0
        return list(terminal.screen)


def words(line: str) -> str:
    """Return a line without its bar."""
    return " ".join(re.sub("[━╸╺]+", "|", line).split())


@pytest.mark.parametrize("width", [8, 15, 20, *WIDTHS])
def test_no_line_is_wider_than_the_terminal(width: int, open_terminal: OpenTerminal, clock: Clock) -> None:
    terminal = open_terminal(width)
    name = "a-very-long-name-of-a-shard-" * 5 + "{}"

    with progress_bars(terminal) as show:
        for source in (SOURCE, f"https://host/{'long' * 50}/model.json", f"https://host/{'模型' * 50}/model.json"):
            show(planned(3, 999_900_000_000, source))
            show(ShardProgress(source, f"https://host/{name.format(1)}", 0, 499_900_000_000, 999_900_000_000))
            show(ShardProgress(source, f"https://host/{'模' * 99}", 1, 5, None))
            clock.now += 400_000.0
            show(Warned(source, "a warning of many words " * 9))
            show(Retrying(source, "https://host/x", 2, 0.5, f"https://host/{'x' * 300} answered 503"))

    assert terminal.widest <= width


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (200, "classifier | 50% 5.0 kB of 10.0 kB 5.0 kB/s 0:01"),
        (80, "classifier | 50% 5.0 kB of 10.0 kB 5.0 kB/s 0:01"),
        (72, "classifier | 50% 5.0 kB of 10.0 kB 5.0 kB/s 0:01"),
        (71, "classifier | 50% 5.0 kB/s 0:01"),
        (56, "classifier | 50% 5.0 kB/s 0:01"),
        (55, "classifier | 50% 0:01"),
        (40, "classifier | 50% 0:01"),
        (30, "classif… | 50% 0:01"),
    ],
)
def test_a_line_tells_as_much_as_there_is_room_for(
    width: int, line: str, open_terminal: OpenTerminal, clock: Clock
) -> None:
    screen = shown(open_terminal(width), clock, planned(1), progress(0, 5000, 10_000))

    assert [words(one) for one in screen] == [line]


def test_the_last_columns_stay_free_for_what_ctrl_c_echoes(clock: Clock) -> None:
    terminal = Terminal()

    shown(terminal, clock, planned(), progress(0, 2000), progress(1, 2000))

    assert terminal.widest <= 80 - len("^C")


def test_active_shards_have_a_line_each_while_they_are_few(clock: Clock) -> None:
    few = shown(Terminal(), clock, planned(), progress(0, 100), progress(1, 2400))
    many = shown(Terminal(), clock, planned(8), *[progress(index, 100) for index in range(5)])
    only = shown(Terminal(), clock, planned(1), progress(0, 5000, 10_000))

    assert [words(line) for line in few[1:]] == ["group1-shard1of4 |", "group1-shard2of4 |"]
    assert (len(many), len(only)) == (1, 1)


def test_long_names_of_shards_keep_the_end_that_differs(clock: Clock) -> None:
    name = "tiny_face_detector_model-shard{}"

    screen = shown(Terminal(), clock, planned(2), progress(0, 1, name=name), progress(1, 1, name=name))

    assert [words(line) for line in screen[1:]] == ["…ctor_model-shard1 |", "…ctor_model-shard2 |"]


def test_finished_shards_leave_the_bar_of_the_model_alone(clock: Clock) -> None:
    terminal = Terminal()

    screen = shown(terminal, clock, planned(2, 5000), progress(0, 100), progress(1, 9), finished(0), finished(1))

    assert [words(line) for line in screen] == ["classifier | 99% 5.0 kB of 5.0 kB 1.2 kB/s 0:00"]


@pytest.mark.parametrize(
    ("total", "before", "after"),
    [
        (5000, "classifier | 99% 5.0 kB of 5.0 kB 2.5 kB/s 0:00", "classifier | 100% 5.0 kB of 5.0 kB 1.7 kB/s done"),
        (None, "classifier | 5.0 kB 2.5 kB/s -:--", "classifier | 100% 5.0 kB 1.7 kB/s done"),
        (0, "classifier | 0 bytes of 0 bytes 0 bytes/s -:--", "classifier | 100% 0 bytes of 0 bytes 0 bytes/s done"),
    ],
)
def test_all_is_said_to_be_there_only_at_the_end(total: int | None, before: str, after: str, clock: Clock) -> None:
    size = 0 if total == 0 else 2500
    events = (planned(2, total), finished(0, size), finished(1, size))

    at_the_last_byte = shown(Terminal(), clock, *events)
    at_the_end = shown(Terminal(), clock, *events, Finished(SOURCE, 5000, 3.0))

    assert words(at_the_last_byte[0]) == before
    assert words(at_the_end[0]) == after


def test_the_bar_is_as_long_as_what_is_done(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setenv("NO_COLOR", "1")  # then the rest of the bar is blank

    lengths = [
        shown(Terminal(), clock, planned(1), progress(0, done, 10_000))[0].count("━")
        for done in (0, 2500, 5000, 10_000)
    ]

    assert lengths[0] == 0
    assert [length // max(lengths[1], 1) for length in lengths[1:]] == [1, 2, 4]


def test_several_models_have_a_bar_each(clock: Clock) -> None:
    other = "https://host/detector/model.json"

    screen = shown(
        Terminal(),
        clock,
        planned(1),
        planned(1, 5000, other),
        progress(0, 5000, 10_000),
        finished(0, 5000, other),
        Finished(other, 5000, 1.0),
    )

    assert [words(line).split(" of")[0] for line in screen] == ["classifier | 50% 5.0 kB", "detector | 100% 5.0 kB"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://host/a/classifier/model.json", "classifier"),
        ("https://host/a/classifier/model.json?…", "classifier"),
        ("https://host/model.json", "host"),
        ("https://host/a/weights_manifest.json", "weights_manifest.json"),
        ("https://host/a/classifier/", "classifier"),
        ("https://host", "host"),
        ("classifier/model.json", "classifier"),
        ("model.json", "model.json"),
        ("/models/classifier.zip", "classifier.zip"),
        ("C:\\models\\classifier\\model.json", "classifier"),
        ("/", "/"),
    ],
)
def test_a_model_is_called_by_the_telling_end_of_its_address(
    source: str, name: str, open_terminal: OpenTerminal, clock: Clock
) -> None:
    screen = shown(open_terminal(120), clock, planned(1, 10_000, source))

    assert words(screen[0]).split(" | ")[0] == name


def test_messages_stay_above_the_bars(clock: Clock) -> None:
    terminal = Terminal()

    shown(terminal, clock, planned(1), Warned(SOURCE, "surplus bytes"), progress(0, 5000, 10_000), finished(0, 10_000))

    assert [words(line).split(" of ")[0] for line in terminal.screen] == [
        "Warning: surplus bytes",
        "classifier | 99% 10.0 kB",
    ]


def test_the_terminal_is_in_order_after_a_failure(clock: Clock) -> None:
    terminal = Terminal()

    def fail() -> None:
        with progress_bars(terminal) as show:
            show(planned())
            show(progress(0, 1000))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    terminal.write("Error: …\n")

    assert terminal.cursor_is_shown
    assert [words(line).split(" of")[0] for line in terminal.screen] == ["classifier | 0% 0 bytes", "Error: …"]


class Watched(Terminal):
    """A terminal at which somebody waits for a line."""

    def __init__(self, line: str) -> None:
        self.line, self.seen = line, threading.Event()
        super().__init__()

    def write(self, text: str) -> int:
        count = super().write(text)
        if self.line in map(words, self.screen):
            self.seen.set()
        return count


def test_the_last_bytes_before_a_silence_are_shown(clock: Clock) -> None:
    terminal = Watched("classifier | 50% 5.0 kB of 10.0 kB 50.0 kB/s 0:00")

    with progress_bars(terminal) as show:
        show(planned(1))
        show(progress(0, 5000, 10_000))  # too soon after the first drawing to be drawn at once
        clock.now += 0.1
        assert terminal.seen.wait(20)


def test_the_rate_falls_while_nothing_comes(clock: Clock) -> None:
    terminal = Watched("classifier | 50% 5.0 kB of 10.0 kB 0 bytes/s -:--")

    with progress_bars(terminal) as show:
        show(planned(1))
        show(progress(0, 5000, 10_000))
        while not terminal.seen.wait(0.1):
            clock.now += 1.0
            assert clock.now < 1200.0

    assert len(terminal.screen) == 1


class Failing(Terminal):
    """A terminal that is gone once it has an `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.failed = error, threading.Event()
        super().__init__()

    def write(self, text: str) -> int:
        if text and self.error:
            self.failed.set()
            raise self.error
        return super().write(text)


def test_a_stream_that_fails_in_a_silence_fails_with_the_next_event(clock: Clock) -> None:
    terminal = Failing()

    def fail() -> None:
        with progress_bars(terminal) as show:
            show(planned(1))
            terminal.error = OSError(28, "No space left")
            clock.now += 1.0
            assert terminal.failed.wait(20)
            show(progress(0, 5000, 10_000))
            show(Finished(SOURCE, 10_000, 1.0))

    with pytest.raises(OSError, match="No space left") as caught:
        fail()
    assert caught.value is terminal.error


def test_without_an_event_nothing_is_drawn() -> None:
    terminal = Terminal()

    with progress_bars(terminal):
        pass

    assert terminal.getvalue() == ""


def test_a_hostile_name_does_not_control_the_terminal(clock: Clock) -> None:
    terminal = Terminal()  # it refuses commands
    source = f"https://host/{HOSTILE}/model.json"

    screen = shown(
        terminal,
        clock,
        planned(2, 10_000, source),
        ShardProgress(source, f"https://host/{HOSTILE}", 0, 5, None),
        Warned(source, HOSTILE),
        Retrying(source, "https://host", 2, 0.5, HOSTILE),
    )

    assert screen[:2] == [f"Warning: {TAMED}", f"{TAMED}; attempt 2 in 0.5 s"]
    assert screen[2].startswith("[red]�[2J�]0;owned�")
    assert len(screen) == 4


def test_a_hostile_name_does_not_break_a_log(clock: Clock) -> None:
    stream = io.StringIO()

    with progress_bars(stream) as show:
        show(planned(2, 10_000, f"https://host/{HOSTILE}/model.json"))
        show(Warned(SOURCE, HOSTILE))

    assert stream.getvalue().splitlines() == [
        f"{TAMED}: 12 weights in 2 files, 10.0 kB",
        f"Warning: {TAMED}",
    ]


def test_where_there_is_no_terminal_a_line_comes_every_few_seconds(clock: Clock) -> None:
    stream = io.StringIO()

    with progress_bars(stream) as show:
        show(planned(1))
        for received in range(0, 8000, 1000):
            show(progress(0, received, 10_000))
            clock.now += 1.0
        show(Retrying(SOURCE, "https://host/w", 2, 0.51, "https://host/w ended after 8,000 of 10,000 bytes"))
        show(finished(0, 10_000))
        show(Finished(SOURCE, 10_000, 8.04))

    assert stream.getvalue().splitlines() == [
        "classifier: 12 weights in 1 file, 10.0 kB",
        "classifier: 30% 3.0 kB of 10.0 kB, 1.0 kB/s, 0:07 left",
        "classifier: 60% 6.0 kB of 10.0 kB, 1.0 kB/s, 0:04 left",
        "https://host/w ended after 8,000 of 10,000 bytes; attempt 2 in 0.5 s",
        "classifier: done, 10.0 kB received in 8.0 s",
    ]


def test_lines_do_without_what_is_unknown(clock: Clock) -> None:
    stream = io.StringIO()

    with progress_bars(stream) as show:
        show(Planned(SOURCE, 2, 1, None, 0))
        clock.now += 4.0
        show(progress(0, 4000, None))
        show(Finished(SOURCE, 0, 4.0))

    assert stream.getvalue().splitlines() == [
        "classifier: 1 weight in 2 files, an unknown size",
        "classifier: 4.0 kB, 1.0 kB/s",
        "classifier: done in 4.0 s",
    ]


@pytest.mark.parametrize(("variable", "value"), [("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1"), ("COLUMNS", "20")])
def test_a_log_has_plain_lines_whatever_the_environment_says(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setenv(variable, value)
    stream = io.StringIO()

    with progress_bars(stream) as show:
        show(planned())
        clock.now += 4.0
        show(progress(0, 1000))

    assert stream.getvalue().splitlines() == [
        "classifier: 12 weights in 4 files, 10.0 kB",
        "classifier: 10% 1.0 kB of 10.0 kB, 250 bytes/s, 0:36 left",
    ]


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_lines(name: str, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setenv("TERM", name)
    terminal = Terminal()

    with progress_bars(terminal) as show:
        show(planned())
        show(Finished(SOURCE, 10_000, 1.0))

    assert terminal.getvalue() == (
        "classifier: 12 weights in 4 files, 10.0 kB\nclassifier: done, 10.0 kB received in 1.0 s\n"
    )


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_honoured(
    environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()

    shown(terminal, clock, planned(), progress(0, 1000))

    styles = {int(code) for codes in re.findall(r"\x1b\[([0-9;]+)m", terminal.getvalue()) for code in codes.split(";")}
    assert any(code >= 30 for code in styles) is coloured


def test_ten_thousand_events_cost_few_drawings(clock: Clock) -> None:
    terminal = Terminal()

    with progress_bars(terminal) as show:
        show(planned(1))
        before = time.perf_counter()
        for received in range(10_000):
            clock.now += 0.001
            show(progress(0, received, 10_000))
        seconds = time.perf_counter() - before

    assert terminal.frames <= 10 / 0.1 + 2
    assert seconds < 5.0  # 0.1 s on an ordinary machine


class FailingLog(Failing):
    """A log file that is gone."""

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize("kind", [Failing, FailingLog])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), BrokenPipeError(32, "Broken pipe"), ValueError("shut")]
)
def test_what_the_stream_raises_comes_out_of_the_listener(error: Exception, kind: type[Failing]) -> None:
    with pytest.raises(type(error)) as caught, progress_bars(kind(error)) as show:
        show(planned())

    assert caught.value is error


def test_without_a_standard_error_nothing_is_shown_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)

    with progress_bars() as show:
        show(planned())

    assert capsys.readouterr().out == ""


def test_the_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as show:
        show(planned())

    assert capsys.readouterr() == ("", "classifier: 12 weights in 4 files, 10.0 kB\n")


def test_without_rich_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.live", None)

    with pytest.raises(MissingExtraError) as caught, progress_bars():
        pass

    assert caught.value.extra == "cli"


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (
            Retrying(SOURCE, "https://host/w", 3, 1.25, "https://host/w broke"),
            "https://host/w broke; attempt 3 in 1.2 s",
        ),
        (Warned(SOURCE, "odd"), "Warning: odd"),
        # Told by the error, or by the Retrying, that comes next.
        (Stalled(SOURCE, "https://host/w", 0, 30.0), None),
        (planned(), None),
    ],
)
def test_a_person_is_told_of_what_went_wrong(event: Event, sentence: str | None) -> None:
    assert describe(event) == sentence


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1049, "1.0 kB"),
        (1051, "1.1 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.0 GB"),
        (8 * 2**30, "8.6 GB"),
        (1_234_567_890_123, "1,235 GB"),
    ],
)
def test_sizes_have_two_or_three_digits_that_count(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-:--"),
        (0.0, "0:00"),
        (0.4, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (125.0, "2:05"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (3723.0, "1:02:03"),
        (360_000.0, "100:00:00"),
        (360_001.0, "-:--"),
        (float("inf"), "-:--"),
    ],
)
def test_durations_are_minutes_and_seconds(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 files"), (1, "1 file"), (1234, "1,234 files")])
def test_things_are_counted_in_words(number: int, text: str) -> None:
    assert counted(number, "file") == text


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("conv1/kernel:0 [red] ü 模型 😀", "conv1/kernel:0 [red] ü 模型 😀"),
        ("a\tb\nc\rd\x00", "a�b�c�d�"),
        ("\x1b[31m", "�[31m"),
        ("\x7f\x9b\u2028\u202e\ufeff\ud800", "������"),
    ],
)
def test_what_is_not_printable_is_replaced(text: str, shown_as: str) -> None:
    assert printable(text) == shown_as
