"""The ways in which a mock server can misbehave, one idea each, to be combined at will.

A fault gets its say at three points: on what was asked, on the representation of the file, and on the answer made of
both. Positions in a delivery (`Cut(at=…)`) count the bytes of the body as sent, so after a Range they start at the
range; positions in a file (`Flip(at=…)`) count from the start of the file as it travels.
"""

import zlib
from dataclasses import dataclass, replace
from datetime import datetime

from mock_server.answers import PIECE_BYTES, Answer, Break, Delivery, Request, plain
from mock_server.files import Framing, Headers, Representation, http_date

MEBIBYTE = 1024 * 1024


class Fault:
    """A deviation from good behaviour; subclasses override the points at which they deviate."""

    __slots__ = ()

    def on_request(self, request: Request) -> Request:
        """What the server takes `request` for."""
        return request

    def on_file(self, found: Representation) -> Representation:
        """What the server takes the file for."""
        return found

    def on_answer(self, answer: Answer) -> Answer:
        """What the server answers instead."""
        return replace(answer, delivery=self.on_delivery(answer.delivery))

    def on_delivery(self, delivery: Delivery) -> Delivery:
        """How the server sends its answer instead."""
        return delivery


@dataclass(frozen=True, slots=True)
class Latency(Fault):
    """Wait before the head; `math.inf` never answers."""

    seconds: float

    def on_delivery(self, delivery: Delivery) -> Delivery:
        return replace(delivery, latency=delivery.latency + self.seconds)


@dataclass(frozen=True, slots=True)
class Throttle(Fault):
    """Send the body no faster than this."""

    bytes_per_second: float

    def on_delivery(self, delivery: Delivery) -> Delivery:
        return replace(delivery, rate=min(delivery.rate, self.bytes_per_second))


@dataclass(frozen=True, slots=True)
class Drip(Fault):
    """Send one byte every so many seconds, from byte `at` on."""

    every: float
    at: int = 0

    def on_delivery(self, delivery: Delivery) -> Delivery:
        return replace(delivery, drip_at=self.at, drip_every=self.every)


@dataclass(frozen=True, slots=True)
class Stall(Fault):
    """Fall silent after `at` bytes and keep the connection open until the client leaves."""

    at: int

    def on_delivery(self, delivery: Delivery) -> Delivery:
        return _broken(delivery, Break(self.at, "stall"))


@dataclass(frozen=True, slots=True)
class Cut(Fault):
    """End the connection cleanly (FIN) after `at` bytes, whatever was promised."""

    at: int

    def on_delivery(self, delivery: Delivery) -> Delivery:
        return _broken(delivery, Break(self.at, "cut"))


@dataclass(frozen=True, slots=True)
class Reset(Fault):
    """Reset the connection (RST) after `at` bytes; the client may lose bytes it has not yet read."""

    at: int

    def on_delivery(self, delivery: Delivery) -> Delivery:
        return _broken(delivery, Break(self.at, "reset"))


@dataclass(frozen=True, slots=True)
class HangUp(Fault):
    """Close the connection without an answer, by RST if `reset`."""

    reset: bool = False

    def on_delivery(self, delivery: Delivery) -> Delivery:
        return replace(delivery, hangs_up="reset" if self.reset else "cut")


@dataclass(frozen=True, slots=True)
class Close(Fault):
    """Close the connection after a complete answer, without a word about it unless `announced`."""

    announced: bool = False

    def on_answer(self, answer: Answer) -> Answer:
        headers: Headers = (*answer.headers, ("connection", "close")) if self.announced else answer.headers
        return replace(answer, headers=headers, delivery=replace(answer.delivery, closes=True))


@dataclass(frozen=True, slots=True)
class WrongLength(Fault):
    """Announce a Content-Length that is `by` bytes too long, or too short if negative, and close after the body."""

    by: int

    def on_answer(self, answer: Answer) -> Answer:
        return replace(answer, framing="length", announced=max(0, len(answer.body) + self.by))


@dataclass(frozen=True, slots=True)
class IgnoreRange(Fault):
    """Answer a Range request with 200 and the whole body."""

    def on_request(self, request: Request) -> Request:
        headers = {name: value for name, value in request.headers.items() if name != "range"}
        return replace(request, headers=headers)


@dataclass(frozen=True, slots=True)
class WrongRange(Fault):
    """Claim in Content-Range that the bytes come from `by` positions further on than they do."""

    by: int

    def on_answer(self, answer: Answer) -> Answer:
        return replace(answer, headers=tuple((name, self._shifted(name, value)) for name, value in answer.headers))

    def _shifted(self, name: str, value: str) -> str:
        if name != "content-range" or "*" in value:
            return value
        positions, _, total = value.removeprefix("bytes ").partition("/")
        first, _, last = positions.partition("-")
        return f"bytes {int(first) + self.by}-{int(last) + self.by}/{total}"


