import socket
from collections.abc import Iterator

import anyio
import pytest
from anyio.abc import SocketAttribute

from mock_server.sockets import SocketStream, abort_on_close, accept, listen

pytestmark = pytest.mark.anyio


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listen("127.0.0.1", 0) as listener:
        yield listener


@pytest.fixture
def peer(listener: socket.socket) -> Iterator[socket.socket]:
    with socket.create_connection(listener.getsockname(), timeout=5) as peer:
        yield peer


async def accepted(listener: socket.socket) -> SocketStream:
    with anyio.fail_after(5):
        return await accept(listener)


async def test_bytes_go_both_ways(listener: socket.socket, peer: socket.socket) -> None:
    async with await accepted(listener) as stream:
        peer.sendall(b"ping")
        received = await stream.receive()
        await stream.send(memoryview(b"pong"))

        assert (received, peer.recv(10)) == (b"ping", b"pong")


async def test_a_half_closed_stream_can_still_receive(listener: socket.socket, peer: socket.socket) -> None:
    async with await accepted(listener) as stream:
        await stream.send_eof()
        ended = peer.recv(10)
        peer.sendall(b"still here")

        assert (ended, await stream.receive()) == (b"", b"still here")


async def test_the_end_of_the_peer_is_the_end_of_the_stream(listener: socket.socket, peer: socket.socket) -> None:
    async with await accepted(listener) as stream:
        peer.close()

        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_more_than_the_kernel_takes_waits_for_the_peer(listener: socket.socket, peer: socket.socket) -> None:
    sent = bytes(50_000_000)
    async with await accepted(listener) as stream, anyio.create_task_group() as tasks:
        tasks.start_soon(stream.send, memoryview(sent))
        await anyio.wait_all_tasks_blocked()

        received = await anyio.to_thread.run_sync(lambda: sum(len(peer.recv(2**20)) for _ in range(10)))
        assert 0 < received < len(sent)
        tasks.cancel_scope.cancel()


async def test_a_lost_peer_breaks_the_stream(listener: socket.socket, peer: socket.socket) -> None:
    async with await accepted(listener) as stream:
        peer.sendall(b"unread")
        raw = stream.extra(SocketAttribute.raw_socket)
        raw.shutdown(socket.SHUT_RDWR)

        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"too late")


async def test_an_aborted_stream_resets_its_peer(listener: socket.socket, peer: socket.socket) -> None:
    async with await accepted(listener) as stream:
        abort_on_close(stream)

    with pytest.raises(ConnectionResetError):
        peer.recv(10)


async def test_a_closed_stream_ends_its_peer(listener: socket.socket, peer: socket.socket) -> None:
    async with await accepted(listener):
        pass

    assert peer.recv(10) == b""
