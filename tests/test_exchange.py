"""The fast lane against raw bytes: what servers may send, what they must not, and what becomes of the connection."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models import NO_TLS
from tests.raw import CLOSE, RawServer, raw
from tests.test_transport import Collecting
from tfjs_fetch.connection import Connection
from tfjs_fetch.direct import DirectTransport
from tfjs_fetch.exchange import EXCHANGE, Exchange, Unanswered
from tfjs_fetch.sinks import NO_ROOM

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def transport() -> AsyncIterator[DirectTransport]:
    transport = DirectTransport()
    yield transport
    await transport.aclose()


async def get(transport: httpx.AsyncBaseTransport, url: str, method: str = "GET", **times: float) -> tuple[int, bytes]:
    """Return the status and the body, received into a sink."""
    sink = Collecting()
    with anyio.fail_after(5):
        response = await transport.handle_async_request(httpx.Request(method, url, extensions={"timeout": times}))
        try:
            await response.extensions[EXCHANGE].receive(sink)
        finally:
            await response.aclose()
    return response.status_code, sink.data


def head(*fields: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *fields, "", "")).encode()


PLAIN = head("Content-Length: 5") + b"hello"
CHUNKED = head("Transfer-Encoding: chunked") + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"


def every_byte(answer: bytes) -> list[bytes]:
    return [answer[index : index + 1] for index in range(len(answer))]


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN,
        CHUNKED,
        head(status="100 Continue") + head("Link: <x>", status="103 Early Hints") + PLAIN,
        head("Transfer-Encoding: chunked") + b"5;name=value\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
        head("Content-Length: 5", "Connection: keep-alive") + b"hello",
    ],
    ids=["length", "chunked", "informational", "extensions and trailers", "keep-alive"],
)
@pytest.mark.parametrize("cut", ["whole", "bytes"])
async def test_an_answer_is_read_however_it_comes_and_its_connection_used_again(
    transport: DirectTransport, answer: bytes, cut: str
) -> None:
    async with raw([answer] if cut == "whole" else every_byte(answer)) as server:
        for _ in range(3):
            assert await get(transport, server.url) == (200, b"hello")

        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN + b"garbage",
        PLAIN + PLAIN,
        CHUNKED + b"garbage",
        head("Content-Length: 5", "Content-Length: 5") + b"hello",
        head("Content-Length: 5, 5") + b"hello",
        head("Content-Length: 5", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
        head("X-Folded: a", " b", "Content-Length: 5") + b"hello",
        head("Content-Length: 5", "Connection: close") + b"hello",
        head("Content-Length: 5", "Connection: x, Close") + b"hello",
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
async def test_behind_any_oddity_a_connection_is_not_used_again(transport: DirectTransport, answer: bytes) -> None:
    async with raw(answer) as server:
        for _ in range(2):
            assert await get(transport, server.url) == (200, b"hello")

        assert server.connections == 2
        await server.wait_until_closed()


@pytest.mark.parametrize("ended", [False, True], ids=["before its end", "between two"])
async def test_what_follows_a_body_is_never_the_answer_to_another_request(
    transport: DirectTransport, ended: bool
) -> None:
    async with raw([PLAIN, head("Content-Length: 4") + b"evil"], PLAIN) as server:
        response = await transport.handle_async_request(httpx.Request("GET", server.url))
        await response.extensions[EXCHANGE].receive(Collecting())
        if ended:
            await response.aclose()
        await anyio.wait_all_tasks_blocked()  # until the rest has been sent
        await response.aclose()

        assert await get(transport, server.url) == (200, b"hello")
        assert server.connections == 2


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_some_answers_have_no_body_whatever_their_head_says(transport: DirectTransport, status: str) -> None:
    async with raw(head("Content-Length: 5", status=status), PLAIN) as server:
        assert await get(transport, server.url) == (int(status[:3]), b"")
        assert await get(transport, server.url) == (200, b"hello")

        assert server.connections == 1


@pytest.mark.parametrize("fields", [["Content-Length: 5"], ["Transfer-Encoding: chunked"], []])
async def test_the_answer_to_head_has_no_body(transport: DirectTransport, fields: Sequence[str]) -> None:
    async with raw(head(*fields), PLAIN) as server:
        assert await get(transport, server.url, "HEAD") == (200, b"")
        assert await get(transport, server.url) == (200, b"hello")

        assert server.connections == 1


async def test_a_body_may_end_with_its_connection(transport: DirectTransport) -> None:
    async with raw([head(), b"hel", b"lo", CLOSE]) as server:
        assert await get(transport, server.url) == (200, b"hello")


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\nContent-", CLOSE],
        [CLOSE],
        [head("Content-Length: 5") + b"hel", CLOSE],
        [head("Content-Length: 5"), CLOSE],
        [head("Transfer-Encoding: chunked") + b"5\r\nhel", CLOSE],
        [head("Transfer-Encoding: chunked") + b"5\r\nhello\r\n", CLOSE],
        [head("Transfer-Encoding: chunked") + b"5 hello\r\n0\r\n\r\n"],
        [head("Transfer-Encoding: chunked") + b"-5\r\nhello\r\n0\r\n\r\n"],
        [head("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n"],
        [head("Content-Length: 5", "Content-Length: 6") + b"hello"],
        [head("Content-Length: -5") + b"hello"],
        [head("Content-Length: five") + b"hello"],
        [head("Content-Length : 5") + b"hello"],
        [b"SSH-2.0-OpenSSH_9.6\r\n\r\n"],
        [head("Upgrade: x", status="101 Switching Protocols")],
        [head(status="100 Continue")] * 1000 + [PLAIN],
        [b"HTTP/1.1 200 OK\r\n", *([b"X: " + b"x" * 8000 + b"\r\n"] * 100)],
        [head("Transfer-Encoding: chunked") + b"5" + b";x" * 100_000],
        [head("Transfer-Encoding: chunked") + b"0\r\n", *([b"X: " + b"x" * 8000 + b"\r\n"] * 100)],
    ],
)
async def test_what_is_no_whole_answer_is_an_error_of_its_connection_alone(
    transport: DirectTransport, answer: Sequence[bytes]
) -> None:
    async with raw(answer, PLAIN) as server:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await get(transport, server.url)

        assert await get(transport, server.url) == (200, b"hello")
        assert server.connections == 2


async def test_an_answer_before_the_request_is_none() -> None:
    async with raw(PLAIN, greeting=PLAIN) as server:
        host, port = server.url.removeprefix("http://").strip("/").split(":")
        _, connection = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
        await connection.lost.wait()

        exchange = Exchange(connection, lambda connection, reusable: None, None)
        with pytest.raises(Unanswered):
            await exchange.ask("GET", b"/", [(b"host", b"h")])


async def test_a_kept_connection_that_was_closed_meanwhile_costs_no_error(transport: DirectTransport) -> None:
    async with raw([PLAIN, CLOSE]) as server:
        for count in range(1, 4):
            assert await get(transport, server.url) == (200, b"hello")
            await anyio.sleep(0.01 * (count % 2))

        assert server.connections == 3


async def test_a_connection_unused_for_too_long_is_not_used_again() -> None:
    transport = DirectTransport(keepalive=0.02)
    async with raw(PLAIN) as server:
        await get(transport, server.url)
        await anyio.sleep(0.05)
        await get(transport, server.url)

        assert server.connections == 2
    await transport.aclose()


async def test_a_connection_in_use_is_not_kept_by_a_transport_that_was_closed(transport: DirectTransport) -> None:
    async with raw(PLAIN) as server:
        response = await transport.handle_async_request(httpx.Request("GET", server.url))
        await transport.aclose()
        assert await response.aread() == b"hello"
        await response.aclose()

        await server.wait_until_closed()


async def test_an_origin_gets_as_many_connections_as_it_may() -> None:
    transport = DirectTransport(per_origin=3)
    async with raw(PLAIN) as server, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(get, transport, server.url)
    assert 1 <= server.connections <= 3

    await transport.aclose()


async def test_waiting_for_a_connection_has_its_time() -> None:
    transport = DirectTransport(per_origin=1)
    async with raw(PLAIN) as server:
        response = await transport.handle_async_request(httpx.Request("GET", server.url))
        with pytest.raises(httpx.PoolTimeout):
            await get(transport, server.url, pool=0.01)
        await response.aclose()

        assert await get(transport, server.url, pool=0.01) == (200, b"hello")
    await transport.aclose()


@pytest.mark.parametrize("answer", [[b""], [head("Content-Length: 5"), b"hel"], [head("Transfer-Encoding: chunked")]])
async def test_waiting_for_bytes_has_its_time(transport: DirectTransport, answer: Sequence[bytes]) -> None:
    async with raw(answer, PLAIN) as server:
        with pytest.raises(httpx.ReadTimeout):
            await get(transport, server.url, read=0.02)

        assert await get(transport, server.url, read=1.0) == (200, b"hello")


class Narrow(Collecting):
    """A sink with room for 1,000 bytes at a time, made by waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self._room = 1000

    def get_buffer(self) -> memoryview:
        return super().get_buffer()[: self._room] if self._room else NO_ROOM

    def advance(self, count: int) -> None:
        super().advance(count)
        self._room -= count

    async def wait(self) -> None:
        self.waits += 1
        await anyio.lowlevel.checkpoint()
        self._room = 1000


