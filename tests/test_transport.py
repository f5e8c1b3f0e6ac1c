"""The seam to httpx: requests out, bodies in, the client's exceptions turned into ours."""

import gc
import inspect
import math
import shutil
import socket
import ssl
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx
import httpx2
import pytest
from anyio.lowlevel import checkpoint

from mock_server import Cut, Drip, File, HangUp, HeaderFlood, Latency, MockServer, Redirect, Reset, Stall, Status
from tests.memory_transport import Asked
from tests.models import NO_TLS
from tfjs_fetch.bodies import Surplus
from tfjs_fetch.direct import DirectTransport
from tfjs_fetch.errors import (
    RefusedError,
    StalledError,
    StatusError,
    TransportError,
    TruncatedError,
    UnreachableError,
)
from tfjs_fetch.sinks import NO_ROOM, Sink
from tfjs_fetch.translation import translate
from tfjs_fetch.transport import HttpTransport, OwnClient, http_client, transport_over

pytestmark = pytest.mark.anyio

_URL = "http://h/w0?sig=secret"


class Collecting:
    """A sink that keeps what comes, in buffers of `room` bytes, and raises Surplus at `enough` bytes."""

    def __init__(self, room: int = 65536, enough: float = math.inf) -> None:
        self.data = b""
        self._buffer, self._enough = memoryview(bytearray(room)), enough

    def get_buffer(self) -> memoryview:
        return self._buffer

    def advance(self, count: int) -> None:
        self.data += self._buffer[:count]
        if len(self.data) >= self._enough:
            raise Surplus

    async def wait(self) -> None:
        raise AssertionError("there was room")


class Gated(Collecting):
    """A sink that has no room for anything before `may_go_on` is done."""

    def __init__(self, may_go_on: Callable[[], Awaitable[None]], **more: Any) -> None:
        super().__init__(**more)
        self._may_go_on, self._open = may_go_on, False

    def get_buffer(self) -> memoryview:
        return super().get_buffer() if self._open or not self.data else NO_ROOM

    async def wait(self) -> None:
        await self._may_go_on()
        self._open = True


KINDS = ["fast lane", "fast lane for httpx", "httpx's own way", "httpx.AsyncClient", "httpx2.AsyncClient"]


@pytest.fixture(params=KINDS)
async def client(request: pytest.FixtureRequest, anyio_backend_name: str) -> AsyncIterator[Any]:
    """Give every kind of client: what is promised of the seam must hold for each."""
    if request.param.startswith("fast lane") and anyio_backend_name == "trio":
        pytest.skip("the fast lane is for asyncio")
    async with _made(request.param) as client:
        yield client


def _made(kind: str) -> Any:
    match kind:
        case "httpx.AsyncClient":
            return httpx.AsyncClient(timeout=None, verify=NO_TLS)
        case "httpx2.AsyncClient":
            return httpx2.AsyncClient(timeout=None, verify=NO_TLS)
        case "fast lane for httpx":
            return OwnClient(SomeTransport(DirectTransport(NO_TLS)))
        case _:
            return http_client(None, direct=kind == "fast lane")


