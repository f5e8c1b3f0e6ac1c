import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import anyio
import httpx
import pytest
from anyio.abc import SocketStream

from mock_server import Cut, Fault, File, HangUp, Latency, MockServer, Redirect, Stall, Status, Throttle

pytestmark = pytest.mark.anyio

Exchange: TypeAlias = Callable[..., Awaitable[bytes]]

CLOSING = b"GET /w HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5) as client:
        yield client


async def connected(server: MockServer) -> SocketStream:
    return await anyio.connect_tcp("127.0.0.1", int(server.url.rpartition(":")[2]))


def body(reply: bytes) -> bytes:
    return reply.partition(b"\r\n\r\n")[2]


async def test_files_are_served_over_one_connection(client: httpx.AsyncClient) -> None:
    async with MockServer({"/m/model.json": b"{}", "/m/w0": b"0123"}) as server:
        model = await client.get(f"{server.url}/m/model.json")
        shard = await client.get(f"{server.url}/m/w0")

        assert (model.status_code, model.content, shard.content) == (200, b"{}", b"0123")
        assert (server.connections, server.active, server.peak) == (1, 1, 1)


async def test_a_request_is_remembered_as_it_came(exchange: Exchange) -> None:
    async with MockServer({"/a b": b"0123"}) as server:
        await exchange(server, b"GET /a%20b?v=%31 HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nX-A: 2\r\nConnection: close\r\n\r\n")

        (seen,) = server.requests
        assert (seen.method, seen.target, seen.path) == ("GET", "/a%20b?v=%31", "/a b")
        assert seen.headers == {"host": "x", "x-a": "1, 2", "connection": "close"}
        assert (seen.connection, seen.status, seen.bytes_sent, seen.finished) == (1, 200, 4, True)


async def test_requests_can_be_picked_by_path(client: httpx.AsyncClient) -> None:
    async with MockServer({"/a": b"", "/b": b""}) as server:
        for path in ("/a", "/b", "/a?again"):
            await client.get(server.url + path)

        assert [request.target for request in server.requests_to("/a")] == ["/a", "/a?again"]


async def test_pipelined_requests_are_answered_in_order(exchange: Exchange) -> None:
    async with MockServer({"/w": b"0123", "/v": b"4567"}) as server:
        reply = await exchange(server, b"GET /v HTTP/1.1\r\nhost: x\r\n\r\n" + CLOSING)

        assert reply.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert reply.index(b"4567") < reply.index(b"0123")


async def test_what_is_not_http_is_refused(exchange: Exchange) -> None:
    async with MockServer() as server:
        reply = await exchange(server, b"\x16\x03\x01 what?\r\n\r\n")

        assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"\r\nconnection: close\r\n" in reply


async def test_a_request_with_a_body_is_read_and_refused(exchange: Exchange) -> None:
    async with MockServer({"/w": b"0123"}) as server:
        reply = await exchange(server, b"POST /w HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc" + CLOSING)

        assert reply.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
        assert reply.endswith(b"\r\n\r\n0123")


async def test_an_unknown_path_is_not_found(client: httpx.AsyncClient) -> None:
    async with MockServer() as server:
        assert (await client.get(f"{server.url}/none")).status_code == 404


async def test_head_sends_no_body(exchange: Exchange) -> None:
    async with MockServer({"/w": File(b"0123", framing="chunked"), "/v": b"0123"}) as server:
        reply = await exchange(server, b"HEAD /v HTTP/1.1\r\nhost: x\r\n\r\n" + CLOSING.replace(b"GET", b"HEAD"))

        first, second, rest = reply.split(b"\r\n\r\n")
        assert b"content-length: 4" in first
        assert b"transfer-encoding: chunked" in second
        assert rest == b""


async def test_a_chunked_file_has_no_length(exchange: Exchange) -> None:
    async with MockServer({"/w": File(b"0123", framing="chunked")}) as server:
        reply = await exchange(server, CLOSING)

        assert b"content-length" not in reply
        assert body(reply) == b"4\r\n0123\r\n0\r\n\r\n"


async def test_a_file_can_end_with_its_connection(exchange: Exchange) -> None:
    async with MockServer({"/w": File(b"0123", framing="close")}) as server:
        reply = await exchange(server, b"GET /w HTTP/1.1\r\nhost: x\r\n\r\n")

        assert b"content-length" not in reply
        assert b"transfer-encoding" not in reply
        assert body(reply) == b"0123"


