"""One body, or a part of one: checks of the answer, stalls, and attempts until it is there or cannot be.

An attempt is watched by a deadline that every `Retry.stall_bytes` push further away, from the request to the last
byte; while the sink has no room it is suspended. Where the server has a strong name for the version of the file, an
attempt goes on where the last one ended, and what is said of the answer is checked again; else it starts from the
beginning, and the sink compares.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import anyio

from tfjs_fetch.bodies import Body, DocumentBody, Glance, HeadBody, Inflating, Surplus
from tfjs_fetch.config import Retry
from tfjs_fetch.content import recognise
from tfjs_fetch.errors import (
    StalledError,
    StatusError,
    TransportError,
    TruncatedError,
    UnreachableError,
)
from tfjs_fetch.events import Event, Retrying, Stalled
from tfjs_fetch.origins import Origin
from tfjs_fetch.redaction import redact
from tfjs_fetch.representation import Representation, Version, content_encoding, described, retry_after
from tfjs_fetch.requesting import MANNERS_SECONDS, Requester
from tfjs_fetch.sinks import Sink
from tfjs_fetch.transport import Answer

# How a document may be encoded. Each encoding has a name of its own for one and the same version.
DOCUMENT_CODING = "gzip"
# Worth another try: timeouts, rate limits, trouble behind a proxy or CDN.
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524))
# What an origin answers that has too much to do.
_OVERLOADED = frozenset((429, 503))
# What a range is answered with that does not fit the file any more.
_NO_SUCH_PART = frozenset((412, 416))
_NOT_MODIFIED = 304
# How the length of a file is asked for, the second way if the first is not understood.
_SIZE_REQUESTS = (
    ("HEAD", {"accept-encoding": "identity"}),
    ("GET", {"accept-encoding": "identity", "range": "bytes=0-0"}),
)
_NO_HEAD = frozenset((403, 405, 501))
# Seconds beyond which a server's Retry-After is no pause any more but a refusal.
_MAX_RETRY_AFTER = 120.0
# An attempt that brought so much, or this share of the file, was none in vain: they are counted anew.
_REAL_PROGRESS_BYTES = 2**20
_REAL_PROGRESS = 0.05


class NoParts(Exception):  # noqa: N818 - a turn of events, not an error: nobody outside sees it
    """The file is not to be had in parts any more: it must be asked for as a whole, by one stream alone."""


class NotModified(Exception):  # noqa: N818 - likewise
    """The file is still of the version that is known; `version` is what the server says of it now."""

    def __init__(self, version: Version) -> None:
        super().__init__(version)
        self.version = version


class _AskOtherwise(Exception):  # noqa: N818 - likewise
    """The request was not understood as it was meant; there is another way to ask."""


@dataclass
class Target:
    """A file on its way. `index` is the shard's, for events; None for documents.

    `version` is that of the bytes that are there; None before the first answer. `streams` counts the streams that
    receive parts of it now, and `divisible` tells whether parts can be had. Unless it is `lone` several parts are
    wanted. With `known` the file is wanted only if it is not of that version any more.
    """

    url: str
    index: int | None = None
    accept: str = "identity"
    version: Version | None = None
    divisible: bool = True
    streams: int = 1
    lone: bool = True
    conditional: bool = True  # whether the server understands If-Range
    known: Version | None = None

    @property
    def validator(self) -> str | None:
        """What the server's promise of the same version can rest on."""
        return None if self.version is None else self.version.validator


