"""From a request and what is stored under its path to the answer: status, headers, body, and how to deliver it.

Nothing here does any I/O. An answer starts out as a healthy one; faults then change it, its delivery above all.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Literal
from urllib.parse import unquote

from mock_server.files import Framing, Headers, Redirect, Representation, http_date

PIECE_BYTES = 64 * 1024
BODILESS = frozenset({204, 304})
NOTHING = memoryview(b"")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for; header names are in lower case and repeated ones joined by commas."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    keeps_alive: bool = True
    http_version: str = "1.1"

    @property
    def path(self) -> str:
        """The target without its query, percent-decoded: the key of a file."""
        return unquote(self.target.partition("?")[0])


@dataclass(frozen=True, slots=True)
class Break:
    """The end of a delivery after `at` bytes of body, by falling silent, by FIN or by RST."""

    at: int
    by: Literal["stall", "cut", "reset"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """How an answer is sent: when, how fast, how far.

    `latency` is in seconds, `rate` in bytes per second; from byte `drip_at` on one byte leaves every `drip_every`
    seconds. `hangs_up` closes instead of answering; `closes` ends the connection after the answer.
    """

    latency: float = 0.0
    rate: float = math.inf
    drip_at: float = math.inf
    drip_every: float = 0.0
    breaks: Break | None = None
    hangs_up: Literal["cut", "reset"] | None = None
    closes: bool = False

    def due(self, position: int) -> float:
        """Seconds after the head at which the byte at `position` may leave."""
        dripping = max(0.0, position - self.drip_at)
        return position / self.rate + dripping * self.drip_every

    def piece_bytes(self, position: int) -> int:
        """How many bytes to send at once from `position` on; a throttled body moves about 20 times a second."""
        if position >= self.drip_at:
            return 1
        return max(1, int(min(PIECE_BYTES, self.rate / 20, self.drip_at - position)))


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything the server will send, and how.

    `announced` is the Content-Length if it is not that of the body. An `endless` answer repeats its body until the
    client leaves; a `bodiless` one, as to HEAD, is over after the head.
    """

    status: int
    headers: Headers = ()
    body: memoryview = NOTHING
    framing: Framing = "length"
    announced: int | None = None
    endless: bool = False
    bodiless: bool = False
    delivery: Delivery = Delivery()

    @property
    def sent_bytes(self) -> float:
        """How many bytes of body leave before the answer ends or breaks; infinite if only the client can end it."""
        whole = math.inf if self.endless else len(self.body)
        return min(whole, self.delivery.breaks.at) if self.delivery.breaks else whole

    @property
    def breaks(self) -> Break | None:
        """The break that will happen; None if the body is over before."""
        broken = self.delivery.breaks
        return broken if broken and broken.at <= self.sent_bytes else None

    @property
    def frees_connection(self) -> bool:
        """Whether the client can tell where this answer ends, so that another may follow."""
        if self.delivery.closes or self.framing == "close":
            return False
        return self.bodiless or self.announced in (None, len(self.body))


def answer(request: Request, found: Representation | Redirect | None) -> Answer:
    """The healthy answer to `request`, for what is stored under its path."""
    if request.method not in ("GET", "HEAD"):
        refused = plain(405)
        return replace(refused, headers=(("allow", "GET, HEAD"), *refused.headers))
    match found:
        case None:
            return plain(404)
        case Redirect():
            sent_on = plain(found.status)
            return replace(sent_on, headers=(("location", found.location), *sent_on.headers))
        case Representation():
            return _file_answer(request, found)


def plain(status: int) -> Answer:
    """An answer that is only its status, repeated in the body for the reader."""
    text = f"{status} {reason(status)}\n".encode()
    return Answer(status, (("content-type", "text/plain"),), memoryview(text))


