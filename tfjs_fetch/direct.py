"""The fast lane: an httpx transport on asyncio whose bodies the system writes straight into the memory meant for them.

This is its outer half: connections are made, kept and found again. What happens on them is told in `exchange`.
"""

import asyncio
import select
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import anyio
import anyio.to_thread
import httpx

from tfjs_fetch.connection import Connection
from tfjs_fetch.dialing import dial
from tfjs_fetch.exchange import EXCHANGE, Exchange, Head, RawHeaders, Unanswered

# An extension of requests: a function that is given the peer's IP address before anything is sent there, and may raise.
ADMIT = "tfjs_fetch.admit"

# Seconds, by httpx's names: "connect", "read", "pool".
Timeouts: TypeAlias = Mapping[str, float | None]


def is_on_asyncio() -> bool:
    """Whether the caller is a task of asyncio."""
    try:
        return asyncio.current_task() is not None  # None inside trio as a guest of asyncio
    except RuntimeError:
        return False


class DirectTransport(httpx.AsyncBaseTransport):
    """Sends requests over connections of its own: at most `per_origin` at a time to each origin, None without limit.

    Connections are kept for `keepalive` seconds after their last use. It serves the event loop it is first used on.
    Without an `ssl_context` the authorities of the environment are trusted, which are read when they are needed.
    """

    def __init__(
        self, ssl_context: ssl.SSLContext | None = None, *, per_origin: int | None = None, keepalive: float = 30.0
    ) -> None:
        self._ssl_context = ssl_context
        self._per_origin = per_origin
        self._keepalive = keepalive
        self._pools: dict[Place, _Pool] = {}
        self._swept = 0.0  # when the pools were last looked through
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return the answer, its body unread; `extensions[EXCHANGE]` brings that into a sink.

        Raises httpx's exceptions, and what the function behind ADMIT raises.
        """
        url = request.url
        if url.scheme not in ("http", "https") or not url.host:
            raise httpx.UnsupportedProtocol(f"{url.scheme} is not http or https, or there is no host")
        secure = url.scheme == "https"
        port = url.port or (443 if secure else 80)
        place = Place(secure, url.raw_host.decode(), port, request.extensions.get("sni_hostname"))
        head, exchange = await self.ask(
            place,
            request.method,
            url.raw_path,
            request.headers.raw,
            content=await request.aread(),
            timeouts=request.extensions.get("timeout", {}),
            admit=request.extensions.get(ADMIT),
        )
        extensions = {"http_version": b"HTTP/" + head.http_version, "reason_phrase": head.reason, EXCHANGE: exchange}
        items = head.headers.raw_items()
        return httpx.Response(head.status_code, headers=items, stream=exchange, extensions=extensions)

    async def ask(
        self,
        place: "Place",
        method: str,
        target: bytes,
        headers: RawHeaders,
        *,
        content: bytes = b"",
        timeouts: Timeouts,
        admit: Callable[[str], None] | None = None,
    ) -> tuple[Head, Exchange]:
        """Send a request and return the head of the answer and the exchange, which is to be closed.

        A request is sent once more where the server has closed a kept connection in the meantime.
        """
        if self._closed:
            raise httpx.ConnectError("the client is closed")
        self._sweep()
        pool = self._pools.get(place)
        if pool is None:
            pool = self._pools[place] = _Pool(anyio.Semaphore(self._per_origin) if self._per_origin else _Always())
        with _timed("pool", timeouts, httpx.PoolTimeout):
            await pool.admission.acquire()
        try:
            while True:
                kept = pool.kept(self._keepalive)
                connection = kept or await self._connect(place, timeouts)
                exchange = Exchange(connection, pool.give_back, timeouts.get("read"))
                try:
                    if admit is not None:
                        admit(connection.peer[0])
                    return await exchange.ask(method, target, headers, content), exchange
                except Unanswered as error:
                    connection.abort()
                    if kept is None or method not in ("GET", "HEAD"):
                        raise httpx.RemoteProtocolError("Server disconnected without sending a response.") from error
                except BaseException:
                    connection.abort()
                    raise
        except BaseException:
            pool.admission.release()
            raise

    async def trust(self) -> ssl.SSLContext:
        """Return whom it trusts. Raises ImportError, OSError or ValueError if the environment is wrong about that."""
        if self._ssl_context is None:
            # Reading the certificates takes 20 ms, and the first time imports 60 more.
            self._ssl_context = await anyio.to_thread.run_sync(httpx.create_ssl_context, abandon_on_cancel=True)
        return self._ssl_context

    async def aclose(self) -> None:
        """Close the kept connections; one in use is closed when its answer is."""
        self._closed = True
        closing = [connection for pool in self._pools.values() for connection in pool.close()]
        self._pools.clear()
        # All are ended by now: asyncio may cancel this waiting, whoever shields it.
        for connection in closing:
            await connection.lost.wait()

    def _sweep(self) -> None:
        """End connections that were not used for long, whoever they lead to."""
        now = asyncio.get_running_loop().time()
        if now >= self._swept + self._keepalive:
            self._swept = now
            for pool in self._pools.values():
                pool.sweep(self._keepalive)

    async def _connect(self, place: "Place", timeouts: Timeouts) -> Connection:
        try:
            with _timed("connect", timeouts, httpx.ConnectTimeout):
                reached = await dial(place.host, place.port)
                try:
                    _, connection = await asyncio.get_running_loop().create_connection(Connection, sock=reached)
                except BaseException:
                    reached.close()
                    raise
                if place.secure:
                    await connection.secure(await self.trust(), place.name or place.host)
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return connection


class Place(NamedTuple):
    """Where to connect to; the name that the server's certificate must have, if that is not `host`."""

    secure: bool
    host: str
    port: int
    name: str | None = None


