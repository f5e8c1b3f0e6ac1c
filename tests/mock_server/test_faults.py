import gzip
import socket
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeAlias

import anyio
import httpx
import pytest

from mock_server import (
    HTML_PAGE,
    LFS_POINTER,
    S3_ERROR,
    Close,
    Cut,
    Drip,
    Endless,
    Fault,
    File,
    Flip,
    GzipBomb,
    HangUp,
    HeaderFlood,
    IgnoreRange,
    Instead,
    Latency,
    MockServer,
    Reset,
    Stall,
    Status,
    Throttle,
    TrailingGarbage,
    TruncatedGzip,
    WrongLength,
    WrongRange,
)
from mock_server.answers import Break, Delivery

pytestmark = pytest.mark.anyio

Exchange: TypeAlias = Callable[..., Awaitable[bytes]]

# No "connection: close", so that it is the server's own doing when the connection ends.
GET = b"GET /w HTTP/1.1\r\nhost: x\r\n\r\n"
RANGE = b"GET /w HTTP/1.1\r\nhost: x\r\nrange: bytes=4-6\r\nconnection: close\r\n\r\n"
CLOSING = b"GET /w HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
DIGITS = b"0123456789"


def misbehaving(*faults: Fault, file: bytes | File = DIGITS) -> MockServer:
    server = MockServer({"/w": file})
    server.misbehave("/w", *faults, times=1)
    return server


def parted(reply: bytes) -> tuple[bytes, bytes]:
    head, _, body = reply.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    ("fault", "request_bytes", "sent"),
    [
        (Cut(at=0), GET, b""),
        (Cut(at=4), GET, b"0123"),
        (Cut(at=10), GET, DIGITS),
        (Cut(at=11), CLOSING, DIGITS),
        (Cut(at=2), RANGE, b"45"),
    ],
)
async def test_a_cut_body_ends_cleanly_where_it_is_cut(
    exchange: Exchange, fault: Fault, request_bytes: bytes, sent: bytes
) -> None:
    async with misbehaving(fault) as server:
        head, body = parted(await exchange(server, request_bytes))

        assert head.startswith(b"HTTP/1.1 20")
        assert body == sent


async def test_a_cut_chunked_body_lacks_its_last_chunk(exchange: Exchange) -> None:
    async with misbehaving(Cut(at=10), file=File(DIGITS, framing="chunked")) as server:
        _, body = parted(await exchange(server, GET))

        assert body == b"a\r\n0123456789\r\n"


@pytest.mark.parametrize(("fault", "received"), [(Reset(at=4), b"0123"), (HangUp(reset=True), b"")])
async def test_a_reset_is_an_error_and_no_end(fault: Fault, received: bytes) -> None:
    async with misbehaving(fault) as server:
        # A bare socket, because a stream need not tell a reset from an end.
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
            client.sendall(GET)
            with anyio.fail_after(5):
                await server.wait_until(lambda: server.requests != () and server.active == 0)

            read, error = read_all(client)

    assert parted(read)[1] == received
    assert isinstance(error, ConnectionResetError)


def read_all(client: socket.socket) -> tuple[bytes, OSError | None]:
    client.settimeout(5)
    received = b""
    try:
        while piece := client.recv(65536):
            received += piece
    except OSError as error:
        return received, error
    return received, None


async def test_a_stalled_body_stays_open_and_silent() -> None:
    async with misbehaving(Stall(at=4)) as server:
        with anyio.fail_after(5):
            async with await anyio.connect_tcp("127.0.0.1", int(server.url.rpartition(":")[2])) as stream:
                await stream.send(GET)
                await server.wait_until(lambda: server.requests != () and server.requests[0].bytes_sent == 4)
                await anyio.wait_all_tasks_blocked()

                assert (server.active, server.requests[0].finished) == (1, False)


async def test_hanging_up_sends_nothing(exchange: Exchange) -> None:
    async with misbehaving(HangUp()) as server:
        assert await exchange(server, GET) == b""


