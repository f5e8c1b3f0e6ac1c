"""Transport: a URL in, a body out, into memory that the caller owns.

The seam between what a download does and how bytes travel. `HttpTransport` sends through an httpx client, ours or the
caller's; everything else in the package knows neither the client's types nor its exceptions.
"""

import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from typing import Any, Protocol, Self, TypeAlias
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx

from tfjs_fetch.direct import ADMIT, DirectTransport, Place
from tfjs_fetch.errors import UnreachableError
from tfjs_fetch.exchange import EXCHANGE, Exchange, Head
from tfjs_fetch.sinks import Sink
from tfjs_fetch.translation import error_types, translated

# Seconds to reach a server. Stalls after that are watched by the download.
_CONNECT_SECONDS = 10.0
# The queue is in front of the client: a transfer that waits for the consumer of a stream gives its place there to
# others, but keeps its connection. As many are kept as are open, else there were new ones all the time.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30.0)
# All that a request to another host than the model's own may carry.
_IMPERSONAL = frozenset(
    (
        "host",
        "accept",
        "accept-encoding",
        "connection",
        "user-agent",
        "range",
        "if-range",
        "if-match",
        "if-none-match",
        "if-modified-since",
    )
)
# A URL in which there is nothing to be decoded, encoded or resolved, nor a name or a password.
_PATH = r"(?:[A-Za-z0-9._~!$&()*+,;=:@/-]|%[0-9A-Fa-f]{2})*"
_PLAIN_URL = re.compile(rf"(https?)://([a-z0-9][a-z0-9.-]*)(?::([0-9]{{1,5}}))?(/{_PATH}(?:\?{_PATH})?)")
_HTTPX_ERRORS = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)
# The names by which the environment gives proxies.
_PROXIED = ("http", "https", "all")
# How often an abandoned stream is asked to end itself: 64 KiB may have been read ahead, in chunks of six bytes.
_FAREWELLS = 11_000


# A function that is given an IP address and may raise.
Admit: TypeAlias = Callable[[str], None]


class Answer(Protocol):
    """The head of an answer, and the way to its body."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers by their names in lower case; those that are repeated as one, with commas."""

    async def receive(self, sink: Sink) -> None:
        """Bring the body, as it is on the wire, into `sink`; what `sink` raises comes out unchanged.

        Raises TruncatedError if the body ends early, StalledError if the client gives up waiting.
        """