async def test_a_client_of_http_1_0_gets_no_chunks(exchange: Exchange) -> None:
    async with MockServer({"/w": File(b"0123", framing="chunked")}) as server:
        reply = await exchange(server, b"GET /w HTTP/1.0\r\n\r\n")

        assert body(reply) == b"0123"


async def test_gzip_is_undone_by_a_client(client: httpx.AsyncClient) -> None:
    async with MockServer({"/w": File(b"0123" * 1000, gzip="accepted")}) as server:
        packed = await client.get(f"{server.url}/w")
        plain = await client.get(f"{server.url}/w", headers={"accept-encoding": "identity"})

        assert packed.content == plain.content == b"0123" * 1000
        assert int(packed.headers["content-length"]) < 100
        assert plain.headers["content-length"] == "4000"


async def test_a_redirect_may_lead_to_another_server(client: httpx.AsyncClient) -> None:
    async with MockServer({"/w": b"0123"}) as there, MockServer() as here:
        here.files["/w"] = Redirect(f"{there.url}/w", 307)

        reply = await client.get(f"{here.url}/w", follow_redirects=True)

        assert (reply.content, str(reply.url)) == (b"0123", f"{there.url}/w")
        assert [len(here.requests), len(there.requests)] == [1, 1]


async def test_files_may_change_at_any_time(client: httpx.AsyncClient) -> None:
    async with MockServer({"/w": b"old"}) as server:
        old = await client.get(f"{server.url}/w")
        server.files["/w"] = b"new"
        new = await client.get(f"{server.url}/w", headers={"if-none-match": old.headers["etag"]})
        del server.files["/w"]
        gone = await client.get(f"{server.url}/w")

        assert (old.content, new.content, gone.status_code) == (b"old", b"new", 404)


async def test_what_is_not_in_the_files_is_asked_elsewhere(client: httpx.AsyncClient) -> None:
    async with MockServer({"/a": b"near"}, elsewhere={"/b": b"far"}.get) as server:
        assert (await client.get(f"{server.url}/a")).content == b"near"
        assert (await client.get(f"{server.url}/b")).content == b"far"
        assert (await client.get(f"{server.url}/c")).status_code == 404


async def test_files_are_swapped_once_a_path_was_requested(client: httpx.AsyncClient) -> None:
    async with MockServer({"/model.json": b"1", "/w": b"old"}) as server:
        server.swap_after({"/model.json": b"2", "/w": b"new"}, path="/model.json")

        replies = [await client.get(server.url + path) for path in ("/w", "/model.json", "/w", "/model.json")]

        assert [reply.content for reply in replies] == [b"old", b"1", b"new", b"2"]


async def test_files_are_swapped_after_so_many_requests(client: httpx.AsyncClient) -> None:
    async with MockServer({"/w": b"old"}) as server:
        server.swap_after({"/w": b"new"}, requests=2)

        replies = [await client.get(f"{server.url}/w") for _ in range(3)]

        assert [reply.content for reply in replies] == [b"old", b"old", b"new"]


async def test_misbehaviour_comes_in_turn(client: httpx.AsyncClient) -> None:
    async with MockServer({"/w": b"0123"}) as server:
        server.misbehave_in_turn("/w", Status(503, retry_after=0), (Status(502), Latency(0)), ())

        replies = [await client.get(f"{server.url}/w") for _ in range(4)]

        assert [reply.status_code for reply in replies] == [503, 502, 200, 200]
        assert replies[0].headers["retry-after"] == "0"


async def test_misbehaviour_can_be_called_off(client: httpx.AsyncClient) -> None:
    async with MockServer({"/w": b"0123"}) as server:
        server.misbehave(None, Status(500))
        failed = await client.get(f"{server.url}/w")
        server.behave()
        served = await client.get(f"{server.url}/w")

        assert (failed.status_code, served.status_code) == (500, 200)


async def test_the_peak_counts_requests_in_flight_together(client: httpx.AsyncClient) -> None:
    async with MockServer({"/w": b"0123"}) as server, anyio.create_task_group() as downloads:
        server.misbehave(None, Stall(at=2))
        for _ in range(3):
            downloads.start_soon(client.get, f"{server.url}/w")

        with anyio.fail_after(5):
            await server.wait_until(lambda: [request.bytes_sent for request in server.requests] == [2, 2, 2])
        downloads.cancel_scope.cancel()

        assert (server.connections, server.active, server.peak) == (3, 3, 3)


