"""How long an answer may be used without asking again, by what its headers say (RFC 9111, RFC 8246).

Nothing is guessed: without an explicit lifetime the server is asked again every time.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# What all our requests say alike, so that an answer that depends on it stays the right one.
_CONSTANT = frozenset(("accept-encoding", "origin"))
_DIRECTIVE = re.compile(r'([!#$%&\'*+.^_`|~\w-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,;"]*)))?', re.ASCII)
# Longer is for ever.
_MOST_SECONDS = 2**31


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Whether an answer may be kept on disk, and for how many seconds from now it needs no asking."""

    storable: bool = True
    seconds: float = 0.0


def lifetime(headers: Mapping[str, str], now: datetime) -> Lifetime:
    """Return what `headers` say of an answer that came just `now`; times of day are compared in UTC."""
    directives = _directives(headers.get("cache-control", ""))
    storable = "no-store" not in directives
    varying = {name.strip().lower() for name in headers.get("vary", "").split(",")} - {""} - _CONSTANT
    if not storable or varying or "no-cache" in directives:
        return Lifetime(storable, 0.0)
    if not directives and "no-cache" in headers.get("pragma", "").lower():
        return Lifetime(storable, 0.0)
    sent = date(headers.get("date", "")) or now
    allowed = _max_age(directives) if "max-age" in directives else _until_expiry(headers, sent)
    age = max(_seconds(headers.get("age", "")) or 0, (now - sent).total_seconds(), 0.0)
    return Lifetime(storable, max(0.0, allowed - age))


def _directives(value: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, quoted, plain in _DIRECTIVE.findall(value):
        # Of a directive that comes twice, the shorter life counts.
        both = found.get(name.lower()), quoted or plain
        found[name.lower()] = min((one for one in both if one is not None), key=lambda one: _seconds(one) or 0)
    return found


def _max_age(directives: Mapping[str, str]) -> float:
    return _seconds(directives["max-age"]) or 0


def _until_expiry(headers: Mapping[str, str], sent: datetime) -> float:
    until = date(headers.get("expires", ""))
    return 0.0 if until is None else (until - sent).total_seconds()


def _seconds(value: str) -> int | None:
    """Return a count of seconds, None if `value` is none."""
    value = value.strip()
    return min(int(value[:20]), _MOST_SECONDS) if value.isascii() and value.isdigit() else None


def date(value: str) -> datetime | None:
    """Return the moment that a header names; None if it names none."""
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