@pytest.mark.parametrize("fields", [["Content-Length: 100000"], []], ids=["length", "close"])
async def test_nothing_is_read_while_there_is_no_room(transport: DirectTransport, fields: Sequence[str]) -> None:
    body = bytes(range(250)) * 400
    sink = Narrow()
    async with raw([head(*fields), body, CLOSE]) as server:
        response = await transport.handle_async_request(httpx.Request("GET", server.url))
        with anyio.fail_after(5):
            await response.extensions[EXCHANGE].receive(sink)
        await response.aclose()

    assert sink.data == body
    assert sink.waits >= 99


@pytest.mark.parametrize("framed", [head("Content-Length: 5000000"), head()], ids=["length", "close"])
async def test_what_a_sink_raises_comes_out_and_ends_the_connection(transport: DirectTransport, framed: bytes) -> None:
    trouble = ZeroDivisionError()

    class Bad(Collecting):
        def advance(self, count: int) -> None:
            super().advance(count)
            if len(self.data) > 100_000:
                raise trouble

    async with raw([framed, bytes(5_000_000), CLOSE]) as server:
        response = await transport.handle_async_request(httpx.Request("GET", server.url))
        with anyio.fail_after(5), pytest.raises(ZeroDivisionError) as caught:
            await response.extensions[EXCHANGE].receive(Bad())
        await response.aclose()
        await server.wait_until_closed()

    assert caught.value is trouble