class _Admission(Protocol):
    async def acquire(self) -> None: ...
    def release(self) -> None: ...


class _Always:
    """Admits everyone."""

    async def acquire(self) -> None:
        pass

    def release(self) -> None:
        pass


@dataclass(slots=True)
class _Pool:
    """The connections to one origin that are kept, the last used last, and leave to use one more."""

    admission: _Admission
    idle: list[Connection] = field(default_factory=list)
    closed: bool = False

    def kept(self, seconds: float) -> Connection | None:
        """Return a kept connection that nothing came from since its last use; end those last used too long ago."""
        self.sweep(seconds)
        while self.idle:
            connection = self.idle.pop()
            if connection.is_open and not _is_readable(connection.socket):
                return connection
            connection.abort()
        return None

    def sweep(self, seconds: float) -> None:
        """End those last used too long ago."""
        oldest = asyncio.get_running_loop().time() - seconds
        while self.idle and self.idle[0].used < oldest:
            self.idle.pop(0).abort()

    def give_back(self, connection: Connection, reusable: bool) -> None:
        """Keep a connection for others, or end it."""
        self.idle = [one for one in self.idle if one.is_open]
        if reusable and connection.is_open and not self.closed:
            connection.used = asyncio.get_running_loop().time()
            self.idle.append(connection)
        else:
            connection.abort()
        self.admission.release()

    def close(self) -> Sequence[Connection]:
        """Keep no connection any more; return those that were kept, on their way out."""
        idle, self.idle, self.closed = self.idle, [], True
        for connection in idle:
            connection.abort()
        return idle


def _is_readable(connected: Any) -> bool:
    """Whether something waits to be read, if only the end."""
    if sys.platform == "win32":
        return bool(select.select([connected], [], [], 0)[0])
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def _timed(what: str, timeouts: Timeouts, error: type[httpx.TimeoutException]) -> Iterator[None]:
    """Raise `error` if this takes longer than `timeouts` allows for `what`."""
    seconds = timeouts.get(what)
    if seconds is None:
        yield
        return
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise error(f"it took over {seconds} seconds") from None