class SomeTransport(httpx.AsyncBaseTransport):
    """A transport of which no more is known than that it is one."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def get(client: Any, url: str, sink: Sink | None = None, headers: Any = (), *, personal: bool = True) -> int:
    """Bring the body at `url` into `sink` and return the status."""
    with anyio.fail_after(5):
        async with transport_over(client).request("GET", url, dict(headers), personal=personal) as answer:
            if sink is not None:
                await answer.receive(sink)
            return answer.status


def suspended() -> list[Any]:
    """Return the asynchronous generators of the HTTP client that were left before their end."""
    gc.collect()
    generators = [one for one in gc.get_objects() if inspect.isasyncgen(one) and "httpc" in one.ag_code.co_filename]
    return [one for one in generators if one.ag_frame is not None]


REFUSED, STALLED, TRUNCATED = RefusedError, StalledError, TruncatedError
UNREACHABLE = UnreachableError
# What each exception means before an answer, and within a body.
TRANSLATIONS: dict[str, tuple[type[TransportError], type[TransportError]]] = {
    "CloseError": (UNREACHABLE, TRUNCATED),
    "ConnectError": (UNREACHABLE, TRUNCATED),
    "ConnectTimeout": (UNREACHABLE, TRUNCATED),
    "DecodingError": (UNREACHABLE, TRUNCATED),
    "HTTPError": (UNREACHABLE, TRUNCATED),
    "HTTPStatusError": (StatusError, StatusError),
    "InvalidURL": (REFUSED, REFUSED),
    "LocalProtocolError": (REFUSED, REFUSED),
    "NetworkError": (UNREACHABLE, TRUNCATED),
    "PoolTimeout": (UNREACHABLE, TRUNCATED),
    "ProtocolError": (UNREACHABLE, TRUNCATED),
    "ProxyError": (UNREACHABLE, TRUNCATED),
    "ReadError": (UNREACHABLE, TRUNCATED),
    "ReadTimeout": (STALLED, STALLED),
    "RemoteProtocolError": (UNREACHABLE, TRUNCATED),
    "RequestError": (UNREACHABLE, TRUNCATED),
    "RequestNotRead": (UNREACHABLE, TRUNCATED),
    "ResponseNotRead": (UNREACHABLE, TRUNCATED),
    "StreamClosed": (UNREACHABLE, TRUNCATED),
    "StreamConsumed": (UNREACHABLE, TRUNCATED),
    "StreamError": (UNREACHABLE, TRUNCATED),
    "TimeoutException": (UNREACHABLE, TRUNCATED),
    "TooManyRedirects": (REFUSED, REFUSED),
    "TransportError": (UNREACHABLE, TRUNCATED),
    "UnsupportedProtocol": (REFUSED, REFUSED),
    "WriteError": (UNREACHABLE, TRUNCATED),
    "WriteTimeout": (STALLED, STALLED),
}


def made(kind: type[Exception]) -> Exception:
    """Return an exception of httpx, whatever it wants to be made of."""
    request = httpx.Request("GET", "http://h/w0?sig=secret")
    if kind is httpx.HTTPStatusError:
        return httpx.HTTPStatusError(f"404 for {request.url}", request=request, response=httpx.Response(404))
    wants = inspect.signature(kind).parameters
    return kind("it broke") if "message" in wants or "args" in wants else kind()


def test_every_exception_of_httpx_has_a_translation() -> None:
    roots = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)

    assert {name for name, kind in vars(httpx).items() if inspect.isclass(kind) and issubclass(kind, roots)} == {
        *TRANSLATIONS
    }


@pytest.mark.parametrize("name", TRANSLATIONS)
def test_exceptions_of_httpx_are_translated(name: str) -> None:
    error = made(getattr(httpx, name))
    before, within = translate(error, _URL), translate(error, _URL, 7)

    assert (type(before), type(within)) == TRANSLATIONS[name]
    assert before.url == within.url == "http://h/w0?…"
    assert "secret" not in f"{before} {within}"
    if isinstance(within, TruncatedError | StalledError):
        assert within.received == 7
    if isinstance(before, StatusError):
        assert before.status == 404
    if isinstance(before, UnreachableError):
        assert not before.final


def test_a_wrong_certificate_stays_wrong() -> None:
    error = httpx.ConnectError("it broke")
    error.__cause__ = OSError()
    error.__cause__.__context__ = ssl.SSLCertVerificationError(1, "CERTIFICATE_VERIFY_FAILED")

    found = translate(error, _URL)

    assert isinstance(found, UnreachableError)
    assert found.final


def test_a_timeout_of_the_client_tells_how_long_it_waited() -> None:
    request = httpx.Request("GET", _URL, extensions={"timeout": {"read": 5.0}})

    found = translate(httpx.ReadTimeout("", request=request), _URL)

    assert isinstance(found, StalledError)
    assert found.seconds == 5.0


class Failing(httpx.AsyncBaseTransport, httpx.AsyncByteStream):
    """Fails with `error`, at once or within the body."""

    def __init__(self, error: Exception, *, within: bool) -> None:
        self._error, self._within = error, within

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not self._within:
            raise self._error
        return httpx.Response(200, stream=self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"some"
        raise self._error


class Subclass(httpx.AsyncClient):
    """A client from elsewhere, as vendors of observability have them."""


@pytest.mark.parametrize("kind", [httpx.AsyncClient, Subclass])
@pytest.mark.parametrize("name", TRANSLATIONS)
async def test_exceptions_of_httpx_never_escape(name: str, kind: type[httpx.AsyncClient]) -> None:
    error = made(getattr(httpx, name))

    for within in (False, True):
        async with kind(transport=Failing(error, within=within)) as client:
            with pytest.raises(TRANSLATIONS[name][within]) as caught:
                await get(client, _URL, Collecting())
            # What is said of broken protocol quotes headers, and those may hold secrets.
            assert caught.value.__cause__ is (None if name in ("LocalProtocolError", "RemoteProtocolError") else error)


async def test_exceptions_of_a_library_like_httpx_never_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("httpx9")
    library.HTTPError = type("HTTPError", (Exception,), {})  # type: ignore[attr-defined]
    library.InvalidURL = "not a class"  # type: ignore[attr-defined]
    timeout = type("ReadTimeout", (library.HTTPError,), {})
    monkeypatch.setitem(sys.modules, "httpx9", library)
    alike = type("AsyncClient", (httpx.AsyncClient,), {"__module__": "httpx9._client"})

    async with alike(transport=Failing(timeout("slow"), within=False)) as client:
        with pytest.raises(StalledError):
            await get(client, _URL)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("room", [1, 7, 1_000_000])
async def test_a_body_arrives_in_buffers_of_any_length(
    client: httpx.AsyncClient, framing: Literal["length", "chunked", "close"], room: int
) -> None:
    content, sink = bytes(range(256)) * 20, Collecting(room)

    async with MockServer({"/w": File(content, framing=framing)}) as server:
        assert await get(client, f"{server.url}/w", sink) == 200

    assert sink.data == content


async def test_a_sink_without_room_is_waited_for(client: httpx.AsyncClient) -> None:
    sink = Gated(checkpoint, room=3)

    async with MockServer({"/w": b"0123456789"}) as server:
        await get(client, f"{server.url}/w", sink)

    assert sink.data == b"0123456789"


async def test_bodies_arrive_as_they_are_on_the_wire(client: httpx.AsyncClient) -> None:
    sink = Collecting()

    async with MockServer({"/w": File(b"0" * 99, gzip="always")}) as server:
        await get(client, f"{server.url}/w", sink)

    assert sink.data.startswith(b"\x1f\x8b")


async def test_redirects_are_not_followed(client: httpx.AsyncClient) -> None:
    async with MockServer({"/w": Redirect("/elsewhere")}) as server:
        async with httpx.AsyncClient(follow_redirects=True) as following:
            assert await get(client, f"{server.url}/w") == 302
            assert await get(following, f"{server.url}/w") == 302

        assert [request.path for request in server.requests] == ["/w", "/w"]


async def test_connections_are_kept_for_as_many_transfers_as_there_may_be() -> None:
    async with http_client(None) as client, MockServer({"/w": b"0123"}) as server:
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(get, client, f"{server.url}/w", Collecting())

        assert server.connections <= 3


@pytest.mark.parametrize("client", ["fast lane", "httpx's own way"], indirect=True)
async def test_our_client_says_who_it_is(client: httpx.AsyncClient) -> None:
    async with MockServer({"/w": b""}) as server:
        await get(client, f"{server.url}/w")

        assert server.requests[0].headers["user-agent"].startswith("tfjs-fetch/")


@pytest.mark.parametrize("client", ["fast lane", "httpx's own way"], indirect=True)
async def test_our_client_neither_keeps_nor_sends_cookies(client: httpx.AsyncClient) -> None:
    cookie = File(b"", headers=(("set-cookie", "session=1"),))

    async with MockServer({"/w": cookie}) as server:
        for _ in range(2):
            await get(client, f"{server.url}/w", Collecting())

        assert ["cookie" in request.headers for request in server.requests] == [False, False]


SECRETS: dict[str, Any] = {
    "headers": {"X-Api-Key": "secret", "User-Agent": "mine"},
    "cookies": {"session": "secret"},
    "auth": ("user", "secret"),
    "params": {"key": "secret"},
}


async def test_an_impersonal_request_carries_nothing_of_the_client() -> None:
    async with httpx.AsyncClient(**SECRETS) as client, MockServer({"/w": b""}) as server:
        headers = {"accept-encoding": "identity", "authorization": "Bearer secret", "Proxy-Token": "secret"}
        await get(client, f"{server.url}/w?sig=%2F1", headers=headers, personal=False)

        (seen,) = server.requests
        assert seen.target == "/w?sig=%2F1"
        assert seen.headers == {
            "host": server.url.removeprefix("http://"),
            "accept": "*/*",
            "accept-encoding": "identity",
            "connection": "keep-alive",
            "user-agent": "mine",
        }


async def test_a_personal_request_carries_all_that_the_client_has() -> None:
    async with httpx.AsyncClient(**SECRETS) as client, MockServer({"/w": b""}) as server:
        await get(client, f"{server.url}/w", headers={"X-Mine": "1"})

        (seen,) = server.requests
        assert seen.target == "/w?key=secret"
        assert seen.headers["x-api-key"] == "secret"
        assert seen.headers["cookie"] == "session=secret"
        assert seen.headers["authorization"].startswith("Basic ")
        assert seen.headers["x-mine"] == "1"


@pytest.mark.parametrize("value", ["Bearer secret\n", "Bearer secret\r\nX: y", "Bearer secret ü", "secret\0"])
async def test_a_header_that_cannot_be_sent_is_refused_and_not_shown(client: httpx.AsyncClient, value: str) -> None:
    async with MockServer({"/w": b""}) as server:
        with pytest.raises(RefusedError) as caught:
            await get(client, f"{server.url}/w", headers={"Authorization": value})

        assert "secret" not in str(caught.value)
        assert server.requests == ()


@pytest.mark.parametrize("url", ["ftp://h/w", "http://\0/", "http://\ud800/", "h"])
async def test_an_impossible_url_is_refused(client: httpx.AsyncClient, url: str) -> None:
    with pytest.raises(RefusedError):
        await get(client, url)


async def test_an_impossible_name_is_refused_or_not_found(client: httpx.AsyncClient) -> None:
    with pytest.raises((RefusedError, UnreachableError)):
        await get(client, "http://xn--/w")


async def test_a_hook_of_the_callers_client_may_judge_the_status() -> None:
    async def judge(response: httpx.Response) -> None:
        response.raise_for_status()

    async with httpx.AsyncClient(event_hooks={"response": [judge]}) as client, MockServer({}) as server:
        with pytest.raises(StatusError) as caught:
            await get(client, f"{server.url}/w?sig=secret")

    assert (caught.value.status, caught.value.url) == (404, f"{server.url}/w?…")


async def test_nobody_there_is_unreachable(client: httpx.AsyncClient) -> None:
    async with MockServer() as server:
        url = server.url

    with pytest.raises(UnreachableError) as caught:
        await get(client, url)
    assert (caught.value.url, caught.value.final) == (url, False)


@pytest.mark.parametrize("fault", [HangUp(), HangUp(reset=True), HeaderFlood(), HeaderFlood(1, 200_000)])
async def test_no_proper_answer_is_unreachable(client: httpx.AsyncClient, fault: Any) -> None:
    async with MockServer({"/w": b"0123"}) as server:
        server.misbehave("/w", fault)

        with pytest.raises(UnreachableError):
            await get(client, f"{server.url}/w")


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("at", [0, 3, 5000])
@pytest.mark.parametrize("fault", [Cut, Reset])
async def test_a_body_that_ends_early_is_truncated(
    client: httpx.AsyncClient, framing: Literal["length", "chunked"], at: int, fault: Callable[[int], Any]
) -> None:
    async with MockServer({"/w": File(bytes(10_000), framing=framing)}) as server:
        server.misbehave("/w", fault(at))
        sink = Collecting()

        with pytest.raises(TruncatedError) as caught:
            await get(client, f"{server.url}/w?sig=1", sink)

    assert caught.value.url == f"{server.url}/w?…"
    assert caught.value.received == len(sink.data) <= at


async def test_a_client_that_gives_up_waiting_stalls() -> None:
    async with httpx.AsyncClient(timeout=0.05) as client, MockServer({"/w": b"0123"}) as server:
        server.misbehave_in_turn("/w", Latency(math.inf), Stall(2))

        for received in (0, 2):
            with pytest.raises(StalledError) as caught:
                await get(client, f"{server.url}/w", Collecting())
            assert (caught.value.received, caught.value.seconds) == (received, 0.05)


async def test_what_a_sink_raises_comes_out_unchanged(client: httpx.AsyncClient) -> None:
    class Trouble(Exception):  # noqa: N818 - nobody handles it
        pass

    class Troubled(Collecting):
        def advance(self, count: int) -> None:
            raise Trouble

    async with MockServer({"/w": b"0123"}) as server:
        with pytest.raises(Trouble):
            await get(client, f"{server.url}/w", Troubled())


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("the certificate is made by the openssl command, which is not installed")
    path = tmp_path_factory.mktemp("certificate") / "loopback.pem"
    subject = ["-subj", "/CN=loopback", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{path}.key"]
    subprocess.run(["openssl", "req", "-x509", *key, *subject, "-out", str(path)], check=True, capture_output=True)
    return path


async def test_a_certificate_is_checked_against_the_given_context(certificate: Path) -> None:
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate, f"{certificate}.key")
    trusting, sink = ssl.create_default_context(cafile=str(certificate)), Collecting()

    async with MockServer({"/w": b"0123"}, ssl_context=serving) as server:
        async with http_client(trusting) as client:
            await get(client, f"{server.url}/w", sink)
        async with http_client(None) as client:
            with pytest.raises(UnreachableError) as caught:
                await get(client, f"{server.url}/w")

    assert (sink.data, caught.value.final) == (b"0123", True)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("enough", [0, 1, 500_000])
async def test_a_body_that_is_left_early_takes_its_connection_along(
    client: httpx.AsyncClient, framing: Literal["length", "chunked", "close"], enough: int
) -> None:
    async with MockServer({"/w": File(bytes(2_000_000), framing=framing)}) as server:
        if enough:
            with pytest.raises(Surplus):
                await get(client, f"{server.url}/w", Collecting(enough=enough))
        else:
            await get(client, f"{server.url}/w")

        with anyio.fail_after(5):
            await server.wait_until(lambda: server.active == 0)
        assert suspended() == []


async def test_a_body_in_tiny_chunks_that_is_left_early_leaves_nothing_behind(client: httpx.AsyncClient) -> None:
    async with MockServer({"/w": File(bytes(9000), framing="chunked")}) as server:
        server.misbehave("/w", Drip(every=0))

        async def all_sent() -> None:
            await server.wait_until(lambda: server.requests[0].bytes_sent == 9000)

        with pytest.raises(Surplus):
            await get(client, f"{server.url}/w", Gated(all_sent, enough=2000))
        assert suspended() == []


async def cancelled_at(client: httpx.AsyncClient, url: str, sink: Sink, reached: Callable[[], Awaitable[None]]) -> None:
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get, client, url, sink)
            await reached()
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("fault", [Latency(math.inf), Stall(0), Stall(2), Stall(70_000)])
async def test_a_transfer_can_be_cancelled_while_it_waits_for_bytes(client: httpx.AsyncClient, fault: Any) -> None:
    async with MockServer({"/w": bytes(100_000)}) as server:
        server.misbehave("/w", fault)

        async def under_way() -> None:
            await server.wait_until(lambda: bool(server.requests))
            await anyio.wait_all_tasks_blocked()

        await cancelled_at(client, f"{server.url}/w", Collecting(), under_way)
        with anyio.fail_after(5):
            await server.wait_until(lambda: server.active == 0)
        assert suspended() == []


async def test_a_transfer_can_be_cancelled_while_it_waits_for_room(client: httpx.AsyncClient) -> None:
    waits = anyio.Event()

    async def for_ever() -> None:
        waits.set()
        await anyio.sleep_forever()

    async with MockServer({"/w": bytes(1_000_000)}) as server:
        await cancelled_at(client, f"{server.url}/w", Gated(for_ever), waits.wait)
        with anyio.fail_after(5):
            await server.wait_until(lambda: server.active == 0)
        assert suspended() == []


async def test_a_transfer_can_be_cancelled_while_it_connects(client: httpx.AsyncClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/w"  # the greeting of TLS is never answered

        await cancelled_at(client, url, Collecting(), anyio.wait_all_tasks_blocked)
    assert suspended() == []


@pytest.mark.parametrize("status", [200, 404])
async def test_a_cancelled_transfer_leaves_the_client_usable(client: httpx.AsyncClient, status: int) -> None:
    async with MockServer({"/w": b"0123"}) as server:
        server.misbehave_in_turn("/w", (Status(status), Stall(1)))

        async def under_way() -> None:
            await server.wait_until(lambda: bool(server.requests))
            await anyio.wait_all_tasks_blocked()

        await cancelled_at(client, f"{server.url}/w", Collecting(), under_way)
        sink = Collecting()
        await get(client, f"{server.url}/w", sink)

    assert sink.data == b"0123"


# A slow machine is no matter: asyncio logs that as a warning, and what is left behind as an error.
LEAVING = """
import gc, logging, sys, anyio
from mock_server import MockServer, File
from tests.test_transport import Collecting, Surplus, get
from tfjs_fetch.config import Limits
from tfjs_fetch.transport import http_client

