"""The fast lane's connections: addresses, certificates, proxies, and when it is taken."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import httpx
import pytest
import trustme

from mock_server import MockServer
from tests.models import NO_TLS, QUICK, assert_equal, floats, group, many, model
from tests.raw import raw
from tests.test_exchange import PLAIN
from tfjs_fetch import Client, UnreachableError, dialing
from tfjs_fetch.dialing import dial
from tfjs_fetch.direct import ADMIT, DirectTransport, Place, is_on_asyncio
from tfjs_fetch.transport import OwnClient, http_client

pytestmark = pytest.mark.anyio

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture
async def transport() -> AsyncIterator[DirectTransport]:
    transport = DirectTransport()
    yield transport
    await transport.aclose()


async def test_the_lane_is_for_asyncio(anyio_backend_name: str) -> None:
    assert is_on_asyncio() == (anyio_backend_name == "asyncio")


def test_nobody_is_on_asyncio_without_a_loop() -> None:
    assert not is_on_asyncio()


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize("direct", [False, True])
def test_proxies_of_the_environment_are_left_to_httpx(name: str, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://proxy.example:3128")

    assert not isinstance(http_client(NO_TLS, direct=direct).transport, DirectTransport)


@asyncio_only
async def test_a_lane_that_is_closed_makes_no_connections(transport: DirectTransport) -> None:
    async with MockServer({"/w": b"0123"}) as server:
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(f"{server.url}/w")
        with pytest.raises(httpx.ConnectError, match="closed"):
            await transport.handle_async_request(httpx.Request("GET", f"{server.url}/w"))


@asyncio_only
async def test_connections_that_nobody_uses_are_closed_when_others_are() -> None:
    async with (
        MockServer({"/w": b"0123"}) as left,
        MockServer({"/w": b"0123"}) as used,
        httpx.AsyncClient(transport=DirectTransport(NO_TLS, keepalive=0.05)) as client,
    ):
        await client.get(f"{left.url}/w")
        await anyio.sleep(0.1)
        assert left.active == 1
        await client.get(f"{used.url}/w")
        with anyio.fail_after(1):
            await left.wait_until(lambda: left.active == 0)


@pytest.mark.parametrize("direct", [False, True])
def test_without_a_proxy_nothing_stands_between(direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    assert isinstance(http_client(NO_TLS, direct=direct), OwnClient)


@asyncio_only
async def test_the_peer_may_be_looked_at_before_anything_is_sent(transport: DirectTransport) -> None:
    def refuse(address: str) -> None:
        assert address == "127.0.0.1"
        raise PermissionError

    async with raw(PLAIN) as server:
        for _ in range(2):
            with pytest.raises(PermissionError):
                await transport.handle_async_request(httpx.Request("GET", server.url, extensions={ADMIT: refuse}))
        await server.wait_until_closed()

        assert server.requests == []


@asyncio_only
async def test_a_kept_connection_is_looked_at_as_well(transport: DirectTransport) -> None:
    looked: list[Any] = []
    async with raw(PLAIN) as server:
        for _ in range(3):
            request = httpx.Request("GET", server.url, extensions={ADMIT: looked.append})
            response = await transport.handle_async_request(request)
            await response.aread()
            await response.aclose()

        assert (server.connections, len(looked)) == (1, 3)


@asyncio_only
async def test_a_client_takes_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = list[bytes]()
    ask = DirectTransport.ask

    async def noted(self: DirectTransport, place: Place, method: str, target: bytes, *more: Any, **others: Any) -> Any:
        taken.append(target)
        return await ask(self, place, method, target, *more, **others)

    monkeypatch.setattr(DirectTransport, "ask", noted)
    async with MockServer(many(5).hosted()) as server, Client(cache=None, ssl_context=NO_TLS) as client:
        assert_equal(await client.fetch(f"{server.url}/m/model.json"), many(5).arrays)

    assert len(taken) == 6


@asyncio_only
@pytest.mark.parametrize("url", ["ftp://h/", "http:///x", "nothing"])
async def test_only_http_and_https_are_understood(transport: DirectTransport, url: str) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await transport.handle_async_request(httpx.Request("GET", url))


@asyncio_only
async def test_a_port_where_nobody_listens_is_a_connect_error(transport: DirectTransport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(httpx.ConnectError):
        await transport.handle_async_request(httpx.Request("GET", f"http://127.0.0.1:{port}/"))


@asyncio_only
@pytest.mark.parametrize("stage", ["tcp", "tls"])
async def test_connecting_has_its_time(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(address: Any) -> socket.socket:
        await anyio.sleep_forever()
        raise AssertionError

    if stage == "tcp":
        monkeypatch.setattr(dialing, "_reach", never)
    transport = DirectTransport(NO_TLS)
    async with raw(b"") as server:  # which says nothing, and so shakes no hands either
        url = server.url.replace("http", "https")
        request = httpx.Request("GET", url, extensions={"timeout": {"connect": 0.05}})
        with anyio.fail_after(5), pytest.raises(httpx.ConnectTimeout):
            await transport.handle_async_request(request)
        await server.wait_until_closed()
    await transport.aclose()


@asyncio_only
async def test_a_server_that_speaks_no_tls_is_unreachable() -> None:
    async with raw(PLAIN, greeting=PLAIN) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        with anyio.fail_after(30), pytest.raises(UnreachableError):
            await client.fetch(server.url.replace("http", "https") + "model.json")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certified(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """Return what a server needs that is called `name`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def trusting(*authorities: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for authority in authorities:
        authority.configure_trust(context)
    return context


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_models_are_fetched_over_tls(authority: trustme.CA, host: str) -> None:
    example = model(group({"a": floats(300_000), "b": floats(100_000)}, [1_000_000, 600_000]))
    listening = "::1" if host == "::1" else "127.0.0.1"
    server = MockServer(example.hosted(), host=listening, ssl_context=certified(authority, host))
    try:
        async with server, Client(retry=QUICK, ssl_context=trusting(authority)) as client:
            port = server.url.rpartition(":")[2]
            url = f"https://{f'[{host}]' if ':' in host else host}:{port}/m/model.json"
            with anyio.fail_after(10):
                assert_equal(await client.fetch(url), example.arrays)
    except OSError:
        if host != "::1":
            raise
        pytest.skip("there is no IPv6 here")


@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_certificate_that_proves_nothing_is_refused_at_once(authority: trustme.CA, wrong: str) -> None:
    context = certified(authority if wrong == "name" else trustme.CA(), "h.example" if wrong == "name" else "127.0.0.1")
    async with MockServer(many(1).hosted(), ssl_context=context) as server:
        async with Client(retry=QUICK, ssl_context=trusting(authority)) as client:
            with anyio.fail_after(5), pytest.raises(UnreachableError) as caught:
                await client.fetch(f"{server.url}/m/model.json")

        assert caught.value.final
        assert server.connections == 1
        assert server.requests == ()


@asyncio_only
async def test_cancelled_when_the_handshake_is_over_a_connection_is_closed_at_once(authority: trustme.CA) -> None:
    class Cancelling(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            task.cancel()

    context = trusting(authority)
    context.sslobject_class = Cancelling
    transport = DirectTransport(context)
    async with MockServer(ssl_context=certified(authority, "127.0.0.1")) as server:
        task = asyncio.create_task(transport.handle_async_request(httpx.Request("GET", server.url)))
        with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
            await task
        # The next socket has the same number, which the loop must not take for the one that was closed.
        (await dial("127.0.0.1", int(server.url.rpartition(":")[2]))).close()

        with anyio.fail_after(5):
            await server.wait_until(lambda: server.active == 0)
    assert server.requests == ()


@asyncio_only
async def test_closing_closes_the_connections_to_all_hosts_even_if_it_is_cancelled(transport: DirectTransport) -> None:
    async with raw(PLAIN) as first, raw(PLAIN) as second:
        for server in (first, second):
            response = await transport.handle_async_request(httpx.Request("GET", server.url))
            await response.aread()
            await response.aclose()
        closing = asyncio.create_task(transport.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing

        await first.wait_until_closed()
        await second.wait_until_closed()


@asyncio_only
async def test_addresses_are_tried_in_turn_and_the_first_that_answers_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    reach = dialing._reach

    async def reached(address: Any) -> socket.socket:
        tried.append(address[1][0])
        match address[1][0]:
            case "::1":
                raise OSError("no such network")
            case "192.0.2.1":
                await anyio.sleep_forever()
        return await reach((socket.AF_INET, ("127.0.0.1", port)))

    tried: list[str] = []
    addresses(monkeypatch, ["::1", "::2", "192.0.2.1", "192.0.2.2"])
    monkeypatch.setattr(dialing, "_reach", reached)
    monkeypatch.setattr(dialing, "_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with anyio.fail_after(5):
            connected = await dial("h.example", port)
        connected.close()

    assert tried == ["::1", "192.0.2.1", "::2"]


@asyncio_only
async def test_where_no_address_answers_the_reason_is_that_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reached(address: Any) -> socket.socket:
        raise OSError(address[1][0])

    addresses(monkeypatch, ["192.0.2.1", "::1"])
    monkeypatch.setattr(dialing, "_reach", reached)

    with pytest.raises(OSError, match=r"^192\.0\.2\.1$"):
        await dial("h.example", 80)


@asyncio_only
async def test_a_cancelled_dialing_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    async def reached(address: Any) -> socket.socket:
        made.append(socket.socket())
        scope.cancel()
        return made[-1]

    addresses(monkeypatch, ["192.0.2.1", "::1"])
    monkeypatch.setattr(dialing, "_reach", reached)
    with anyio.CancelScope() as scope:
        await dial("h.example", 80)

    assert [one.fileno() for one in made] == [-1]


def addresses(monkeypatch: pytest.MonkeyPatch, found: Sequence[str]) -> None:
    """Let every name have the addresses `found`."""

    async def looked_up(host: str, port: int, **more: Any) -> Sequence[Any]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in found]
        return [(family, 0, 0, "", (address, port)) for family, address in zip(families, found, strict=True)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", looked_up)
