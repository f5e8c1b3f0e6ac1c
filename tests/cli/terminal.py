"""A terminal as a stream: what a person sees of what is written to it."""

import io
import re

from rich.cells import cell_len

# A name that would colour, clear, rename and overwrite a terminal, and what is to be seen of it.
HOSTILE = "[red]\x1b[2J\x1b]0;owned\x07\n\r\t\x9b31m\u202e\ud800:smile:"
TAMED = "[red]�[2J�]0;owned�����31m��:smile:"

_TOKENS = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r\n|[\r\n]|[^\x00-\x1f\x7f-\x9f]+|.", re.DOTALL)


class Terminal(io.StringIO):
    """Takes the few commands that we have a use for, and refuses any other: names must not smuggle in one.

    `widest` is the most columns that any line ever took, `frames` counts the drawings over a line drawn before.
    """

    def __init__(self, written: str = "") -> None:
        super().__init__()
        self.lines = [""]
        self.row = 0
        self.widest = 0
        self.frames = 0
        self.cursor_is_shown = True
        self.write(written)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for token in _TOKENS.finditer(text):
            self._take(token)
        return super().write(text)

    @property
    def screen(self) -> list[str]:
        """The lines on the screen, without blanks at their ends."""
        return [line.rstrip() for line in self.lines if line.strip()]

    def _take(self, token: re.Match[str]) -> None:
        match token[2], token[0]:
            case None, "\n" | "\r\n":
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))
            case None, "\r":
                pass  # an erasure or a line feed always follows
            case None, text:
                assert text.isprintable(), f"{text!r} was sent to a terminal"
                self.lines[self.row] += text
                self.widest = max(self.widest, cell_len(self.lines[self.row]))
            case "A", _:
                self.row -= int(token[1] or 1)
                assert self.row >= 0
            case "K", _:
                self.lines[self.row] = ""
                self.frames += 1
            case "h" | "l", "\x1b[?25h" | "\x1b[?25l":
                self.cursor_is_shown = token[2] == "h"
            case "m", _:
                pass
            case _:
                raise AssertionError(f"{token[0]!r} was sent to a terminal")
