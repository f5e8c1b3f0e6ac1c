"""What the first bytes of a file say it is."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus import directory
from tfjs_fetch.content import HEAD_BYTES, recognise, suspicion
from tfjs_fetch.errors import ExtraBytesError, MissingBytesError, WrongContentError


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"<!doctype HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'>", "an HTML page"),
        (b"\xef\xbb\xbf\r\n  <HTML lang=en>", "an HTML page"),
        (b"<head><title>404", "an HTML page"),
        (b"<!-- served by node 7 --><html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a Git LFS pointer"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code>', "a bucket's error document (NoSuchKey)"),
        (b"<Error>\n <Code> AccessDenied </Code>", "a bucket's error document (AccessDenied)"),
        (b'<?xml version="1.0"?><note/>', "an XML document"),
        (b'<?xml version="1.0"?><Code>\x1b[31m</Code>', "an XML document"),
        (b'{"error": "not found"}', "a JSON document"),
        (b'{\n  "modelTopology": {', "a JSON document"),
        (b'[{"paths": ["w0"]', "a JSON document"),
        (b"\x1f\x8b\x08\x00", "gzip-compressed data"),
        (b"PK\x03\x04\x14\x00", "a zip archive"),
    ],
)
def test_what_is_no_weights_is_called_by_its_name(head: bytes, expected: str) -> None:
    assert recognise(head) == expected
    assert recognise(head.ljust(HEAD_BYTES)) == expected


@pytest.mark.parametrize("head", [b"", b" \n", bytes(64), b"\xff" * 64, struct.pack("<4f", 0.5, -1.0, 3e-9, 60.0)])
def test_anything_else_may_be_weights(head: bytes) -> None:
    assert recognise(head) is None


@given(st.binary(max_size=2 * HEAD_BYTES))
def test_any_bytes_can_be_looked_at(head: bytes) -> None:
    found = recognise(head)

    assert found is None or found.isprintable()
    assert recognise(head[:HEAD_BYTES]) == found


def test_no_shard_of_the_corpus_looks_like_something_else() -> None:
    shards = [path for path in directory().glob("*/*") if path.is_file() and path.suffix in ("", ".bin")]
    if not shards:
        pytest.skip("there is no corpus")

    assert {recognise(path.read_bytes()[:HEAD_BYTES]) for path in shards} == {None}


def test_the_first_file_that_is_visibly_no_weights_explains_a_wrong_size() -> None:
    error = MissingBytesError(0, "kernel", "w1", 1000, 90)
    heads = [("http://h/w0", bytes(16)), ("http://h/w1?sig=1", b"<html>"), ("http://h/w2", b'{"a"')]

    found = suspicion(heads, error)

    assert isinstance(found, WrongContentError)
    assert (found.url, found.content) == ("http://h/w1?…", "an HTML page")
    assert (found.received, found.expected) == (90, 1000)


def test_a_wrong_size_of_what_may_be_weights_stays_what_it_is() -> None:
    error = ExtraBytesError(0, "w0", 8, 12)

    assert suspicion([("http://h/w0", bytes(12)), ("http://h/w1", b"")], error) is None
    assert suspicion([], error) is None
