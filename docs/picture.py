"""Draw docs/bars.svg from a real run of `tfjs-fetch demo` in a terminal of 80 columns: python docs/picture.py"""

import fcntl
import io
import os
import pty
import select
import struct
import sys
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

_COLUMNS = 80
# When the picture of the bars is taken: four of the six shards are still under way.
_SECONDS = 2.6
# Rows of the table that are shown.
_ROWS = 9


def main() -> None:
    """Run, take a picture on the way and one at the end, and write them below each other."""
    under_way, end = _run([sys.executable, "-m", "tfjs_fetch", "demo", "--seconds", "4"])
    console = Console(record=True, width=_COLUMNS, file=io.StringIO())
    console.print(Text("$ tfjs-fetch demo", style="bold"))
    console.print(Text.from_ansi(_last_frame(under_way)))
    console.print(Text("\n… and when it is done\n", style="dim"))
    lines = _last_frame(end).splitlines()
    console.print(Text.from_ansi("\n".join(lines[: _ROWS + 2])))
    svg = console.export_svg(title="tfjs-fetch demo", unique_id="bars")
    # The pictured fonts would be fetched from elsewhere: the reader's own will do.
    kept = svg[: svg.index("@font-face")] + svg[svg.index(".bars-matrix") :]
    Path(__file__).with_name("bars.svg").write_text(kept, encoding="utf-8")


def _run(command: list[str]) -> tuple[str, str]:
    """Run `command` on a terminal; return what it had written after a while, and at the end."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(_COLUMNS))
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, _COLUMNS, 0, 0))
    written, before, first = b"", b"", 0.0
    while chunk := _read(terminal):
        written += chunk
        first = first or time.monotonic()
        if not before and time.monotonic() - first > _SECONDS:
            before = written
    os.waitpid(child, 0)
    return before.decode(), written.decode()


def _read(terminal: int) -> bytes:
    try:
        select.select([terminal], [], [], 30)
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


def _last_frame(written: str) -> str:
    """Return what stands on the screen since the bars were last erased to be drawn again."""
    return written.rsplit("\x1b[2K", 1)[-1].replace("\r", "").replace("\x1b[?25l", "").replace("\x1b[?25h", "")


if __name__ == "__main__":
    main()