async def test_cancelling_ends_the_connection_at_once(transport: DirectTransport) -> None:
    for answer in ([b""], [b"HTTP/1.1 2"], [head("Content-Length: 5"), b"hel"], [head(), b"hel"]):
        async with raw(answer) as server:
            with anyio.move_on_after(0.02):
                await get(transport, server.url)
            await server.wait_until_closed()


async def test_no_byte_of_a_body_is_copied_by_python(transport: DirectTransport) -> None:
    size = 32 * 2**20
    memory = memoryview(bytearray(size))

    class Straight(Collecting):
        def __init__(self) -> None:
            self.at = 0

        def get_buffer(self) -> memoryview:
            return memory[self.at :]

        def advance(self, count: int) -> None:
            self.at += count

    sink = Straight()
    async with raw([head(f"Content-Length: {size}"), *([b"\1" * 2**20] * 32)]) as server:
        response = await transport.handle_async_request(httpx.Request("GET", server.url))
        gc.collect()
        tracemalloc.start()
        try:
            await response.extensions[EXCHANGE].receive(sink)
            made = sum(
                trace.size for trace in tracemalloc.take_snapshot().traces if "exchange.py" in str(trace.traceback)
            )
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        await response.aclose()

    assert memory[-1] == memory[0] == 1
    assert made < 64 * 1024
    assert peak < 3 * 2**20  # the server's own pieces


_NAMES = ["Content-Length", "Transfer-Encoding", "Connection", "X-Other", "Content-Encoding"]
_VALUES = ["5", "0", "12", "chunked", "close", "keep-alive", "identity", "gzip", "", "é", "5, 5", " 5 "]
_HEADS = st.builds(
    lambda version, status, fields, end: (
        f"{version} {status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields) + end
    ).encode("latin-1"),
    st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2", "http/1.1"]),
    st.sampled_from(["200 OK", "200 OK", "200", "204 No Content", "304 x", "404 Not Found", "100 Continue", "99 x"]),
    st.lists(st.tuples(st.sampled_from(_NAMES), st.sampled_from(_VALUES)), max_size=4),
    st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "", " folded\r\n\r\n"]),
)
_BODIES = st.sampled_from(
    [
        b"",
        b"hello",
        b"hello world!",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;x=1\r\nhello\r\n0\r\nA: b\r\n\r\n",
        b"zz\r\n",
        b"5\r\nhel",
    ]
)
_ANSWERS = st.lists(st.tuples(_HEADS, _BODIES), min_size=1, max_size=2).map(
    lambda parts: b"".join(part for pair in parts for part in pair)
)


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(answer=_ANSWERS, cuts=st.lists(st.integers(0, 200), max_size=3))
def test_answers_are_read_as_httpcore_reads_them(answer: bytes, cuts: Sequence[int]) -> None:
    stops = sorted({min(cut, len(answer)) for cut in cuts} | {0, len(answer)})
    pieces = [answer[start:stop] for start, stop in pairwise(stops)]

    async def main() -> None:
        async with raw([*pieces, CLOSE]) as server:
            ours = await outcome(DirectTransport(), server)
            theirs = await outcome(httpx.AsyncHTTPTransport(verify=NO_TLS), server)
        assert ours == theirs, answer

    anyio.run(main)


async def outcome(transport: httpx.AsyncBaseTransport, server: RawServer) -> object:
    """Return what a client makes of the answer: status, headers and body; None if it is no answer."""
    with anyio.fail_after(5):
        try:
            response = await transport.handle_async_request(httpx.Request("GET", server.url))
            try:
                assert isinstance(response.stream, httpx.AsyncByteStream)
                body = b"".join([chunk async for chunk in response.stream])
            finally:
                await response.aclose()
        except httpx.TransportError:
            return None
        finally:
            await transport.aclose()
    return response.status_code, response.headers.raw, body