async def main():
    file = File(bytes(999_999), framing="chunked")
    async with http_client(None) as client, MockServer({"/w": file}) as server:
        for enough in (1, 70_000):
            try:
                await get(client, f"{server.url}/w", Collecting(enough=enough))
            except Surplus:
                pass
        await get(client, f"{server.url}/w")
        gc.collect()
    gc.collect()

logging.getLogger("asyncio").setLevel(logging.ERROR)
anyio.run(main, backend=sys.argv[1])
gc.collect()
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_python_in_development_mode_has_nothing_to_say(backend: str) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", LEAVING, backend]

    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


ADDRESSES = [
    "/a",
    "/",
    "",
    "?q",
    "/a?x=1&y=%2F&z=",
    "/a%20b%2fc",
    "/%zz",
    "/a b",
    "/\u00e4/\u4e2d",
    "/a/../b/./c",
    "/.hidden",
    "/a//b",
    "/a;b=c,d@e:f!g$h(i)*+'",
    "/a?b?c/d",
    "/[a]|{b}",
    "/a?redirect=http://h/x",
]


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "user:word@localhost"])
async def test_past_httpx_a_url_is_asked_for_as_through_it(path: str, host: str, anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("the fast lane is for asyncio")
    async with MockServer(elsewhere=lambda path: b"") as server, http_client(NO_TLS, direct=True) as client:
        url = server.url.replace("127.0.0.1", host) + path
        for transport in (transport_over(client), HttpTransport(client)):
            async with transport.request("GET", url, {"X-Mine": "1"}, personal=True) as answer:
                assert answer.status == 200
        past, through = server.requests

    assert (past.target, dict(past.headers)) == (through.target, dict(through.headers))


async def test_a_header_of_the_users_own_goes_before_ours(client: Any) -> None:
    async with MockServer({"/w": b"0"}) as server:
        await get(client, f"{server.url}/w", headers={"User-Agent": "me", "ACCEPT": "all"}.items())

        assert server.requests[0].headers["user-agent"] == "me"
        assert server.requests[0].headers["accept"] == "all"


def test_what_is_asked_of_a_transport_is_all_it_needs() -> None:
    names = ["method", "url", "headers", "personal"]

    assert [*inspect.signature(HttpTransport.request).parameters][1:] == [*names, "admit"]
    assert [*Asked.__dataclass_fields__] == names


def test_a_failed_connection_tells_the_innermost_reason() -> None:
    outer = httpx.ConnectError("All connection attempts failed")
    outer.__cause__ = OSError("All connection attempts failed")
    outer.__cause__.__cause__ = ExceptionGroup("attempts", [ConnectionRefusedError(111, "Connect call failed")])

    error = translate(outer, "http://host/")

    assert isinstance(error, UnreachableError)
    assert (error.reason, error.final) == ("Connection refused", False)


def test_a_certificate_that_cannot_be_verified_is_final_and_names_the_cure() -> None:
    outer = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate")

    error = translate(outer, "https://host/")

    assert isinstance(error, UnreachableError)
    assert error.final
    assert "SSL_CERT_FILE" in error.reason


async def test_a_server_that_does_not_speak_tls_is_not_called_forbidden(client: httpx.AsyncClient) -> None:
    async with MockServer({"/w": b"0123"}) as server:
        with pytest.raises(UnreachableError) as caught:
            await get(client, server.url.replace("http:", "https:"))

    assert "SSL" in caught.value.reason
