"""Sockets as anyio byte streams, without what a backend's own streams do in between.

A backend's stream sends FIN before it closes, which turns a reset into a clean end, and may copy what it cannot send
at once. Here a close is only a close, and what the kernel does not take stays where it is.
"""

import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

import anyio.lowlevel
from anyio.abc import ByteStream, SocketAttribute

BACKLOG = 1024


class SocketStream(ByteStream):
    """A connected, non-blocking socket as a byte stream; it owns the socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:  # Any: as anyio types it, one type per attribute
        """The socket itself, also from under a TLS stream."""
        return {SocketAttribute.raw_socket: lambda: self._socket}

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Some bytes from the peer.

        Raises EndOfStream if the peer has ended its side, BrokenResourceError if the connection is lost.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                received = self._socket.recv(max_bytes)
                break
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except OSError as lost:
                raise anyio.BrokenResourceError from lost
        if not received:
            raise anyio.EndOfStream
        return received

    async def send(self, item: bytes | memoryview) -> None:
        """Hand all of `item` to the kernel, as fast as the peer reads.

        Raises BrokenResourceError if the connection is lost.
        """
        await anyio.lowlevel.checkpoint()
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as lost:
                raise anyio.BrokenResourceError from lost

    async def send_eof(self) -> None:
        """End this side of the connection and keep reading the other."""
        await anyio.lowlevel.checkpoint()
        end_sending(self)

    async def aclose(self) -> None:
        """Close the socket, with FIN unless `abort` was asked for."""
        self._socket.close()
        await anyio.lowlevel.checkpoint()


def listen(host: str, port: int) -> socket.socket:
    """A non-blocking socket that listens on `host`; on any free port if `port` is 0."""
    listener = socket.create_server((host, port), backlog=BACKLOG)
    listener.setblocking(False)
    return listener


async def accept(listener: socket.socket) -> SocketStream:
    """The next connection to `listener`."""
    while True:
        await anyio.wait_readable(listener)
        try:
            connected, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            # The client left between the two calls.
            continue
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return SocketStream(connected)


def end_sending(stream: ByteStream) -> None:
    """Send FIN on the socket under `stream`, if its peer is still there."""
    try:
        stream.extra(SocketAttribute.raw_socket).shutdown(socket.SHUT_WR)
    except OSError:
        return


def abort_on_close(stream: ByteStream) -> None:
    """Let the socket under `stream` send RST instead of FIN when it is closed."""
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