@dataclass
class Downloader:
    """Downloads the files of one model.

    `raised` tells what the listener behind `notify` has raised, which is no failure of a transfer even if it looks like
    one. `received` counts all bytes of bodies that came over the network.
    """

    requester: Requester
    retry: Retry
    source: str = ""
    notify: Callable[[Event], None] = lambda event: None
    raised: Callable[[], BaseException | None] = lambda: None
    received: int = 0

    async def document(self, url: str, body: DocumentBody, known: Version | None = None) -> Version:
        """Bring a JSON or an archive into `body` and return its version; NotModified if that is the `known` one."""
        target = Target(url, accept=DOCUMENT_CODING, known=known)
        await self.download(target, body)
        assert target.version is not None
        return target.version

    async def current(self, url: str, known: Version, *, accept: str = "identity") -> tuple[bool, Version]:
        """Return whether the file is still of the `known` version, and what the server says of it now."""
        glance = Glance()
        try:
            await self.download(Target(url, accept=accept, known=known), glance)
        except NotModified as unchanged:
            return True, unchanged.version
        # Not every server understands the question.
        return glance.version == known, glance.version

    async def download(self, target: Target, body: Body, *, patient: bool = True) -> None:
        """Bring what is missing in `body` into it, in parts only where an attempt failed or that is what is missing.

        Raises the TransportError of the last attempt, or what `body` raises; NoParts if it is a part that is not to be
        had as such, while other streams bring others. If it is not `patient` there is only one attempt.
        """
        attempt, progress, origin, seeks = 1, body.progress, self._origin(target), False
        try:
            while True:
                try:
                    return await self._attempt(target, body)
                except _AskOtherwise:
                    continue
                except NoParts:
                    target.divisible = False
                    if target.streams > 1:
                        raise
                    continue
                except TransportError as error:
                    if error is self.raised():
                        raise
                    if isinstance(error, StalledError):
                        self.notify(Stalled(self.source, redact(target.url), target.index, error.seconds))
                    if not patient:
                        raise
                    advanced = body.progress - progress >= _real_progress(target.version, self.retry)
                    if advanced:
                        attempt, progress = 1, body.progress
                    pause = pause_after(attempt, error, self.retry)
                    if pause is None:
                        raise
                    waited = isinstance(error, UnreachableError) and not seeks and await origin.was_found()
                    seeks = seeks or (isinstance(error, UnreachableError) and not waited)
                    # What brought much, and what waited for another's attempts, is nothing to be counted.
                    if not advanced and not waited and not origin.retry():
                        raise
                    attempt += 1
                    self.notify(Retrying(self.source, redact(target.url), attempt, pause, str(error)))
                await anyio.sleep(pause)
        finally:
            if seeks:
                origin.found()

    def _origin(self, target: Target) -> Origin:
        return self.requester.origins.at(target.url)

    async def size(self, url: str) -> int | None:
        """Return the length of the body at `url` as the server states it without sending it; None if it does not.

        Raises the TransportError of the last attempt if it could not answer.
        """
        attempt = 1
        while True:
            try:
                return await self._stated_size(url)
            except TransportError as error:
                pause = pause_after(attempt, error, self.retry)
                if not _is_passing(error) or isinstance(error, StalledError):
                    return None
                if pause is None or not self.requester.origins.at(url).retry():
                    raise
                attempt += 1
                self.notify(Retrying(self.source, redact(url), attempt, pause, str(error)))
            await anyio.sleep(pause)

    async def _stated_size(self, url: str) -> int | None:
        unreachable: UnreachableError | None = None
        for method, headers in _SIZE_REQUESTS:
            try:
                answered, size = await self._size_by(method, url, headers)
            except UnreachableError as error:
                unreachable = error
                continue
            if answered:
                return size
        if unreachable is not None:
            raise unreachable
        return None

    async def _size_by(self, method: str, url: str, headers: Mapping[str, str]) -> tuple[bool, int | None]:
        """Return whether the method is understood, and the length that is stated."""
        watch = _Watch(self.retry)
        with watch.scope:
            async with self.requester.answer(method, url, headers, watch.suspended) as (answer, origin):
                after = _heed(answer, origin)
                if answer.status in _PASSING:
                    raise StatusError(url, answer.status, None, after)
                if answer.status not in (200, 206):
                    return answer.status not in _NO_HEAD, None
                found = described(url, answer.headers, partial=answer.status == 206)
                return True, None if found is None or found.encoding else found.version.size
        raise StalledError(url, 0, self.retry.stall_seconds)

    async def _attempt(self, target: Target, body: Body) -> None:
        watch = _Watch(self.retry)
        try:
            with watch.scope:
                await self._transfer(target, body, watch)
        finally:
            self.received += watch.received
        if watch.scope.cancelled_caught:
            raise StalledError(target.url, watch.received, self.retry.stall_seconds)

    async def _transfer(self, target: Target, body: Body, watch: "_Watch") -> None:
        start, stop = body.missing
        # What is encoded on the way has another length there.
        named = target.version if target.validator is not None else None
        if start and start == (stop or (named.size if named else None)):
            return body.end()  # only its end was missing
        asked = self._range(target, start, stop)
        if not asked and target.streams > 1:
            raise NoParts  # Two streams might be at the same place.
        headers = {"accept-encoding": target.accept} | asked | _condition(target.known)
        sent = anyio.current_time()
        async with self.requester.answer("GET", target.url, headers, watch.suspended) as (answer, origin):
            watch.idle = origin.idle
            partial = answer.status == 206
            if asked and answer.status in _NO_SUCH_PART:
                raise NoParts
            if target.known is not None and answer.status == _NOT_MODIFIED:
                await answer.receive(HeadBody())  # nothing, by which the connection can be used again
                self._take_unchanged(target, target.known, answer)
            await self._check_status(target, answer, origin, watch, partial=bool(asked))
            found = described(target.url, answer.headers, partial=partial)
            if found is None or (partial and not _continues(found, start, target)):
                raise NoParts
            if partial and found.version.validator is None and target.version is None and not target.lone:
                raise NoParts  # The next part might be of another version.
            found = replace(found, version=replace(found.version, asked=sent))
            if asked and not partial:
                self._take_whole(target, found, start)
            if partial:
                self._origin(target).gave(part=True)
            if not partial or target.version is None:
                target.version = found.version
            target.divisible = target.divisible and found.divisible
            part = (found.start, found.stop) if partial and found.stop is not None else None
            body.begin(None if found.encoding else found.version.size, found.version, part)
            if body.complete:
                return body.end()
            whole = await self._receive(target, answer, found, body, watch)
        return body.end(surplus=not whole)

    async def _receive(
        self, target: Target, answer: Answer, found: Representation, body: Body, watch: "_Watch"
    ) -> bool:
        """Receive the body; return False if more comes than is wanted. Raises TruncatedError if it ends early."""
        url, size = target.url, found.version.size
        length = None if found.stop is None else found.stop - found.start
        before = watch.received
        inflating = Inflating(url, found.encoding, body) if found.encoding else None
        try:
            await answer.receive(watch.over(inflating or body))
            if inflating is not None:
                await inflating.finish(watch.wait)
        except Surplus:
            return False
        except TruncatedError as error:
            if error is self.raised():
                raise
            # An encoding may end too early in a body that does not.
            expected = size if length is not None and error.received < length else None
            raise TruncatedError(url, found.start + error.received, expected) from error.__cause__
        if length is not None and watch.received - before < length:
            raise TruncatedError(url, found.start + watch.received - before, size)
        return True

    def _take_unchanged(self, target: Target, known: Version, answer: Answer) -> None:
        """Raise NotModified, or ask without a condition if the answer names another version than was asked for."""
        self._origin(target).found()
        self._origin(target).speed_up()
        found = described(target.url, answer.headers, partial=False)
        etag = answer.headers.get("etag", "")
        if found is None or (etag and known.etag and _opaque(etag) != _opaque(known.etag)):
            target.known = None
            raise _AskOtherwise
        raise NotModified(found.version)

    def _take_whole(self, target: Target, found: Representation, start: int) -> None:
        """Take note that the whole comes although a part was asked for. Raises NoParts if others bring parts of it."""
        if target.version in (None, found.version):
            much = start > (found.version.size or 0) / 2
            if much and target.streams == 1 and target.validator is not None and target.conditional:
                # Some servers know ranges, but not If-Range. Then what they say of the part has to do.
                target.conditional = False
                raise _AskOtherwise
            self._origin(target).gave(part=False)
            target.divisible = False
        if target.streams > 1:
            raise NoParts

    def _range(self, target: Target, start: int, stop: int | None) -> dict[str, str]:
        """Return the headers that ask for a part; none if it has to be the whole."""
        if (
            (start == 0 and stop is None)
            or not target.divisible
            or self.requester.origins.at(target.url).ranges is False
        ):
            return {}
        wanted = {"range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        if target.version is None:  # the first request for chosen weights: there is nothing yet that it has to fit
            return wanted if stop is not None else {}
        if target.validator is None:
            return {}
        return wanted | {"if-range": target.validator} if target.conditional else wanted

    async def _check_status(
        self, target: Target, answer: Answer, origin: Origin, watch: "_Watch", *, partial: bool
    ) -> None:
        self._origin(target).found()
        if answer.status in (200, 203) or (answer.status == 206 and partial):
            origin.speed_up()
            return
        after = _heed(answer, origin)
        head = HeadBody()
        with suppress(Surplus, TransportError), anyio.move_on_after(MANNERS_SECONDS):
            encoding = content_encoding(target.url, answer.headers)
            await answer.receive(watch.over(Inflating(target.url, encoding, head) if encoding else head))
        raise StatusError(target.url, answer.status, recognise(bytes(head.data)), after)


def _heed(answer: Answer, origin: Origin) -> float | None:
    """Leave `origin` alone as its answer wants it; return the seconds that it asks for."""
    after = retry_after(answer.headers.get("retry-after"), datetime.now(UTC))
    if answer.status in _OVERLOADED:
        origin.slow_down()
    if after is not None and answer.status in _PASSING and after <= _MAX_RETRY_AFTER:
        origin.pause(after)
    return after


def pause_after(attempt: int, error: TransportError, retry: Retry) -> float | None:
    """Return how many seconds to wait after a failed attempt (1 is the first), None if there is to be no other one."""
    if attempt >= retry.attempts or not _is_passing(error):
        return None
    pause = random.uniform(0.0, min(retry.max_delay, retry.delay * 2 ** min(attempt - 1, 63)))
    asked = error.retry_after if isinstance(error, StatusError) else None
    if asked is None:
        return pause
    return max(asked, pause) if asked <= _MAX_RETRY_AFTER else None


def _condition(known: Version | None) -> dict[str, str]:
    """Return the headers that ask for a file only if it is not of the `known` version."""
    if known is None:
        return {}
    return {"if-none-match": known.etag} if known.etag else {"if-modified-since": known.last_modified}


def _opaque(etag: str) -> str:
    """Return what two entity tags have to have in common: whether they are weak does not matter for a whole file."""
    return etag.strip().removeprefix("W/")


def _real_progress(version: Version | None, retry: Retry) -> float:
    size = None if version is None else version.size
    share = math.inf if size is None else size * _REAL_PROGRESS
    # Less than what saves a transfer from being called stalled is no progress, however small the file.
    return max(retry.stall_bytes, min(_REAL_PROGRESS_BYTES, share))


def _continues(found: Representation, start: int, target: Target) -> bool:
    """Whether a part can be put to the bytes that are there: it begins where they end, and is of their version."""
    if found.start != start:
        return False
    if target.version is None:
        return True
    # With If-Range the server has compared, and need not say much (RFC 9110, 15.3.7).
    return found.version.may_be(target.version) if target.conditional else found.version == target.version


class _Watch:
    """Counts what arrives, and moves the deadline of `scope` while it does."""

    def __init__(self, retry: Retry) -> None:
        self.received = 0
        self.scope = anyio.CancelScope(deadline=anyio.current_time() + retry.stall_seconds)
        self._retry = retry
        self._fresh = 0
        self.idle: Callable[[], AbstractContextManager[None]] = nullcontext  # while the sink is waited for
        self._sink: Sink

    def over(self, sink: Sink) -> Sink:
        """Return the sink to give to a transport in place of `sink`."""
        self._sink = sink
        return self

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Let time pass: something is waited for that is no fault of the server."""
        self.scope.deadline = math.inf
        yield
        self._restart()

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
        with self.suspended(), self.idle():
            await self._sink.wait()

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