@dataclass(frozen=True, slots=True)
class Status(Fault):
    """Answer with this status, and Retry-After in seconds or as a date (aware)."""

    status: int
    retry_after: int | datetime | None = None

    def on_answer(self, answer: Answer) -> Answer:
        refused = replace(plain(self.status), delivery=answer.delivery)
        if self.retry_after is None:
            return refused
        after = http_date(self.retry_after) if isinstance(self.retry_after, datetime) else str(self.retry_after)
        return replace(refused, headers=(*refused.headers, ("retry-after", after)))


@dataclass(frozen=True, slots=True)
class Instead(Fault):
    """Answer with something that is not the file, with a status that says it is."""

    content: bytes
    content_type: str
    status: int = 200

    def on_answer(self, answer: Answer) -> Answer:
        headers = (("content-type", self.content_type),)
        return Answer(self.status, headers, memoryview(self.content), delivery=answer.delivery)


HTML_PAGE = Instead(b"<!DOCTYPE html><html><body><h1>Please sign in</h1></body></html>\n", "text/html; charset=utf-8")
LFS_POINTER = Instead(
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0123456789abcdef" * 4 + b"\nsize 4194304\n",
    "text/plain; charset=utf-8",
)
S3_ERROR = Instead(
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>',
    "application/xml",
)


@dataclass(frozen=True, slots=True)
class Flip(Fault):
    """Serve the file with all bits of byte `at` flipped, under its old ETag."""

    at: int

    def on_file(self, found: Representation) -> Representation:
        if self.at >= len(found.content):
            return found
        flipped = bytearray(found.content)
        flipped[self.at] ^= 0xFF
        return replace(found, content=memoryview(flipped).toreadonly())


@dataclass(frozen=True, slots=True)
class TruncatedGzip(Fault):
    """Serve the file as gzip that lacks its last `missing` bytes, with a Content-Length that agrees."""

    missing: int = 1

    def on_file(self, found: Representation) -> Representation:
        whole = found.gzipped()
        return found.with_gzip(whole[: max(0, len(whole) - self.missing)])


@dataclass(frozen=True, slots=True)
class TrailingGarbage(Fault):
    """Serve the file as a complete gzip stream with `garbage` behind it."""

    garbage: bytes = b"garbage"

    def on_file(self, found: Representation) -> Representation:
        return found.with_gzip(found.gzipped() + self.garbage)


@dataclass(frozen=True, slots=True)
class GzipBomb(Fault):
    """Serve about a thousandth of `size` bytes that gunzip to `size` zero bytes."""

    size: int = 256 * MEBIBYTE

    def on_file(self, found: Representation) -> Representation:
        return found.with_gzip(_zeros_as_gzip(self.size))


@dataclass(frozen=True, slots=True)
class Endless(Fault):
    """Send a body without end: in chunks, or under an `announced` Content-Length which it then exceeds."""

    announced: int | None = None
    pattern: bytes = bytes(PIECE_BYTES)

    def on_answer(self, answer: Answer) -> Answer:
        framing: Framing = "chunked" if self.announced is None else "length"
        body = memoryview(self.pattern)
        return replace(answer, body=body, endless=True, framing=framing, announced=self.announced)


@dataclass(frozen=True, slots=True)
class HeaderFlood(Fault):
    """Send `count` headers of `size` bytes each before the body."""

    count: int = 2000
    size: int = 100

    def on_answer(self, answer: Answer) -> Answer:
        flood = tuple((f"x-flood-{number}", "x" * self.size) for number in range(self.count))
        return replace(answer, headers=(*answer.headers, *flood))


def _broken(delivery: Delivery, new: Break) -> Delivery:
    """`delivery` with its earliest break."""
    if delivery.breaks and delivery.breaks.at <= new.at:
        return delivery
    return replace(delivery, breaks=new)


def _zeros_as_gzip(size: int) -> bytes:
    """One gzip member of `size` zero bytes.

    A full flush makes a deflate block independent of those before, so one compressed mebibyte is repeated instead of
    compressing them all. One member, because many clients stop after the first.
    """
    rest = size % MEBIBYTE
    mebibyte = _deflate(bytes(MEBIBYTE), zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(size // MEBIBYTE):
        checksum = zlib.crc32(bytes(MEBIBYTE), checksum)
    checksum = zlib.crc32(bytes(rest), checksum)
    trailer = checksum.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")
    member_start = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"
    return member_start + mebibyte * (size // MEBIBYTE) + _deflate(bytes(rest), zlib.Z_FINISH) + trailer


def _deflate(content: bytes, flush: int) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush(flush)
