"""One body, whole: redirects, checks of the answer, stalls, and attempts until it is there or cannot be.

An attempt is watched by a deadline that every `Retry.stall_bytes` push further away, from the request to the last
byte; while the sink has no room it is suspended. Attempts start a body from its beginning; what they may not do is
decided by the sink.
"""

import math
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import ip_address

import anyio

from tfjs_fetch.bodies import Body, DocumentBody, HeadBody, Inflating, Surplus
from tfjs_fetch.config import Limits, Policy, Retry
from tfjs_fetch.content import HEAD_BYTES, recognise
from tfjs_fetch.errors import (
    RefusedError,
    StalledError,
    StatusError,
    TransportError,
    TruncatedError,
    UnreachableError,
    WrongContentError,
)
from tfjs_fetch.events import Event, Retrying, Stalled
from tfjs_fetch.redaction import redact
from tfjs_fetch.sinks import Sink
from tfjs_fetch.transport import Answer, Transport
from tfjs_fetch.urls import joined, origin

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MAX_REDIRECTS = 10
# Worth another try: timeouts, rate limits, trouble behind a proxy or CDN.
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524))
# Seconds beyond which a server's Retry-After is no pause any more but a refusal.
_MAX_RETRY_AFTER = 120.0
# Seconds to wait for a body that is not the one wanted: of an error, to say what it is, or of a redirect.
_MANNERS_SECONDS = 1.0


class Slots:
    """Bounds the transfers at one time, of each origin and in all; granted in the order they are asked for."""

    def __init__(self, limits: Limits) -> None:
        self._per_origin = limits.per_origin
        self._all = anyio.CapacityLimiter(limits.connections)
        self._origins: dict[tuple[str, str, int], anyio.CapacityLimiter] = {}

    def slot(self, url: str) -> "Slot":
        """Return a slot, not yet acquired, for a transfer from `url`."""
        key = origin(url)
        if key not in self._origins:
            self._origins[key] = anyio.CapacityLimiter(self._per_origin)
        return Slot((self._origins[key], self._all))


