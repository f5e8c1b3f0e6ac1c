"""A connection of the fast lane: a protocol of asyncio that has bytes written to where somebody wants them."""

import asyncio
import ssl
from typing import Any, Protocol, cast

# Heads, and bodies that h11 has to read, are received into so much; longer heads are refused.
SCRATCH_BYTES = 64 * 1024


class Listener(Protocol):
    """Who uses a connection: it says where the next bytes go, and is told what happens."""

    buffer: memoryview

    def received(self, count: int) -> None:
        """Take note that `count` bytes were written to `buffer`."""

    def ended(self, error: Exception | None) -> None:
        """Take note that nothing more will come."""


class Connection(asyncio.BufferedProtocol):
    """A connection: passes on what happens to the exchange it is in; what happens without one ends it."""

    def __init__(self) -> None:
        self.exchange: Listener | None = None
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))  # for what has no better place
        self.is_open = True
        self.used = 0.0
        self.peer: Any = None
        self.lost = asyncio.Event()  # set when its socket is closed
        self._transport: asyncio.Transport
        self._reading = True

    @property
    def socket(self) -> Any:
        """The socket, to look at."""
        return self._transport.get_extra_info("socket")

    async def secure(self, context: ssl.SSLContext, name: str) -> None:
        """Speak TLS from here on, with a server that must be called `name`; a failure ends the connection.

        `create_connection` would do so at once, but if it is cancelled when the handshake is over, it says goodbye and
        keeps the socket until that is answered.
        """
        try:
            secured = await asyncio.get_running_loop().start_tls(self._transport, self, context, server_hostname=name)
            if secured is None:
                raise ConnectionResetError("the connection was lost in the TLS handshake")
        except BaseException:
            self.abort()
            raise
        self._transport = secured

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def read(self, *, on: bool) -> None:
        """Go on reading, or leave what arrives to the system."""
        if on != self._reading and self.is_open:
            self._reading = on
            self._transport.resume_reading() if on else self._transport.pause_reading()

    def abort(self) -> None:
        """End it at once. There is nothing to be said any more: bodies have a length or their own end."""
        self.exchange, self.is_open = None, False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.peer = transport.get_extra_info("peername")

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.scratch if self.exchange is None else self.exchange.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.exchange is None:
            self.abort()
        else:
            self.exchange.received(nbytes)

    def eof_received(self) -> None:
        self.is_open = False
        if self.exchange is not None:
            self.exchange.ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self.exchange is not None:
            self.exchange.ended(exc)
        self.lost.set()
