"""How deep a JSON text is nested, known before it is parsed: a parser would spend its stack on a hostile one."""

import numpy as np

_STEP = 4 * 2**20


def depth(text: bytes) -> int:
    """Return the deepest nesting of arrays and objects in the JSON `text` (UTF-8); brackets in strings don't count.

    Text that is no JSON gives some number; the parser will refuse it.
    """
    # Backslashes stand only in strings, where each escapes the next byte: without the two pairs that matter, every
    # quote left opens or closes a string.
    if b"\\" in text:
        text = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    inside, level, deepest = 0, 0, 0
    for start in range(0, len(text), _STEP):
        piece = np.frombuffer(text, np.uint8, min(_STEP, len(text) - start), start)
        quotes = np.cumsum(piece == ord('"'), dtype=np.uint8) + np.uint8(inside)
        lower = piece | 0x20  # "[" and "{" become "{", "]" and "}" become "}"
        marks = lower[((lower == ord("{")) | (lower == ord("}"))) & (quotes & 1 == 0)]
        levels = np.cumsum(np.where(marks == ord("{"), 1, -1)) + level
        inside = int(quotes[-1]) & 1
        if levels.size:
            level, deepest = int(levels[-1]), max(deepest, int(levels.max()))
    return deepest
