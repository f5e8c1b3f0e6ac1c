import json
import time
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfjs_fetch.format.nesting import depth

Json: TypeAlias = bool | float | str | list["Json"] | dict[str, "Json"] | None

_MIB = 2**20
_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.text('[]{}",\\a'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('[]{}",\\a'), inner),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", 0),
        (b"1", 0),
        (b"[]", 1),
        (b'{"a": [{}, []]}', 3),
        (b"[[], [[]], []]", 3),
        (b'["[[[", "{{{"]', 1),
        (b'["\\"[[["]', 1),  # "\"[[["
        (b'["\\\\", [[]]]', 3),  # the first string is one backslash
        (b'["\\\\\\"[[[", []]', 2),  # the first string is a backslash, a quote, three brackets
        (b'["\\u005b", []]', 2),
        ('["é[", []]'.encode(), 2),
        (b"]]][", 0),  # no JSON: some number
    ],
)
def test_brackets_outside_of_strings_count(text: bytes, expected: int) -> None:
    assert depth(text) == expected


@pytest.mark.parametrize("end", range(-3, 4))
def test_a_string_may_lie_across_the_pieces_in_which_a_text_is_looked_through(end: int) -> None:
    filler = "x" * (4 * _MIB - 3 + end)

    assert depth(f'["{filler}[[[[\\"[[[["]'.encode()) == 1
    assert depth(f'["{filler}", [[[]]]]'.encode()) == 4


def test_levels_are_carried_from_piece_to_piece() -> None:
    wide = b"[" + b" " * 4 * _MIB

    assert depth(wide * 3 + b"]" * 3) == 3


def test_ten_megabytes_of_open_brackets_are_counted_at_once() -> None:
    began = time.monotonic()

    assert depth(b"[" * 10_000_000) == 10_000_000
    assert depth(b'{"a":' * 2_000_000) == 2_000_000
    assert time.monotonic() - began < 10


@given(_json, st.booleans(), st.sampled_from([None, 1]))
def test_the_depth_of_json_is_that_of_its_values(value: Json, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    assert depth(text.encode("utf-8", "replace")) == _depth_of_value(value)


@given(st.lists(st.sampled_from(list(b'[]{}",\\a')), max_size=60).map(bytes))
def test_any_bytes_have_the_depth_that_a_slow_walk_finds(text: bytes) -> None:
    assert depth(text) == _depth_by_walking(text)


def _depth_of_value(value: Json) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth_of_value, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth_of_value, value), default=0)
    return 0


def _depth_by_walking(text: bytes) -> int:
    position = level = deepest = 0
    in_string = False
    while position < len(text):
        here = text[position : position + 1]
        if here == b"\\" and text[position + 1 : position + 2] in (b"\\", b'"'):
            position += 1
        elif here == b'"':
            in_string = not in_string
        elif not in_string:
            level += (here in b"[{") - (here in b"]}")
        deepest = max(deepest, level)
        position += 1
    return deepest