@pytest.mark.parametrize("fault", [Latency(60), Stall(at=2), Throttle(0.01)])
async def test_a_client_that_leaves_is_noticed(fault: Fault) -> None:
    async with MockServer({"/w": b"0123"}) as server:
        server.misbehave("/w", fault)
        with anyio.fail_after(5):
            async with await connected(server) as stream:
                await stream.send(CLOSING)
                await server.wait_until(lambda: len(server.requests) == 1)

            await server.wait_until(lambda: server.active == 0 and server.requests[0].finished)


async def test_a_client_that_does_not_read_holds_the_server_back() -> None:
    async with MockServer({"/w": bytes(100_000_000)}) as server:
        with anyio.fail_after(5):
            async with await connected(server) as stream:
                await stream.send(CLOSING)
                await server.wait_until(lambda: server.requests != () and server.requests[0].bytes_sent > 0)
                await anyio.wait_all_tasks_blocked()

            await server.wait_until(lambda: server.active == 0)
        assert server.requests[0].bytes_sent < 50_000_000


async def test_the_end_of_the_block_ends_everything() -> None:
    before = len(anyio.get_running_tasks())

    with anyio.fail_after(5):
        async with MockServer({"/w": b"0123"}) as server:
            server.misbehave("/w", Stall(at=2))
            stream = await connected(server)
            await stream.send(CLOSING)
            await server.wait_until(lambda: server.active == 1)
        async with stream:
            await stream.send_eof()

    assert (len(anyio.get_running_tasks()), server.active) == (before, 0)
    with pytest.raises(OSError, match=r"refused|failed"):
        await connected(server)


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with MockServer():
            raise ZeroDivisionError


async def test_the_block_can_be_cancelled() -> None:
    with anyio.move_on_after(0) as scope:
        async with MockServer():
            await anyio.sleep_forever()

    assert scope.cancelled_caught


async def test_a_connection_hung_up_early_does_not_end_the_server(exchange: Exchange) -> None:
    async with MockServer({"/w": b"0123"}) as server:
        server.misbehave("/w", HangUp(), times=1)

        assert await exchange(server, CLOSING) == b""
        assert body(await exchange(server, CLOSING)) == b"0123"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("the certificate is made by the openssl command, which is not installed")
    path = tmp_path_factory.mktemp("certificate") / "loopback.pem"
    subject = ["-subj", "/CN=loopback", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path) + ".key"]
    subprocess.run(["openssl", "req", "-x509", *key, *subject, "-out", str(path)], check=True, capture_output=True)
    return path


async def test_it_speaks_tls_when_given_a_context(exchange: Exchange, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, str(certificate) + ".key")
    trusting = ssl.create_default_context(cafile=str(certificate))

    async with MockServer({"/w": b"0123"}, ssl_context=context) as server:
        server.misbehave_in_turn("/w", (), Cut(at=2))
        whole = await exchange(server, CLOSING, trusting)
        cut = await exchange(server, CLOSING, trusting)

        assert server.url.startswith("https://127.0.0.1:")
        assert (body(whole), body(cut)) == (b"0123", b"01")


async def test_a_client_that_distrusts_the_certificate_does_no_harm(exchange: Exchange, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, str(certificate) + ".key")

    async with MockServer({"/w": b"0123"}, ssl_context=context) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await exchange(server, CLOSING, ssl.create_default_context())
        with anyio.fail_after(5):
            await server.wait_until(lambda: server.active == 0)

        assert server.requests == ()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_resumes_a_broken_download(tmp_path: Path) -> None:
    target = tmp_path / "w"
    async with MockServer({"/w": b"0123456789"}) as server:
        server.misbehave("/w", Cut(at=4), times=1)
        command = ["curl", "-s", "-m", "5", "-C", "-", "-o", str(target), f"{server.url}/w"]

        broken = await anyio.run_process(command, check=False)
        resumed = await anyio.run_process(command)

        # 18: a file was only partially transferred.
        assert (broken.returncode, resumed.returncode) == (18, 0)
        assert [request.status for request in server.requests] == [200, 206]
        assert server.requests[1].headers["range"] == "bytes=4-"
    assert target.read_bytes() == b"0123456789"
