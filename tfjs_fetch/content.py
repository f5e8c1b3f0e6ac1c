"""What came instead of a file, told from its first bytes: error pages look like weights to a careless reader."""

import re
from collections.abc import Iterable

from tfjs_fetch.errors import ExtraBytesError, MissingBytesError, WrongContentError

# As many first bytes as `recognise` wants to see.
HEAD_BYTES = 1024

# Weights could begin like these by chance, or do so on purpose: only together with a wrong size they tell something.
_THINKABLE = ("a JSON document", "gzip-compressed data", "a zip archive", None)

_BUCKET_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9_.-]{1,64})\s*</Code>")


def recognise(head: bytes) -> str | None:
    """Return what a file that begins with `head` is, in words; None if it may well be weights."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:HEAD_BYTES].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<!--")):
        return "an HTML page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    if start.startswith((b"<?xml", b"<error")):
        code = _BUCKET_CODE.search(head)
        return f"a bucket's error document ({code[1].decode()})" if code else "an XML document"
    if start.startswith((b'{"', b"{'", b"{\n", b"{\r", b'[{"')):
        return "a JSON document"
    if head.startswith(b"\x1f\x8b"):
        return "gzip-compressed data"
    return "a zip archive" if head.startswith(b"PK\x03\x04") else None


def unmistakable(head: bytes) -> str | None:
    """Return what a file that begins with `head` is, if no weights begin so, whatever their size."""
    content = recognise(head)
    return None if content in _THINKABLE else content


def suspicion(
    heads: Iterable[tuple[str, bytes]], error: MissingBytesError | ExtraBytesError
) -> WrongContentError | None:
    """Return the likelier error behind wrong sizes, if one of the files (URL, first bytes) is visibly no weights."""
    for url, head in heads:
        if (content := recognise(head)) is not None:
            return WrongContentError(url, content, error.got, error.expected)
    return None