def fitted(answer: Answer, request: Request) -> Answer:
    """`answer` in the form `request` allows: without a body, without chunks, with the connection's end announced."""
    if answer.framing == "chunked" and request.http_version < "1.1":
        answer = replace(answer, framing="close")
    if request.method == "HEAD" or answer.status in BODILESS:
        announced = len(answer.body) if answer.announced is None else answer.announced
        answer = replace(answer, body=NOTHING, announced=announced, endless=False, bodiless=True)
    if answer.framing == "close" or not request.keeps_alive:
        closing = replace(answer.delivery, closes=True)
        others = tuple(header for header in answer.headers if header != ("connection", "close"))
        answer = replace(answer, delivery=closing, headers=(*others, ("connection", "close")))
    return answer


def head(answer: Answer, now: datetime) -> bytes:
    """The status line and the headers of `answer`.

    Written by hand: h11 refuses to write most of the answers a misbehaving server is for.
    """
    headers = (("date", http_date(now)), *answer.headers, *_framing_headers(answer))
    lines = [f"HTTP/1.1 {answer.status} {reason(answer.status)}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def pieces(answer: Answer) -> Iterator[tuple[int, memoryview]]:
    """The body to send in views of at most 64 KiB, each with its position, up to its end or its break."""
    position = 0
    while position < answer.sent_bytes:
        size = min(answer.delivery.piece_bytes(position), answer.sent_bytes - position)
        offset = position % len(answer.body)
        piece = answer.body[offset : offset + int(size)]
        yield position, piece
        position += len(piece)


def reason(status: int) -> str:
    """The phrase for `status`; a number of one's own has none."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"


def byte_range(header: str, size: int) -> range | None:
    """The bytes a Range header asks for of a file of `size` bytes; empty if it has none of them.

    None if there is no single range to honour, which a server may always ignore (RFC 9110, 14.2).
    """
    # Longer numbers are no positions, and int() refuses the very long ones.
    asked = re.fullmatch(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", header, re.ASCII)
    if asked is None:
        return None
    first, last = asked.groups()
    if first and last:
        return range(int(first), min(int(last) + 1, size)) if int(first) <= int(last) else None
    if first:
        return range(int(first), size)
    return range(max(0, size - int(last)), size) if last else None


def _file_answer(request: Request, found: Representation) -> Answer:
    if _is_fresh(request, found):
        return Answer(304, tuple(header for header in found.headers if header[0] != "content-type"))
    headers = (*found.headers, ("accept-ranges", "bytes"))
    whole = Answer(200, headers, found.content, found.framing)
    size = len(found.content)
    wanted = _wanted(request, found)
    if wanted is None:
        return whole
    if not wanted:
        refused = plain(416)
        return replace(refused, headers=(*refused.headers, ("content-range", f"bytes */{size}")))
    content_range = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
    part = found.content[wanted.start : wanted.stop]
    return replace(whole, status=206, headers=(*headers, ("content-range", content_range)), body=part)


def _wanted(request: Request, found: Representation) -> range | None:
    if request.method != "GET" or not _range_still_valid(request, found):
        return None
    return byte_range(request.headers.get("range", ""), len(found.content))


def _is_fresh(request: Request, found: Representation) -> bool:
    known = request.headers.get("if-none-match")
    if known is not None:
        tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
        return "*" in tags or (found.etag is not None and found.etag.removeprefix("W/") in tags)
    since = _date(request.headers.get("if-modified-since", ""))
    if since is None or found.last_modified is None:
        return False
    return found.last_modified.replace(microsecond=0) <= since


def _range_still_valid(request: Request, found: Representation) -> bool:
    validator = request.headers.get("if-range")
    if validator is None:
        return True
    # Only a strong ETag promises the same bytes; a weak one never lets a range pass (RFC 9110, 13.1.5).
    if validator.startswith(('"', "W/")):
        return validator == found.etag and not validator.startswith("W/")
    return found.last_modified is not None and _date(validator) == found.last_modified.replace(microsecond=0)


def _date(header: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(header)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _framing_headers(answer: Answer) -> Headers:
    if answer.status in BODILESS or answer.framing == "close":
        return ()
    if answer.framing == "chunked":
        return (("transfer-encoding", "chunked"),)
    announced = len(answer.body) if answer.announced is None else answer.announced
    return (("content-length", str(announced)),)
