"""Clients that show the bytes as they are on the wire."""

import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import anyio
import pytest
from anyio.abc import ByteStream

from mock_server import MockServer


async def _exchange(server: MockServer, request: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    address = urlsplit(server.url)
    received = b""
    with anyio.fail_after(5):
        async with await _connected(address.hostname or "", address.port or 0, tls) as stream:
            await stream.send(request)
            async for piece in stream:
                received += piece
    return received


async def _connected(host: str, port: int, tls: ssl.SSLContext | None) -> ByteStream:
    if tls is None:
        return await anyio.connect_tcp(host, port)
    return await anyio.connect_tcp(host, port, ssl_context=tls, tls_standard_compatible=False)


@pytest.fixture
def exchange() -> Callable[..., Awaitable[bytes]]:
    """Sends bytes to a server and gives all that comes back until the server ends the connection."""
    return _exchange