class Transport(Protocol):
    """Something that sends requests."""

    def request(
        self, method: str, url: str, headers: Mapping[str, str], *, personal: bool, admit: Admit | None = None
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request and give its answer; redirects are not followed.

        A request that is not `personal` goes to a foreign host: nothing that could identify the user goes along.
        `admit` is given the address that is connected to before anything is sent there, and may raise; through a
        proxy, or a client that is not ours, it is not called.

        Raises UnreachableError if there is no answer, StalledError if the client gives up waiting.
        """


class HttpClient(Protocol):
    """What is needed of an HTTP client; `httpx.AsyncClient` has it. Its types are its own business, hence Any."""

    def build_request(self, method: str, url: Any, *, headers: Any = ...) -> Any:
        """Return the request, with the client's own headers added."""

    async def send(self, request: Any, *, stream: bool = ..., auth: Any = ..., follow_redirects: Any = ...) -> Any:
        """Send it and return the response, its body unread."""


class OwnClient:
    """A client with nothing but what is needed here: no cookies, hooks, redirects, and no log of URLs.

    httpx's own writes every URL to the log whole, signatures and passwords included.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.transport = transport

    def build_request(self, method: str, url: Any, *, headers: Any = None) -> httpx.Request:
        """Return the request, with the headers and timeouts that all have."""
        extensions = {"timeout": {"connect": _CONNECT_SECONDS, "read": None, "write": None, "pool": None}}
        return httpx.Request(method, url, headers=_completed(headers or {}), extensions=extensions)

    async def send(
        self, request: httpx.Request, *, stream: bool = True, auth: Any = ..., follow_redirects: Any = False
    ) -> httpx.Response:
        """Send it, with the name and password of its URL unless `auth` is None, and return the answer, unread."""
        user = request.url.username, request.url.password
        if auth is not None and any(user):
            request = next(httpx.BasicAuth(*user).auth_flow(request))
        return await self.transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


def http_client(ssl_context: ssl.SSLContext | None, *, direct: bool = False) -> Any:
    """Return an `HttpClient` of our own, with `aclose`: proxies and certificates from the environment.

    With `direct` it takes the fast lane, which asyncio has, where the environment names no proxy.
    """
    proxies = {
        scheme: _proxy(url) for scheme, url in getproxies().items() if scheme in ("http", "https", "all") and url
    }
    if proxies:
        return OwnClient(_Proxied(ssl_context, proxies))
    if direct:
        return OwnClient(DirectTransport(ssl_context))
    context = httpx.create_ssl_context() if ssl_context is None else ssl_context
    return OwnClient(httpx.AsyncHTTPTransport(verify=context, limits=_LIMITS))


@contextmanager
def usable_environment(url: str) -> Iterator[None]:
    """Raise UnreachableError for whatever the environment is wrong about: proxies, certificates."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        reason = f"no connection can be made with the proxies and certificates of the environment: {error}"
        raise UnreachableError(url, reason, final=True) from error


class _Proxied(httpx.AsyncBaseTransport):
    """Sends each request through the proxy that the environment names for its scheme, or past it.

    httpx.AsyncClient would do that, but writes every URL to the log.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None, proxies: Mapping[str, str]) -> None:
        context = httpx.create_ssl_context() if ssl_context is None else ssl_context
        self._past = httpx.AsyncHTTPTransport(verify=context, limits=_LIMITS)
        self._through = {
            scheme: httpx.AsyncHTTPTransport(verify=context, limits=_LIMITS, proxy=proxy)
            for scheme, proxy in proxies.items()
        }

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        through = self._through.get(request.url.scheme) or self._through.get("all")
        if through is None or proxy_bypass(request.url.netloc.decode()):
            through = self._past
        return await through.handle_async_request(request)

    async def aclose(self) -> None:
        for transport in (self._past, *self._through.values()):
            await transport.aclose()


_HEADERS = {"user-agent": f"tfjs-fetch/{version('tfjs-fetch')}", "accept": "*/*"}


def _proxy(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def _completed(headers: Mapping[str, str]) -> dict[str, str]:
    """Return `headers` with those that all requests have."""
    given = {name.lower() for name in headers}
    return {name: value for name, value in _HEADERS.items() if name not in given} | dict(headers)


def transport_over(client: HttpClient) -> Transport:
    """Return the way that requests take through `client`, which stays the caller's to close."""
    if isinstance(client, OwnClient) and isinstance(client.transport, DirectTransport):
        return _DirectWay(client, client.transport)
    return HttpTransport(client)


class _DirectWay:
    """Sends over the fast lane, and past httpx where there is nothing in a URL that httpx would have to read."""

    def __init__(self, client: OwnClient, direct: DirectTransport) -> None:
        self._direct, self._other = direct, HttpTransport(client)

    @asynccontextmanager
    async def request(
        self, method: str, url: str, headers: Mapping[str, str], *, personal: bool, admit: Admit | None = None
    ) -> AsyncIterator[Answer]:
        """Send a request and give its answer."""
        if url.startswith("https"):
            with usable_environment(url):
                await self._direct.trust()
        plain = _PLAIN_URL.fullmatch(url)
        if plain is None or "/." in url:
            way = self._other.request(method, url, headers, personal=personal, admit=admit)
        else:
            way = self._ask(plain, method, _completed(headers), personal, admit)
        async with way as answer:
            yield answer

    @asynccontextmanager
    async def _ask(
        self, url: re.Match[str], method: str, headers: Mapping[str, str], personal: bool, admit: Admit | None
    ) -> AsyncIterator[Answer]:
        scheme, host, port, target = url.groups()
        secure = scheme == "https"
        place = Place(secure, host, int(port or 0) or (443 if secure else 80))
        with translated((*_HTTPX_ERRORS, UnicodeError), url.string):
            raw = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
            if not personal:
                raw = [(name, value) for name, value in raw if name.decode() in _IMPERSONAL]
            if not any(name == b"host" for name, _ in raw):
                raw.insert(0, (b"host", (f"{host}:{port}" if port else host).encode()))
            head, exchange = await self._direct.ask(
                place, method, target.encode(), raw, timeouts={"connect": _CONNECT_SECONDS}, admit=admit
            )
        try:
            yield _DirectAnswer(head, exchange, url.string)
        finally:
            if not exchange.finish():
                with anyio.CancelScope(shield=True), anyio.move_on_after(2), suppress(OSError):
                    await exchange.aclose()


class _DirectAnswer:
    def __init__(self, head: Head, exchange: Exchange, url: str) -> None:
        self.status = head.status_code
        self.headers = _by_name(head)
        self._exchange, self._url = exchange, url

    async def receive(self, sink: Sink) -> None:
        with translated(_HTTPX_ERRORS, self._url, lambda: self._exchange.count):
            await self._exchange.receive(sink)


def _by_name(head: Head) -> dict[str, str]:
    """Return the headers by their names in lower case, those that are repeated as one."""
    found: dict[str, str] = {}
    for name, value in head.headers:
        key, text = name.decode("ascii"), _text(value)
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class HttpTransport:
    """Sends through an httpx client, which stays the caller's to close."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._errors = error_types(client)

    @asynccontextmanager
    async def request(
        self, method: str, url: str, headers: Mapping[str, str], *, personal: bool, admit: Admit | None = None
    ) -> AsyncIterator[Answer]:
        """Send a request and give its answer."""
        with translated((*self._errors, UnicodeError), url):
            request = self._client.build_request(method, url, headers=dict(headers))
            if not personal:
                request.url = type(request.url)(url)  # without the client's own query parameters
                for name in [name for name in request.headers if name.lower() not in _IMPERSONAL]:
                    del request.headers[name]
            # Waiting for a connection is no fault of the server, and our own queue is in front of it.
            request.extensions.get("timeout", {})["pool"] = None
            # What is asked for in so many words goes before the name and password of a URL or of the client.
            own = personal and not any(name.lower() == "authorization" for name in headers)
            auth: dict[str, Any] = {} if own else {"auth": None}
            if not isinstance(self._client, OwnClient) or isinstance(self._client.transport, _Proxied):
                admit = None  # whom a proxy connects to, or a client of the caller's, is not seen here
            if admit is not None:
                request.extensions[ADMIT] = admit
            async with _tracing(request, admit):
                response = await self._client.send(request, stream=True, follow_redirects=False, **auth)
        answer = _HttpAnswer(response, url, self._errors)
        try:
            yield answer
        finally:
            await answer.close()


class _HttpAnswer:
    def __init__(self, response: Any, url: str, errors: tuple[type[Exception], ...]) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._response, self._url, self._errors = response, url, errors
        self._chunks: AsyncIterator[bytes] | None = None
        self._ended = False
        self._received = 0

    async def receive(self, sink: Sink) -> None:
        # A transport for tests may give responses whose body is read already.
        if (exchange := self._response.extensions.get(EXCHANGE)) is not None:
            with translated(self._errors, self._url, lambda: exchange.count):
                await exchange.receive(sink)
            return
        read = self._response.is_stream_consumed
        self._chunks = aiter(self._response.stream) if read else self._response.aiter_raw()
        while True:
            with translated(self._errors, self._url, lambda: self._received):
                chunk = await anext(self._chunks, None)
            if chunk is None:
                self._ended = True
                return
            self._received += len(chunk)
            await _pour(memoryview(chunk), sink)

    async def close(self) -> None:
        """Close the body; an unread one takes its connection along."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(2), suppress(OSError, *self._errors):
            await self._response.aclose()
            await self._end_chunks()

    async def _end_chunks(self) -> None:
        """Let the generators that give the chunks run into the closed connection.

        Left suspended they would be finalized by the garbage collector, which trio warns about and asyncio does in
        tasks of its own.
        """
        for _ in range(_FAREWELLS):
            if self._chunks is None or self._ended or await anext(self._chunks, None) is None:
                return


@asynccontextmanager
async def _tracing(request: Any, admit: Admit | None) -> AsyncIterator[None]:
    """Show `admit` whom httpcore connects to; close the socket it leaves open when cancelled in a TLS handshake."""
    sockets: list[Any] = []

    async def note(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            sockets.append(info["return_value"])
            if admit is not None:
                admit(info["return_value"].get_extra_info("server_addr")[0])
        elif event not in ("connection.start_tls.started", "connection.start_tls.failed"):
            sockets.clear()

    request.extensions["trace"] = note
    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            for socket in sockets:
                await socket.aclose()
        raise


async def _pour(chunk: memoryview, sink: Sink) -> None:
    while chunk:
        buffer = sink.get_buffer()
        if not buffer:
            await sink.wait()
            continue
        count = min(len(buffer), len(chunk))
        buffer[:count] = chunk[:count]
        sink.advance(count)
        chunk = chunk[count:]
