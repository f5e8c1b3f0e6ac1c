"""One connection from a client: requests come in through h11, answers go out past it."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import cast

import anyio
import h11
from anyio.abc import ByteStream

from mock_server.answers import Answer, Break, Request, head, pieces
from mock_server.sockets import abort_on_close, end_sending

# How long a client may take to close its side after ours; only then are the last bytes sure to have arrived.
LINGER_SECONDS = 1.0


class Connection:
    """A client's connection, over any byte stream on a socket.

    Every method raises BrokenResourceError or EndOfStream if the client has left.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._received = b""

    async def request(self) -> Request | None:
        """The next request with its body read and dropped; None if the client ended the connection instead.

        Raises h11.RemoteProtocolError if it is not HTTP.
        """
        # A parser for each request: after a dishonest answer its idea of the connection would be wrong.
        parser = h11.Connection(h11.SERVER)
        if self._received:
            parser.receive_data(self._received)
        head = await self._event(parser)
        if not isinstance(head, h11.Request):
            return None
        while not isinstance(await self._event(parser), h11.EndOfMessage):
            continue
        self._received = parser.trailing_data[0]
        return _request(head, keeps_alive=parser.their_state is h11.DONE)

    async def send(self, answer: Answer, progress: Callable[[int], None]) -> bool:
        """Deliver `answer` as it wants to be delivered and say whether another request may follow.

        `progress` is told how many bytes of the body are with the kernel.
        """
        delivery = answer.delivery
        await self._wait(delivery.latency)
        if delivery.hangs_up:
            return await self._break(Break(0, delivery.hangs_up))
        await self._stream.send(head(answer, datetime.now(UTC)))
        await self._send_body(answer, progress)
        if answer.breaks:
            return await self._break(answer.breaks)
        if answer.framing == "chunked" and not answer.bodiless:
            await self._stream.send(b"0\r\n\r\n")
        return answer.frees_connection

    async def close(self) -> None:
        """End the connection so that the client gets all that was sent.

        A socket closed with unread bytes in it sends RST, which may overtake the answer; so these are read first.
        """
        end_sending(self._stream)
        with anyio.move_on_after(LINGER_SECONDS):
            await self._until_gone()

    async def _event(self, parser: h11.Connection) -> h11.Event:
        while (event := parser.next_event()) is h11.NEED_DATA:
            try:
                parser.receive_data(await self._stream.receive())
            except anyio.EndOfStream:
                parser.receive_data(b"")
        # h11 speaks of PAUSED only once a message is over, and nobody asks it for an event then.
        return cast("h11.Event", event)

    async def _send_body(self, answer: Answer, progress: Callable[[int], None]) -> None:
        started = anyio.current_time()
        chunked = answer.framing == "chunked"
        for position, piece in pieces(answer):
            await self._wait(started + answer.delivery.due(position) - anyio.current_time())
            for part in _chunk(piece) if chunked else (piece,):
                # The stream takes any buffer; anyio's interface only has no word for it.
                await self._stream.send(cast("bytes", part))
            progress(position + len(piece))

    async def _break(self, how: Break) -> bool:
        match how.by:
            case "stall":
                await self._until_gone()
            case "reset":
                abort_on_close(self._stream)
                await self._stream.aclose()
            case "cut":
                # The one who reads the requests closes, as after any last answer.
                pass
        return False

    async def _wait(self, seconds: float) -> None:
        """Wait so long, but not longer than the client does."""
        if seconds > 0:
            with anyio.move_on_after(seconds):
                await self._until_gone()

    async def _until_gone(self) -> None:
        while True:
            self._received += await self._stream.receive()


def _request(head: h11.Request, *, keeps_alive: bool) -> Request:
    headers: dict[str, str] = {}
    for name, value in _texts(head.headers):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(
        method=head.method.decode("ascii"),
        target=head.target.decode("latin-1"),
        headers=headers,
        keeps_alive=keeps_alive,
        http_version=head.http_version.decode("ascii"),
    )


def _texts(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[str, str]]:
    return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)


def _chunk(piece: memoryview) -> tuple[bytes | memoryview, ...]:
    return b"%x\r\n" % len(piece), piece, b"\r\n"
