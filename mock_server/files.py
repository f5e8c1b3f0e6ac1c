"""What a mock server serves: files, redirects, and the representation a file takes on the wire."""

import gzip
import mimetypes
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import sha256
from typing import Literal, TypeAlias

Header: TypeAlias = tuple[str, str]
Headers: TypeAlias = tuple[Header, ...]
Framing: TypeAlias = Literal["length", "chunked", "close"]

# A fixed moment, so that two servers with the same files give the same answers.
LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class File:
    """A file to serve and how its owner configured it.

    `content_type` None is guessed from the path. `etag` is the header as sent, quotes and any W/ included; "sha256"
    stands for the hash of the bytes on the wire; None sends none, and so does `last_modified`. With gzip "always" the
    client is not asked whether it understands gzip. `framing` tells how the body ends: by Content-Length, by a last
    chunk, or by the end of the connection.
    """

    content: bytes | memoryview
    content_type: str | None = None
    etag: str | None = "sha256"
    last_modified: datetime | None = LONG_AGO
    cache_control: str | None = None
    gzip: Literal["never", "always", "accepted"] = "never"
    framing: Framing = "length"
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Redirect:
    """An entry that sends the client to `location`, which may be relative or on another server."""

    location: str
    status: int = 302


Entry: TypeAlias = bytes | File | Redirect


@dataclass(frozen=True, slots=True)
class Representation:
    """The bytes of a file as they travel, with the headers that describe them."""

    content: memoryview
    headers: Headers = ()
    etag: str | None = None
    last_modified: datetime | None = None
    framing: Framing = "length"

    @property
    def is_gzip(self) -> bool:
        return ("content-encoding", "gzip") in self.headers

    def with_gzip(self, content: bytes) -> "Representation":
        """The same file, travelling as `content`, which claims to be gzip."""
        headers = self.headers if self.is_gzip else (*self.headers, ("content-encoding", "gzip"))
        return replace(self, content=memoryview(content), headers=headers)

    def gzipped(self) -> bytes:
        """The content as gzip, whether it travels so or not."""
        return bytes(self.content) if self.is_gzip else compress(self.content)


class Representations:
    """The representations of the files of one server, so that a large file is hashed and compressed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bool], tuple[bytes | File, Representation]] = {}

    def of(self, entry: bytes | File, path: str, accept_encoding: str) -> Representation:
        """The representation of `entry` for a client that sent `accept_encoding` ("" when it sent none)."""
        file = entry if isinstance(entry, File) else File(entry)
        as_gzip = file.gzip == "always" or (file.gzip == "accepted" and accepts_gzip(accept_encoding))
        known = self._known.get((path, as_gzip))
        if known is None or known[0] is not entry:
            known = self._known[path, as_gzip] = (entry, represent(file, path, as_gzip=as_gzip))
        return known[1]


def represent(file: File, path: str, *, as_gzip: bool) -> Representation:
    """The representation of `file`, found under `path`, with all headers but those of framing and ranges."""
    content = memoryview(compress(file.content) if as_gzip else file.content)
    etag = _etag(file, content, as_gzip=as_gzip)
    headers: tuple[tuple[str, str | None], ...] = (
        ("content-type", file.content_type or content_type(path)),
        ("etag", etag),
        ("last-modified", http_date(file.last_modified) if file.last_modified else None),
        ("cache-control", file.cache_control),
        ("content-encoding", "gzip" if as_gzip else None),
        ("vary", "accept-encoding" if file.gzip == "accepted" else None),
        *file.headers,
    )
    sent = tuple((name, value) for name, value in headers if value is not None)
    return Representation(content, sent, etag, file.last_modified, file.framing)


def content_type(path: str) -> str:
    """The media type for the extension of `path`; a shard has none and is plain bytes."""
    return mimetypes.guess_type(path)[0] or "application/octet-stream"


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a client that sends this Accept-Encoding understands gzip."""
    accepted: dict[str, bool] = {}
    for choice in accept_encoding.lower().split(","):
        coding, _, weight = choice.replace(" ", "").partition(";q=")
        accepted[coding] = not re.fullmatch(r"0(\.0*)?", weight)
    return accepted.get("gzip", accepted.get("*", False))


def compress(content: bytes | memoryview) -> bytes:
    """`content` as one gzip member, the same at all times."""
    return gzip.compress(content, compresslevel=6, mtime=0)


def http_date(moment: datetime) -> str:
    """`moment` (aware) as HTTP writes it, to the second."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def _etag(file: File, content: memoryview, *, as_gzip: bool) -> str | None:
    if file.etag == "sha256":
        return f'"{sha256(content).hexdigest()}"'
    if file.etag and as_gzip and file.gzip == "accepted":
        # A strong ETag names one sequence of bytes: the two variants must not share it (RFC 9110, 8.8.3.3).
        return f'{file.etag.removesuffix(chr(34))}-gzip"'
    return file.etag
