"""The fast lane's inner half: one request and its answer over a connection on asyncio.

Requests and heads go through h11, and so do bodies without a length. A body with a Content-Length passes it by: the
event loop receives into the buffers of a sink, and nothing in Python touches the bytes. Where the sink has no room, or
nobody receives, the connection is not read, and the server has to wait.

A connection carries one exchange at a time and is kept for another only after one without any oddity. Whatever arrives
between two exchanges ends it: nothing that belongs to one answer can be taken for a part of the next.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextvars import Context, copy_context
from typing import TypeAlias

import anyio.lowlevel
import h11
import httpx

try:
    import sniffio
except ImportError:  # httpx and anyio are giving it up
    sniffio = None  # type: ignore[assignment]  # it is asked for below

from tfjs_fetch.connection import SCRATCH_BYTES, Connection
from tfjs_fetch.sinks import NO_ROOM, Sink

# The head of an answer, and the headers of a request, in bytes.
Head: TypeAlias = h11.Response
RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

# An extension of answers: the exchange itself, whose `receive` brings the body into a sink.
EXCHANGE = "tfjs_fetch.exchange"

# Bytes received at once at most: the loop is not held for longer by one connection.
_RECEIVE_BYTES = 1024 * 1024
# Informational answers that may come before the final one.
_MAX_INFORMATIONAL = 16
# Headers that say where a body ends: more than one in an answer is odd, and so are several lengths in one, and a line
# that goes on in the next one, as was once allowed (RFC 9112, 5.2).
_FRAMING = re.compile(rb"(?im)^(?:content-length|transfer-encoding):")
_ODD = re.compile(rb"(?im)^content-length:.*,|^[ \t]")


class Unanswered(Exception):  # noqa: N818 - a turn of events, not an error: nobody outside sees it
    """The connection ended before a byte of the answer came."""


class Exchange(httpx.AsyncByteStream):
    """One request and its answer, on a connection that is used for nothing else meanwhile.

    The connection tells it what arrives (`received`, `ended`) and asks where to put it (`buffer`).
    """

    def __init__(
        self, connection: Connection, give_back: Callable[[Connection, bool], None], patience: float | None
    ) -> None:
        self.buffer = connection.scratch
        self.connection = connection
        self._give_back, self._patience = give_back, patience
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=SCRATCH_BYTES)
        self._context = _context_of_task()
        self._head = bytearray()  # all that came up to the end of the head, and what came with it
        self._length: int | None = None  # of the body; None where h11 finds its end
        self._left = 0  # bytes of a body with a length that are not yet in a sink
        self.count = 0  # bytes of the body that went to sinks so far
        self._rest = NO_ROOM  # bytes of the body that are here, but not yet in a sink
        self._sink: Sink | None = None  # where bytes go as they arrive
        self._answered = self._complete = self._reusable = self._ended = self._closed = False
        self._failure: BaseException | None = None  # what the sink raised
        self._reason: Exception | None = None  # why the connection ended, if there is a reason
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._progress = 0.0  # when something came last
        connection.exchange = self

    async def ask(self, method: str, target: bytes, headers: RawHeaders, content: bytes = b"") -> Head:
        """Send a request and return the head of the answer."""
        if not self.connection.is_open:
            raise Unanswered
        try:
            self.connection.write(self._encoded(method, target, headers, content))
            head = await self._answer()
        except h11.ProtocolError as error:
            raise _as_httpx(error) from error
        trailing = self._h11.trailing_data[0]
        raw = bytes(self._head[: len(self._head) - len(trailing)])
        self._head.clear()
        self._answered, self._reusable = True, _is_plain(head, raw)
        self._length = _body_length(head, method)
        if self._length is not None:
            self._left = self._length
            self._complete = not self._left
            self._keep(trailing)
        else:
            self.connection.read(on=False)
        return head

    async def receive(self, sink: Sink) -> None:
        """Bring the body into `sink`; what that raises comes out unchanged.

        Raises httpx.RemoteProtocolError or ReadError if the body ends early, ReadTimeout if nothing comes for too long.
        """
        try:
            while not await self._fill(sink):
                await sink.wait()
        except BaseException:
            self.connection.abort()
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunk = _Chunk()
        while True:
            complete = await self._fill(chunk)
            if chunk.count:
                yield chunk.take()
            if complete:
                return

    def finish(self) -> bool:
        """Give the connection back if the body was received whole and it can be used again; return False if not."""
        if self._closed or not (self._complete and self._reusable and self.connection.is_open):
            return self._closed
        self._closed, self.connection.exchange = True, None
        self._give_back(self.connection, True)
        return True

    async def aclose(self) -> None:
        """Give the connection back if the body was received to its end; else end it."""
        if self._closed:
            return
        self._closed = True
        self.connection.exchange = None
        self._give_back(self.connection, self._complete and self._reusable)
        if not self.connection.is_open:
            await self.connection.lost.wait()

    def received(self, count: int) -> None:
        """Take note that `count` bytes were written to `buffer`."""
        self._progress = asyncio.get_running_loop().time()
        if self._sink is not None:
            self._advance(self._sink, count)
        elif not self._answered or (self._length is None and not self._complete):
            self._pass_on(count)
        else:
            self._keep(bytes(self._rest) + bytes(self.connection.scratch[:count]))
            self.connection.read(on=False)

    def ended(self, error: Exception | None) -> None:
        """Take note that nothing more will come."""
        self._ended, self._reason = True, error
        self._wake()

    def _encoded(self, method: str, target: bytes, headers: RawHeaders, content: bytes) -> bytes:
        parts = [self._h11.send(h11.Request(method=method, target=target, headers=headers))]
        if content:
            parts.append(self._h11.send(h11.Data(data=content)))
        parts.append(self._h11.send(h11.EndOfMessage()))
        return b"".join(part for part in parts if part)

    async def _answer(self) -> h11.Response:
        """Return the head of the final answer."""
        informational = 0
        while True:
            event = self._h11.next_event()
            if isinstance(event, h11.Response):
                return event
            if isinstance(event, h11.InformationalResponse):
                informational += 1
                if informational > _MAX_INFORMATIONAL or event.status_code == 101:
                    raise httpx.RemoteProtocolError("too many informational answers, or one that changes the protocol")
            elif event is not h11.NEED_DATA:
                raise httpx.RemoteProtocolError("the connection was closed before an answer")
            else:
                await self._more()

    async def _fill(self, sink: Sink) -> bool:
        """Bring bytes into `sink` until it has no room, or the body is complete: then return True."""
        while True:
            if not self._pour(sink):
                return False
            if self._complete:
                return True
            if self._length is None:
                await self._read_framed()
            elif not await self._receive_into(sink):
                return False

    def _pour(self, sink: Sink) -> bool:
        """Bring what is here into `sink`; return False if it has no room for all."""
        while self._rest:
            buffer = sink.get_buffer()
            if not buffer:
                self.connection.read(on=False)
                return False
            count = min(len(buffer), len(self._rest))
            buffer[:count], self._rest = self._rest[:count], self._rest[count:]
            self._take_off(count)
            sink.advance(count)
        return True

    async def _receive_into(self, sink: Sink) -> bool:
        """Have bytes received into `sink`; return False if it has no room."""
        if not self._aim(sink):
            return False
        self._sink = sink
        try:
            self.connection.read(on=True)
            await self._wait()
        finally:
            self._sink, self.buffer = None, self.connection.scratch
        if self._failure is not None:
            raise self._failure
        if self._ended and not self._complete:
            raise self._early_end()
        return True

    def _advance(self, sink: Sink, count: int) -> None:
        self._take_off(count)
        try:
            waiting = not self._context.run(self._go_on, sink, count)
        except BaseException as error:  # noqa: BLE001 - raised again by the task that receives
            self._failure, waiting = error, True
            self.connection.read(on=False)
        if waiting:
            self._sink, self.buffer = None, self.connection.scratch
            self._wake()

    def _go_on(self, sink: Sink, count: int) -> bool:
        sink.advance(count)
        return not self._complete and self._aim(sink)

    def _aim(self, sink: Sink) -> bool:
        """Have the next bytes written to `sink`; return False if it has no room."""
        buffer = sink.get_buffer()
        if not buffer:
            self.connection.read(on=False)
            return False
        self.buffer = buffer[: min(self._left, _RECEIVE_BYTES)]
        return True

    def _take_off(self, count: int) -> None:
        self.count += count
        if self._length is not None:
            self._left -= count
            self._complete = not self._left

    def _keep(self, data: bytes) -> None:
        """Keep what came of a body with a length until there is a sink; more than that is an oddity."""
        self._reusable = self._reusable and len(data) <= self._left
        self._rest = memoryview(data)[: self._left]

    def _pass_on(self, count: int) -> None:
        data = self.connection.scratch[:count]
        if not self._answered:
            self._head += data
        else:
            self.connection.read(on=False)
        self._h11.receive_data(bytes(data))
        self._wake()

    async def _read_framed(self) -> None:
        """Let h11 read some of the body."""
        try:
            event = self._h11.next_event()
        except h11.ProtocolError as error:
            raise _as_httpx(error) from error
        if isinstance(event, h11.Data):
            self._rest = memoryview(bytes(event.data))
        elif event is h11.NEED_DATA:
            await self._more()
        else:
            self._complete = True
            self._reusable = self._reusable and not self._h11.trailing_data[0]

    async def _more(self) -> None:
        """Wait until h11 has more to read, or knows that there is no more."""
        if not self._ended:
            self.connection.read(on=True)
            await self._wait()
        elif not self._answered and not self._head:
            raise Unanswered from self._reason
        elif self._reason is not None:
            raise self._early_end()
        else:
            self._h11.receive_data(b"")

    def _early_end(self) -> httpx.TransportError:
        if self._reason is not None:
            return httpx.ReadError(str(self._reason))
        return httpx.RemoteProtocolError("peer closed connection without sending complete message body")

    async def _wait(self) -> None:
        """Wait until something has happened that the task has to deal with."""
        if self._ended:
            return
        loop = asyncio.get_running_loop()
        self._progress = loop.time()
        self._waiter = loop.create_future()
        self._look_after(self._patience)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self._timer is not None:
                self._timer.cancel()

    def _look_after(self, seconds: float | None) -> None:
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Give up waiting if nothing came for too long, else look again when that may be."""
        assert self._patience is not None
        left = self._progress + self._patience - asyncio.get_running_loop().time()
        if left > 0:
            self._look_after(left)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(httpx.ReadTimeout(f"nothing came for {self._patience} seconds"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _context_of_task() -> Context:
    """Return the context of the task that runs, for what is called outside of it on its behalf: sinks, and listeners.

    They find the caller's variables in it, and anyio finds out where it is.
    """
    context = copy_context()
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context


class _Chunk:
    """A sink that has room for what arrives at once."""

    def __init__(self) -> None:
        self.count = 0
        self._memory = memoryview(bytearray(SCRATCH_BYTES))

    def get_buffer(self) -> memoryview:
        return NO_ROOM if self.count else self._memory

    def advance(self, count: int) -> None:
        self.count = count

    async def wait(self) -> None:
        await anyio.lowlevel.checkpoint()

    def take(self) -> bytes:
        """Return what came, and have room again."""
        count, self.count = self.count, 0
        return bytes(self._memory[:count])


def _body_length(head: h11.Response, method: str) -> int | None:
    """Return how long the body is that follows `head`; None if only its own end tells (RFC 9112, 6.3)."""
    if method == "HEAD" or head.status_code in (204, 304):
        return 0
    headers = dict(head.headers)
    length = headers.get(b"content-length")
    return None if length is None or b"transfer-encoding" in headers else int(length)


def _is_plain(head: h11.Response, raw: bytes) -> bool:
    """Whether an answer is without oddity, and leaves the connection open; `raw` is its head as it came."""
    closes = b"close" in dict(head.headers).get(b"connection", b"").lower() or head.http_version != b"1.1"
    return not closes and len(_FRAMING.findall(raw)) <= 1 and _ODD.search(raw) is None


def _as_httpx(error: h11.ProtocolError) -> httpx.ProtocolError:
    """Return httpx's error for one of h11."""
    kind = httpx.LocalProtocolError if isinstance(error, h11.LocalProtocolError) else httpx.RemoteProtocolError
    return kind(str(error))
