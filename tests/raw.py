"""A server that says exactly what it is told to, byte for byte, for tests of what clients make of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from mock_server.sockets import SocketStream, accept, listen

# In place of a piece: the end of the connection.
CLOSE = b"<the end of the connection>"


@dataclass
class RawServer:
    """Answers the nth request to come, over whichever connection, with the nth of `answers`, in these pieces.

    `connections` counts those made, `open` those that are; what is in `greeting` is sent before any request.
    """

    answers: Sequence[Sequence[bytes]]
    greeting: bytes = b""
    url: str = ""
    connections: int = 0
    open: int = 0
    requests: list[bytes] = field(default_factory=list)
    _closed: anyio.Event = field(default_factory=anyio.Event)

    async def serve(self, stream: SocketStream) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open += 1
        try:
            async with stream:
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    await self._converse(stream)
        finally:
            self.open -= 1
            self._closed.set()
            self._closed = anyio.Event()

    async def wait_until_closed(self) -> None:
        """Wait until no connection is open."""
        with anyio.fail_after(1):
            while self.open:
                await self._closed.wait()

    async def _converse(self, stream: SocketStream) -> None:
        waiting = b""
        if self.greeting:
            await stream.send(self.greeting)
        while True:
            while b"\r\n\r\n" not in waiting:
                waiting += await stream.receive()
            request, _, waiting = waiting.partition(b"\r\n\r\n")
            self.requests.append(request)
            for piece in self.answers[min(len(self.requests), len(self.answers)) - 1]:
                if piece == CLOSE:
                    return
                await stream.send(piece)
                await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def raw(*answers: bytes | Sequence[bytes], greeting: bytes = b"") -> AsyncIterator[RawServer]:
    """Serve `answers`, each in one piece or in several; the last one again and again."""
    found = RawServer([[answer] if isinstance(answer, bytes) else answer for answer in answers], greeting)
    with listen("127.0.0.1", 0) as listener:
        found.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        async with anyio.create_task_group() as tasks:

            async def serve_all() -> None:
                while True:
                    tasks.start_soon(found.serve, await accept(listener))

            tasks.start_soon(serve_all)
            try:
                yield found
            finally:
                tasks.cancel_scope.cancel()