@pytest.mark.parametrize(("announced", "says_so"), [(True, True), (False, False)])
async def test_a_connection_can_close_after_a_good_answer(exchange: Exchange, announced: bool, says_so: bool) -> None:
    async with misbehaving(Close(announced=announced)) as server:
        head, body = parted(await exchange(server, GET))

        assert body == DIGITS
        assert (b"connection: close" in head) is says_so


@pytest.mark.parametrize(("by", "announced"), [(5, b"15"), (-3, b"7")])
async def test_a_wrong_length_is_announced_for_the_same_body(exchange: Exchange, by: int, announced: bytes) -> None:
    async with misbehaving(WrongLength(by)) as server:
        head, body = parted(await exchange(server, GET))

        assert b"content-length: " + announced in head
        assert body == DIGITS


async def test_a_range_can_be_ignored(exchange: Exchange) -> None:
    async with misbehaving(IgnoreRange()) as server:
        head, body = parted(await exchange(server, RANGE))

        assert head.startswith(b"HTTP/1.1 200 OK")
        assert body == DIGITS
        assert server.requests[0].headers["range"] == "bytes=4-6"


async def test_a_range_can_be_misplaced(exchange: Exchange) -> None:
    async with misbehaving(WrongRange(by=-1)) as server:
        head, body = parted(await exchange(server, RANGE))

        assert b"content-range: bytes 3-5/10" in head
        assert body == b"456"


async def test_an_unsatisfiable_range_is_left_as_it_is(exchange: Exchange) -> None:
    async with misbehaving(WrongRange(by=1)) as server:
        head, _ = parted(await exchange(server, RANGE.replace(b"4-6", b"10-")))

        assert b"content-range: bytes */10" in head


@pytest.mark.parametrize(
    ("after", "header"),
    [
        (7, b"\r\nretry-after: 7"),
        (datetime(2024, 5, 6, 12, tzinfo=UTC), b"\r\nretry-after: Mon, 06 May 2024 12:00:00 GMT"),
    ],
)
async def test_a_status_may_say_when_to_return(exchange: Exchange, after: int | datetime, header: bytes) -> None:
    async with misbehaving(Status(503, retry_after=after)) as server:
        head, body = parted(await exchange(server, CLOSING))

        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert header in head
        assert body == b"503 Service Unavailable\n"


@pytest.mark.parametrize(
    ("instead", "start"),
    [
        (HTML_PAGE, b"<!DOCTYPE html>"),
        (LFS_POINTER, b"version https://git-lfs.github.com/spec/v1\noid sha256:0123"),
        (S3_ERROR, b"<?xml "),
        (Instead(b"nope", "text/plain"), b"nope"),
    ],
)
async def test_something_else_can_pass_for_the_file(exchange: Exchange, instead: Instead, start: bytes) -> None:
    async with misbehaving(instead) as server:
        head, body = parted(await exchange(server, CLOSING))

        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"content-type: {instead.content_type}".encode() in head
        assert body.startswith(start)


async def test_a_flipped_byte_keeps_the_etag(exchange: Exchange) -> None:
    async with misbehaving(Flip(at=5)) as server:
        flipped = parted(await exchange(server, RANGE))
        intact = parted(await exchange(server, RANGE))

        assert (flipped[1], intact[1]) == (b"4\xca6", b"456")
        assert [line for line in flipped[0].split(b"\r\n") if line.startswith(b"etag")] == [
            line for line in intact[0].split(b"\r\n") if line.startswith(b"etag")
        ]


async def test_a_byte_behind_the_end_cannot_be_flipped(exchange: Exchange) -> None:
    async with misbehaving(Flip(at=10)) as server:
        assert parted(await exchange(server, CLOSING))[1] == DIGITS


