"""What the headers of an answer say of its body: which version of the file, which part of it, in which encoding."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tfjs_fetch.errors import WrongContentError
from tfjs_fetch.freshness import Lifetime, date, lifetime

# Seconds that a file must not have changed before it was asked for: else it may change again within the second that
# Last-Modified counts in (RFC 9110, 8.8.2.2).
_SETTLED_SECONDS = 60

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII | re.IGNORECASE)
# As nginx makes them: the seconds of Last-Modified and the length.
_TIMED_ETAG = re.compile(r'(?:W/)?"([0-9a-fA-F]{1,16})-[0-9a-fA-F]+"')
_STRONG_ETAG = re.compile(r'"[^"\x00-\x20\x7f]*"')


@dataclass(frozen=True, slots=True)
class Version:
    """What a server calls one version of a file; "" and None where it does not tell.

    `size` is that of the whole file on the wire. `validator` is what a promise of the very same bytes can rest on: a
    strong ETag or a settled Last-Modified, as they stand in the header. `lifetime` tells for how long it may be taken
    for the current one without asking; while it is `unsettled`, another version may yet get the same name. It was asked
    for at the time `asked`, on the clock of the event loop, and was current at some time after that.
    """

    etag: str = ""
    last_modified: str = ""
    size: int | None = None
    validator: str | None = field(default=None, compare=False)
    lifetime: Lifetime = field(default=Lifetime(), compare=False)
    unsettled: bool = field(default=False, compare=False)
    asked: float = field(default=0.0, compare=False)

    def may_be(self, other: "Version") -> bool:
        """Whether nothing that both of them tell is different."""
        pairs = ((self.etag, other.etag), (self.last_modified, other.last_modified), (self.size, other.size))
        return all(mine == others or not mine or not others for mine, others in pairs)


@dataclass(frozen=True, slots=True)
class Representation:
    """A body: bytes `start` up to `stop` (None: unknown) of `version`, decoded with `encoding` if that is not None.

    `divisible` is false if the server says that it does not give parts.
    """

    version: Version
    start: int = 0
    stop: int | None = None
    encoding: str | None = None
    divisible: bool = True


def described(url: str, headers: Mapping[str, str], *, partial: bool) -> Representation | None:
    """Return what `headers` say of the body that follows; `partial` if the status is 206, and None if that is unusable.

    Raises WrongContentError for an encoding that is not understood.
    """
    encoding, length = content_encoding(url, headers), content_length(headers)
    etag, modified = headers.get("etag", ""), headers.get("last-modified", "")
    start, stop, size = 0, length, length
    if partial:
        found = content_range(headers.get("content-range", ""))
        if found is None or encoding is not None or length not in (None, found[1] - found[0]):
            return None
        start, stop, size = found
    sent = headers.get("date", "")
    validator = None if encoding or size is None else _validator(etag, modified, sent)
    now = datetime.now(UTC)
    version = Version(etag, modified, size, validator, lifetime(headers, now), _is_unsettled(etag, modified, sent, now))
    divisible = headers.get("accept-ranges", "").strip().lower() != "none"
    return Representation(version, start, stop, encoding, divisible)


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the Content-Length; None if there is none, or none that can be believed."""
    value = headers.get("content-length", "").strip()
    if "transfer-encoding" in headers or not (value.isascii() and value.isdigit()):
        return None
    return int(value[:20])


def content_encoding(url: str, headers: Mapping[str, str]) -> str | None:
    """Return "gzip" or "deflate" if the body is encoded so, None if it is not. Raises WrongContentError for others."""
    value = headers.get("content-encoding", "").strip().lower()
    if value in ("", "identity"):
        return None
    if value in ("gzip", "x-gzip"):
        return "gzip"
    if value == "deflate":
        return value
    raise WrongContentError(url, f"a body encoded as {value[:40]}, which was not asked for,")


def content_range(value: str) -> tuple[int, int, int] | None:
    """Return where the part begins, where it ends (exclusive), and the size of the whole.

    None if it is no part, or one of a whole of unknown size: which version that is, nobody knows.
    """
    found = _CONTENT_RANGE.fullmatch(value.strip())
    if found is None:
        return None
    first, last, size = (int(number) for number in found.groups())
    return (first, last + 1, size) if first <= last < size else None


def retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, given as seconds or as a date; None if it says nothing."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    when = date(value)
    return None if when is None else max(0.0, (when - now).total_seconds())


def _validator(etag: str, modified: str, sent: str) -> str | None:
    if etag:
        return etag if _STRONG_ETAG.fullmatch(etag.strip()) else None
    changed, at = date(modified), date(sent)
    settled = changed is not None and at is not None and (at - changed).total_seconds() >= _SETTLED_SECONDS
    return modified if settled else None


def _is_unsettled(etag: str, modified: str, sent: str, now: datetime) -> bool:
    """Whether the name of a version comes from the second of its making, and that is not over yet."""
    changed = date(modified) if modified else None
    if changed is None:
        return False
    timed = _TIMED_ETAG.fullmatch(etag.strip()) if etag else None
    if etag and (timed is None or int(timed[1], 16) != int(changed.timestamp())):
        return False
    return ((date(sent) or now) - changed).total_seconds() < 1