class Slot:
    """Leave for one transfer."""

    def __init__(self, limiters: Sequence[anyio.CapacityLimiter]) -> None:
        self._limiters = limiters
        self._held: list[anyio.CapacityLimiter] = []

    async def acquire(self) -> None:
        """Wait for the slot."""
        try:
            for limiter in self._limiters:
                await _borrow(limiter, self)
                self._held.append(limiter)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give the slot back, if it is held."""
        while self._held:
            self._held.pop().release_on_behalf_of(self)


async def _borrow(limiter: anyio.CapacityLimiter, borrower: object) -> None:
    """Wait for a token, where there is need to: older anyio fails when a wait that need not be is cancelled.

    On trio it lets trio's own WouldBlock out, so it is not asked where there is no token.
    """
    if limiter.available_tokens > 0:
        with suppress(anyio.WouldBlock):
            limiter.acquire_on_behalf_of_nowait(borrower)
            return
    await limiter.acquire_on_behalf_of(borrower)


@dataclass
class Downloader:
    """Downloads the files of one model. `headers` go to the model's own origin, `home`, and nowhere else.

    `raised` tells what the listener behind `notify` has raised, which is no failure of a transfer even if it looks like
    one. `named` are hosts that the user named beside `home`. `received` counts all bytes of bodies that came over the
    network.
    """

    transport: Transport
    retry: Retry
    policy: Policy
    home: tuple[str, str, int]
    headers: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    notify: Callable[[Event], None] = lambda event: None
    raised: Callable[[], BaseException | None] = lambda: None
    named: set[str] = field(default_factory=set)
    received: int = 0

    async def document(self, url: str, body: DocumentBody) -> None:
        """Bring a JSON or an archive at `url` into `body`."""
        await self.download(url, body, accept="gzip")

    async def download(self, url: str, body: Body, *, accept: str = "identity", index: int | None = None) -> None:
        """Bring the body at `url` into `body`; `index` is the shard's, for events.

        Raises the TransportError of the last attempt, or what `body` raises.
        """
        attempt = 1
        while True:
            try:
                return await self._attempt(url, body, accept)
            except TransportError as error:
                if error is self.raised():
                    raise
                if isinstance(error, StalledError):
                    self.notify(Stalled(self.source, redact(url), index, error.seconds))
                pause = pause_after(attempt, error, self.retry)
                if pause is None:
                    raise
                attempt += 1
                self.notify(Retrying(self.source, redact(url), attempt, pause, str(error)))
            await anyio.sleep(pause)

    async def size(self, url: str) -> int | None:
        """Return the length of the body at `url` as the server states it without sending it; None if it does not."""
        try:
            with anyio.move_on_after(self.retry.stall_seconds):
                async with self._answer("HEAD", url, "identity") as answer:
                    return _length(answer) if answer.status == 200 and _encoding(url, answer) is None else None
        except TransportError:
            pass
        return None

    async def _attempt(self, url: str, body: Body, accept: str) -> None:
        watch = _Watch(self.retry)
        try:
            with watch.scope:
                await self._transfer(url, body, accept, watch)
        finally:
            self.received += watch.received
        if watch.scope.cancelled_caught:
            raise StalledError(url, watch.received, self.retry.stall_seconds)

    async def _transfer(self, url: str, body: Body, accept: str, watch: "_Watch") -> None:
        async with self._answer("GET", url, accept) as answer:
            await _check_status(url, answer, watch)
            length, encoding = _length(answer), _encoding(url, answer)
            body.begin(None if encoding else length, _identity(answer))
            if body.complete:
                return body.end()
            inflating = Inflating(url, encoding, body) if encoding else None
            try:
                await answer.receive(watch.over(inflating or body))
                if inflating is not None:
                    await inflating.finish(watch.wait)
            except Surplus:
                return body.end(surplus=True)
            except TruncatedError as error:
                if error is self.raised():
                    raise
                # An encoding may end too early in a body that does not.
                expected = length if length is not None and error.received < length else None
                raise TruncatedError(url, error.received, expected) from error.__cause__
            if length is not None and watch.received < length:
                raise TruncatedError(url, watch.received, length)
        return body.end()

    @asynccontextmanager
    async def _answer(self, method: str, url: str, accept: str) -> AsyncIterator[Answer]:
        """Give the answer to a request at the end of all redirects."""
        target = url
        for _ in range(_MAX_REDIRECTS + 1):
            personal = origin(target) == self.home
            own = self.headers.items() if personal else ()
            headers = {name: value for name, value in own if name.lower() != "accept-encoding"}
            headers["accept-encoding"] = accept
            admit = partial(self._admit, target) if await self._is_guarded(target) else None
            async with self.transport.request(method, target, headers, personal=personal, admit=admit) as answer:
                location = answer.headers.get("location")
                if answer.status not in _REDIRECTS or location is None:
                    yield answer
                    return
                await _drain(answer)
            before, target = target, joined(target, location)
            await self.check_leap(before, target)
        raise RefusedError(url, f"it redirects more than {_MAX_REDIRECTS} times")

    async def check_leap(self, url: str, target: str) -> None:
        """Raise RefusedError if `url` must not lead to `target`: from https to http, or to a private host."""
        if origin(url)[0] == "https" and origin(target)[0] == "http":
            raise RefusedError(url, f"it leads from https to {redact(target)}")
        host = origin(target)[1]
        if await self._is_guarded(target) and await _is_private(host):
            raise _private(url, host)

    async def _is_guarded(self, target: str) -> bool:
        """Whether `target` must not be a private host: it was not named by the user, who is outside as well."""
        host = origin(target)[1]
        if self.policy.private_hosts or host == self.home[1] or host in self.named:
            return False
        return not await _is_private(self.home[1])

    def _admit(self, target: str, address: str) -> None:
        """Raise RefusedError if `target` turned out to be at a private address, whatever its name was resolved to."""
        if _is_private_address(address):
            raise _private(target, address)


def pause_after(attempt: int, error: TransportError, retry: Retry) -> float | None:
    """Return how many seconds to wait after a failed attempt (1 is the first), None if there is to be no other one."""
    if attempt >= retry.attempts or not _is_passing(error):
        return None
    pause = random.uniform(0.0, min(retry.max_delay, retry.delay * 2 ** min(attempt - 1, 63)))
    asked = error.retry_after if isinstance(error, StatusError) else None
    if asked is None:
        return pause
    return max(asked, pause) if asked <= _MAX_RETRY_AFTER else None


def retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, given as seconds or as a date; None if it says nothing."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


class _Watch:
    """Counts what arrives, and moves the deadline of `scope` while it does."""

    def __init__(self, retry: Retry) -> None:
        self.received = 0
        self.scope = anyio.CancelScope(deadline=anyio.current_time() + retry.stall_seconds)
        self._retry = retry
        self._fresh = 0
        self._sink: Sink

    def over(self, sink: Sink) -> Sink:
        """Return the sink to give to a transport in place of `sink`."""
        self._sink = sink
        return self

    def get_buffer(self) -> memoryview:
        return self._sink.get_buffer()

    def advance(self, count: int) -> None:
        self.received += count
        self._fresh += count
        if self._fresh >= self._retry.stall_bytes:
            self._fresh = 0
            self._restart()
        self._sink.advance(count)

    async def wait(self) -> None:
        self.scope.deadline = math.inf
        await self._sink.wait()
        self._restart()

    def _restart(self) -> None:
        deadline = anyio.current_time() + self._retry.stall_seconds
        # Moving a deadline costs a timer, so it is not done for every chunk.
        if abs(deadline - self.scope.deadline) >= self._retry.stall_seconds / 16:
            self.scope.deadline = deadline


def _is_passing(error: TransportError) -> bool:
    match error:
        case UnreachableError():
            return not error.final
        case StatusError():
            return error.status in _PASSING
        case TruncatedError() | StalledError():
            return True
        case _:
            return False


async def _check_status(url: str, answer: Answer, watch: _Watch) -> None:
    if answer.status in (200, 203):
        return
    head = HeadBody()
    with suppress(Surplus, TransportError), anyio.move_on_after(_MANNERS_SECONDS):
        encoding = _encoding(url, answer)
        await answer.receive(watch.over(Inflating(url, encoding, head) if encoding else head))
    after = retry_after(answer.headers.get("retry-after"), datetime.now(UTC))
    raise StatusError(url, answer.status, recognise(bytes(head.data)), after)


async def _drain(answer: Answer) -> None:
    """Read the short body of a redirect, so that its connection can be used again; others cost the connection."""
    if (length := _length(answer)) is not None and length < HEAD_BYTES:
        with suppress(Surplus, TransportError), anyio.move_on_after(_MANNERS_SECONDS):
            await answer.receive(HeadBody())


def _length(answer: Answer) -> int | None:
    """Return the Content-Length; None if there is none, or none that can be believed."""
    value = answer.headers.get("content-length", "").strip()
    if "transfer-encoding" in answer.headers or not (value.isascii() and value.isdigit()):
        return None
    return int(value[:20])


def _encoding(url: str, answer: Answer) -> str | None:
    """Return "gzip" or "deflate" if the body is encoded so, None if it is not."""
    value = answer.headers.get("content-encoding", "").strip().lower()
    if value in ("", "identity"):
        return None
    if value in ("gzip", "x-gzip"):
        return "gzip"
    if value == "deflate":
        return value
    raise WrongContentError(url, f"a body encoded as {value[:40]}, which was not asked for,")


def _identity(answer: Answer) -> tuple[str, ...]:
    """Return what the server calls this version of the file."""
    return tuple(answer.headers.get(name, "") for name in ("etag", "last-modified", "content-length"))


async def _is_private(host: str) -> bool:
    """Whether `host` is, or has an address that is, not on the public internet."""
    try:
        addresses = [host] if _is_address(host) else await _addresses(host.rstrip("."))
    except (OSError, ValueError):
        return False  # Unknown here: a proxy may know it, else the request will fail.
    return any(_is_private_address(address) for address in addresses)


def _is_private_address(address: str) -> bool:
    """Whether an IP address is not one of the public internet; IPv4 may come in the clothes of IPv6."""
    found = ip_address(address.partition("%")[0])
    return not (getattr(found, "ipv4_mapped", None) or found).is_global


def _private(url: str, host: str) -> RefusedError:
    return RefusedError(url, f"it leads to the private host {host}; Policy(private_hosts=True) allows that")


async def _addresses(host: str) -> Sequence[str]:
    return [str(found[4][0]) for found in await anyio.getaddrinfo(host, None)]


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