@pytest.mark.parametrize("file", [File(DIGITS), File(DIGITS, gzip="always")])
async def test_truncated_gzip_has_the_length_it_announces(exchange: Exchange, file: File) -> None:
    async with misbehaving(TruncatedGzip(missing=3), file=file) as server:
        head, body = parted(await exchange(server, CLOSING))

        assert head.count(b"content-encoding: gzip") == 1
        assert b"content-length: %d" % len(body) in head
        with pytest.raises(EOFError):
            gzip.decompress(body)


async def test_garbage_can_trail_a_gzip_stream(exchange: Exchange) -> None:
    async with misbehaving(TrailingGarbage(b"rubbish")) as server:
        _, body = parted(await exchange(server, CLOSING))

        stream = zlib.decompressobj(wbits=31)
        assert stream.decompress(body) == DIGITS
        assert (stream.eof, stream.unused_data) == (True, b"rubbish")


@pytest.mark.parametrize("size", [0, 1, 5 * 1024 * 1024, 5 * 1024 * 1024 + 17])
async def test_a_bomb_is_one_gzip_member_of_zeros(exchange: Exchange, size: int) -> None:
    async with misbehaving(GzipBomb(size)) as server:
        _, body = parted(await exchange(server, CLOSING))

        stream = zlib.decompressobj(wbits=31)
        assert stream.decompress(body) == bytes(size)
        assert (stream.eof, stream.unused_data) == (True, b"")
        assert len(body) < 100 + size / 500


@pytest.mark.parametrize(
    ("fault", "framing"),
    [
        (Endless(pattern=b"ab"), b"transfer-encoding: chunked"),
        (Endless(announced=10**15, pattern=b"ab"), b"content-length: 1000000000000000"),
    ],
)
async def test_an_endless_body_ends_when_the_client_leaves(fault: Fault, framing: bytes) -> None:
    async with misbehaving(fault) as server:
        with anyio.fail_after(5):
            async with await anyio.connect_tcp("127.0.0.1", int(server.url.rpartition(":")[2])) as stream:
                await stream.send(GET)
                received = b""
                while len(received) < 5000:
                    received += await stream.receive()
            await server.wait_until(lambda: server.active == 0)

    head, body = parted(received)
    assert framing in head
    assert body.replace(b"2\r\nab\r\n", b"ab").startswith(b"abababab")


async def test_a_flood_of_headers_is_more_than_a_client_bears() -> None:
    async with misbehaving(HeaderFlood()) as server, httpx.AsyncClient(timeout=5) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{server.url}/w")


async def test_a_small_flood_reaches_the_body(exchange: Exchange) -> None:
    async with misbehaving(HeaderFlood(count=2, size=3)) as server:
        head, body = parted(await exchange(server, CLOSING))

        assert b"x-flood-0: xxx\r\nx-flood-1: xxx" in head
        assert body == DIGITS


async def test_a_slow_body_arrives_whole(exchange: Exchange) -> None:
    async with misbehaving(Latency(0.01), Throttle(1000), Drip(every=0.001, at=5)) as server:
        started = anyio.current_time()
        _, body = parted(await exchange(server, CLOSING))

        # The last byte is due after 9 / 1000 s and four drips.
        assert body == DIGITS
        assert anyio.current_time() - started >= 0.01 + 0.009 + 0.004


def test_faults_of_delivery_add_up() -> None:
    delivery = Delivery()
    for fault in (Latency(1), Latency(2), Throttle(10), Throttle(5), Drip(every=3, at=7), Cut(at=9), Reset(at=4)):
        delivery = fault.on_delivery(delivery)

    assert delivery == Delivery(latency=3, rate=5, drip_at=7, drip_every=3, breaks=Break(4, "reset"))


@pytest.mark.parametrize("faults", [(Status(503), Cut(at=3)), (Cut(at=3), Status(503)), (Cut(at=3), HTML_PAGE)])
async def test_an_answer_put_in_its_place_is_delivered_as_badly(exchange: Exchange, faults: tuple[Fault, ...]) -> None:
    async with misbehaving(*faults) as server:
        _, body = parted(await exchange(server, GET))

        assert len(body) == 3
