"""Weights out of files at hand: where they lie, when they are copied, and what is wrong with them."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.format.groups import EncodedGroup, encoded_groups, spec
from tests.format.splits import assert_same
from tfjs_fetch.config import Policy
from tfjs_fetch.content import HEAD_BYTES, unmistakable
from tfjs_fetch.errors import ExtraBytesError, MissingBytesError, WrongContentError
from tfjs_fetch.format.decoding import decode
from tfjs_fetch.format.manifest import parse
from tfjs_fetch.gathering import gather, odd_message
from tfjs_fetch.planning import Blueprint, draw

GROUPS = [
    {"paths": ["a0", "a1"], "weights": [spec("a/x", [2], "int32"), spec("a/y", [2], "bool")]},
    {"paths": ["b"], "weights": [spec("b/x", [1], "int32"), spec("b/empty", [0])]},
]
FILES = {"a0": b"\1\0\0\0\2\0", "a1": b"\0\0\1\0", "b": b"\3\0\0\0"}


def drawn(groups: Any, weights: Any = None, policy: Policy | None = None) -> Blueprint:
    return draw(parse(json.dumps(groups).encode()), weights, policy or Policy())


def gathered(
    groups: Any, files: Mapping[str, bytes], weights: Any = None, policy: Policy | None = None
) -> tuple[Mapping[str, bytes], list[str]]:
    """Return the stored bytes of the wanted weights, and the warnings."""
    warnings: list[str] = []
    shards = {path: memoryview(content) for path, content in files.items()}
    stored = gather(drawn(groups, weights, policy), shards, warnings.append)
    return {name: bytes(data) for name, data in stored.items()}, warnings


def strings(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def test_weights_are_cut_out_of_their_files() -> None:
    stored, warnings = gathered(GROUPS, FILES)

    assert stored == {"a/x": b"\1\0\0\0\2\0\0\0", "a/y": b"\1\0", "b/x": b"\3\0\0\0", "b/empty": b""}
    assert list(stored) == ["a/x", "a/y", "b/x", "b/empty"]
    assert warnings == []


def test_only_files_of_needed_groups_are_looked_at() -> None:
    stored, _ = gathered(GROUPS, {"b": FILES["b"]}, weights="b/*")

    assert stored == {"b/x": b"\3\0\0\0", "b/empty": b""}


def test_only_weights_across_files_are_copied() -> None:
    whole = memoryview(bytes(10)).toreadonly()
    files = {"a0": whole[:6], "a1": whole[6:], "b": memoryview(FILES["b"])}

    stored = gather(drawn(GROUPS), files, print)

    assert stored["a/y"].obj is whole.obj
    assert stored["b/x"].obj is files["b"].obj
    assert stored["a/x"].obj is not whole.obj


@given(st.lists(st.integers(0, 12), max_size=6))
def test_any_cut_into_files_gives_the_same(cuts: list[int]) -> None:
    data = bytes(range(10))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    paths = [f"s{index}" for index in range(len(edges) - 1)]
    files = {path: data[edges[index] : edges[index + 1]] for index, path in enumerate(paths)}
    weights = [spec("x", [2], "int32"), spec("e", [0]), spec("y", [2], "uint8")]

    stored, _ = gathered([{"paths": paths, "weights": weights}], files)

    assert stored == {"x": data[:8], "e": b"", "y": data[8:]}


@given(encoded_groups(), st.integers(0, 40))
def test_every_group_is_read_back(group: EncodedGroup, cut: int) -> None:
    document = [{"paths": ["0", "1"], "weights": group.specs}]
    files = {"0": memoryview(group.data[:cut]), "1": memoryview(group.data[cut:])}
    blueprint = drawn(document)
    assume(not any(unmistakable(bytes(data[:HEAD_BYTES])) for data in files.values()))

    stored = gather(blueprint, files, lambda message: None)

    for one in blueprint.manifest.weights:
        assert_same(decode(one, stored[one.name]), group.arrays[one.name])


def test_a_file_that_is_too_short_is_named() -> None:
    with pytest.raises(MissingBytesError) as caught:
        gathered(GROUPS, {**FILES, "a1": b"\0\0"})

    error = caught.value
    assert (error.group, error.weight, error.shard, error.expected, error.got) == (0, "a/y", "a1", 10, 8)


def test_surplus_bytes_are_an_error_in_all_groups_but_the_last() -> None:
    with pytest.raises(ExtraBytesError) as caught:
        gathered(GROUPS, {**FILES, "a1": FILES["a1"] + b"\0"})

    assert (caught.value.group, caught.value.shard, caught.value.expected, caught.value.got) == (0, "a1", 10, 11)


@pytest.mark.parametrize(
    ("name", "policy"), [("b", Policy()), ("a1", Policy(extra_bytes="ignore")), ("b", Policy(extra_bytes="ignore"))]
)
def test_surplus_bytes_that_are_tolerated_are_told(name: str, policy: Policy) -> None:
    stored, warnings = gathered(GROUPS, {**FILES, name: FILES[name] + b"?"}, policy=policy)

    assert stored == gathered(GROUPS, FILES)[0]
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"<!doctype html><title>404</title>", "an HTML page"), (b"version https://git-lfs", "a Git LFS pointer")],
)
def test_a_file_of_wrong_size_that_is_something_else_is_called_that(content: bytes, expected: str) -> None:
    with pytest.raises(WrongContentError) as caught:
        gathered(GROUPS, {**FILES, "a1": content})

    assert (caught.value.url, caught.value.content) == ("a1", expected)
    assert (caught.value.received, caught.value.expected) == (6 + len(content), 10)


TEXT = [{"paths": ["t0", "t1"], "weights": [spec("t", [2], "string"), spec("n", [1], "int32")]}, *GROUPS]
TEXT_DATA = strings(b"ab", b"") + b"\7\0\0\0"


@pytest.mark.parametrize("cut", range(len(TEXT_DATA) + 1))
def test_strings_are_walked_over_wherever_their_files_are_cut(cut: int) -> None:
    stored, _ = gathered(TEXT, {**FILES, "t0": TEXT_DATA[:cut], "t1": TEXT_DATA[cut:]}, weights=["t", "n"])

    assert stored == {"t": strings(b"ab", b""), "n": b"\7\0\0\0"}


def test_of_a_group_with_strings_only_wanted_weights_are_given() -> None:
    stored, _ = gathered(TEXT, {"t0": TEXT_DATA, "t1": b""}, weights="n")

    assert stored == {"n": b"\7\0\0\0"}


def test_strings_that_are_not_wanted_are_not_walked_over() -> None:
    assert gathered(TEXT, {"b": FILES["b"]}, weights="b/x") == ({"b/x": b"\3\0\0\0"}, [])


@pytest.mark.parametrize("length", range(len(TEXT_DATA)))
def test_strings_that_are_cut_short_are_an_error(length: int) -> None:
    with pytest.raises(MissingBytesError) as caught:
        gathered(TEXT, {**FILES, "t0": TEXT_DATA[:length], "t1": b""})

    assert (caught.value.group, caught.value.got) == (0, length)
    assert caught.value.expected > length


def test_bytes_behind_strings_are_an_error_or_a_warning() -> None:
    files = {**FILES, "t0": TEXT_DATA, "t1": b"more"}

    with pytest.raises(ExtraBytesError) as caught:
        gathered(TEXT, files)
    assert (caught.value.group, caught.value.shard, caught.value.expected, caught.value.got) == (0, "t1", 14, 18)
    assert len(gathered(TEXT[:1], files)[1]) == 1


def test_odd_bools_are_told_and_kept() -> None:
    stored, warnings = gathered(GROUPS, {**FILES, "a1": b"\0\0\1\2"})

    assert stored["a/y"] == b"\1\2"
    assert warnings == [odd_message(drawn(GROUPS).manifest.weights[1], 1)]


def test_odd_bools_that_are_not_wanted_are_not_told() -> None:
    assert gathered(GROUPS, {**FILES, "a1": b"\0\0\1\2"}, weights="a/x")[1] == []


def test_a_model_without_weights_needs_no_files() -> None:
    assert gathered([], {}) == ({}, [])
    assert gathered([{"paths": ["nowhere"]}], {}) == ({}, [])
