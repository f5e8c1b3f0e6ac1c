"""Client: fetches models. The functions here do so with a client of their own."""

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import current_token

from tfjs_fetch.assembly import StartOver
from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.cache.place import folder_of
from tfjs_fetch.cache.records import key
from tfjs_fetch.cache.shelf import Shelf
from tfjs_fetch.config import Cache, Limits, Policy, Retry
from tfjs_fetch.direct import is_on_asyncio
from tfjs_fetch.errors import IntegrityError, ModelChangedError
from tfjs_fetch.events import Finished, OnEvent, ignore
from tfjs_fetch.flights import Flights
from tfjs_fetch.models import Weights, planned
from tfjs_fetch.opening import Events, Opening, Parts, ShardUrl, Source, Wish, patterns
from tfjs_fetch.origins import Origins
from tfjs_fetch.planning import Plan
from tfjs_fetch.transport import HttpClient, Transport, http_client, transport_over, usable_environment

# A model that changes while it is loaded is loaded again, so often in all.
_LOADS = 3


class Client:
    """Fetches any number of models, side by side, within common limits: `async with Client() as client: ...`.

    `headers` go to each model's own origin and nowhere else. `http` is a client of the caller's own, which then
    decides on proxies, certificates and credentials; it stays open. Models are kept in `cache`, if it is not None; of
    those that come through `http` nobody knows whose they are, so they are only with `Cache(scope=...)`.

    A client belongs to the event loop it was entered on; use outside of `async with` is a RuntimeError.
    """

    def __init__(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        cache: Cache | None = Cache(),
        limits: Limits = Limits(),
        retry: Retry = Retry(),
        policy: Policy = Policy(),
        ssl_context: ssl.SSLContext | None = None,
        http: HttpClient | None = None,
    ) -> None:
        self._headers, self._cache = dict(headers or {}), cache
        self._limits, self._retry, self._policy = limits, retry, policy
        self._ssl_context, self._http = ssl_context, http
        self._own: Any = None  # the client made here, when it is first needed
        self._loop: object = None  # the event loop it was entered on, while it is open
        self._origins: Origins

    async def __aenter__(self) -> Self:
        self._loop = current_token()
        self._origins = Origins(self._limits)
        self._making = anyio.Lock()
        self._flights = Flights()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop = None
        if self._own is not None:
            own, self._own = self._own, None
            with anyio.CancelScope(shield=True):
                await own.aclose()

    async def plan(
        self, source: Source, *, weights: str | Iterable[str] | None = None, shard_url: ShardUrl | None = None
    ) -> Plan:
        """Return what fetching `source` would bring; one request at most, no shard is asked for.

        Raises what `fetch` raises before the first shard.
        """
        wish = Wish(source, patterns(weights), shard_url)
        return await self._opening(wish, Events(ignore)).plan()

    async def fetch(
        self,
        source: Source,
        *,
        weights: str | Iterable[str] | None = None,
        shard_url: ShardUrl | None = None,
        progress: OnEvent = ignore,
        expected: str | None = None,
    ) -> WeightBundle:
        """Return the weights of the model `source`.

        `source` is an http(s) URL of a model.json, of a bare weights manifest, of a directory (ending in "/") or of a
        tfhub.dev handle; a `file://` URL or path of such a JSON or of a directory with one; or a .zip or .tar.gz of
        one, at a URL or path. `weights` are names or globs: only files that hold those are loaded. `shard_url` says
        where the files are, if not beside the JSON: a prefix, or a function, plain or async, of a file's path in the
        JSON. `progress` is called with each event, on the event loop; what it raises cancels the fetch and comes out.
        `expected` is the digest that the bundle must have.

        Raises TransportError if a file did not come, ManifestError if the JSON is not usable, DecodeError if the
        files do not fit it, UnknownWeightError (a KeyError) for a pattern in `weights` that matches nothing,
        IntegrityError if the digest is not `expected`, ModelChangedError if the files keep changing meanwhile.
        """
        self._check()
        wish = Wish(source, patterns(weights), shard_url, expected)
        load = partial(self._load, wish)
        if self._cache is None:
            return await load(progress)
        same = (str(source), wish.weights, shard_url if isinstance(shard_url, str) else id(shard_url), expected)
        return await self._flights.join(same, load, progress)

    async def _load(self, wish: Wish, progress: OnEvent) -> WeightBundle:
        started, received = time.monotonic(), 0
        for attempt in range(_LOADS):
            events = Events(progress)
            model = await self._opening(wish, events).model()
            events.begin(planned(model.plan))
            try:
                bundle = await model.load(careful=attempt > 0)
            except StartOver:
                received += model.received
                continue
            if wish.expected is not None:
                await anyio.to_thread.run_sync(_check_digest, bundle, wish.expected)
            progress(Finished(bundle.source, received + model.received, time.monotonic() - started))
            return bundle
        raise ModelChangedError(str(wish.source), _LOADS)

    def stream(
        self,
        source: Source,
        *,
        weights: str | Iterable[str] | None = None,
        shard_url: ShardUrl | None = None,
        progress: OnEvent = ignore,
    ) -> AbstractAsyncContextManager[Weights]:
        """Give the weights of `source` one by one, in the order of the JSON, while later ones still travel.

        Takes and raises what `fetch` does; errors come out of the `async with`. Memory is bounded by the largest
        weight and 64 MiB, unless the consumer keeps the arrays or there are strings: those need their whole group.
        From a server that tells no lengths, a shard cut short is noticed only when its whole group is there.

            async with client.stream(url) as weights:
                async for spec, array in weights: ...
        """
        return self._stream(source, weights, shard_url, progress)

    @asynccontextmanager
    async def _stream(
        self, source: Source, weights: str | Iterable[str] | None, shard_url: ShardUrl | None, progress: OnEvent
    ) -> AsyncIterator[Weights]:
        started = time.monotonic()
        events = Events(progress)
        model = await self._opening(Wish(source, patterns(weights), shard_url, lasting=False), events).model()
        events.begin(planned(model.plan))
        try:
            async with model.stream() as stream:
                yield stream
        except StartOver:
            raise ModelChangedError(str(source), 1) from None
        if events.complete:
            progress(Finished(model.plan.source, model.received, time.monotonic() - started))

    def _check(self) -> None:
        if self._loop != current_token():
            raise RuntimeError("a Client is used inside its `async with`, and on the event loop it was entered on")

    def _opening(self, wish: Wish, events: Events) -> Opening:
        self._check()
        parts = Parts(
            self._headers,
            self._limits,
            self._retry,
            self._policy,
            self._cache,
            self._origins,
            self._transport,
            self._shelf,
        )
        return Opening(parts, wish, events)

    def _shelf(self, url: str, shard_url: ShardUrl | None) -> Shelf | None:
        """Return the place of a model in the cache; None if nobody knows whose models those are."""
        if self._cache is None or (self._http is not None and self._cache.scope is None):
            return None
        where = shard_url if isinstance(shard_url, str) else "a function" if shard_url else None
        name = key(url, self._headers, self._cache.scope, where, self._policy.extra_bytes)
        return Shelf(folder_of(self._cache.directory), name, mapped=self._cache.mmap, max_bytes=self._cache.max_bytes)

    async def _transport(self, url: str) -> Transport:
        if self._http is not None:
            return transport_over(self._http)
        async with self._making:
            if self._own is None:
                with usable_environment(url):
                    make = partial(http_client, self._ssl_context, direct=is_on_asyncio())
                    own = await anyio.to_thread.run_sync(make)
                self._check()  # it may have been closed meanwhile
                self._own = own
        return transport_over(self._own)


async def fetch(
    source: Source,
    *,
    weights: str | Iterable[str] | None = None,
    shard_url: ShardUrl | None = None,
    progress: OnEvent = ignore,
    headers: Mapping[str, str] | None = None,
    cache: Cache | None = Cache(),
    http: HttpClient | None = None,
    ssl_context: ssl.SSLContext | None = None,
    expected: str | None = None,
) -> WeightBundle:
    """Return the weights of the model `source`: see `Client.fetch` for it and `Client` for the settings."""
    async with Client(headers=headers, cache=cache, http=http, ssl_context=ssl_context) as client:
        return await client.fetch(source, weights=weights, shard_url=shard_url, progress=progress, expected=expected)


def fetch_sync(
    source: Source,
    *,
    weights: str | Iterable[str] | None = None,
    shard_url: ShardUrl | None = None,
    progress: OnEvent = ignore,
    headers: Mapping[str, str] | None = None,
    cache: Cache | None = Cache(),
    http: HttpClient | None = None,
    ssl_context: ssl.SSLContext | None = None,
    expected: str | None = None,
) -> WeightBundle:
    """Return what `fetch` does, for scripts and notebooks.

    Where an event loop is running already, as in a notebook, another one runs in a thread meanwhile, and `progress` is
    called there; an `http` client of that loop cannot be used then.
    """
    work = partial(
        fetch,
        source,
        weights=weights,
        shard_url=shard_url,
        progress=progress,
        headers=headers,
        cache=cache,
        http=http,
        ssl_context=ssl_context,
        expected=expected,
    )
    return _in_thread(work) if _is_in_loop() else anyio.run(work)


async def plan(
    source: Source,
    *,
    weights: str | Iterable[str] | None = None,
    shard_url: ShardUrl | None = None,
    headers: Mapping[str, str] | None = None,
    cache: Cache | None = Cache(),
    http: HttpClient | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Plan:
    """Return what fetching `source` would bring: see `Client.plan`."""
    async with Client(headers=headers, cache=cache, http=http, ssl_context=ssl_context) as client:
        return await client.plan(source, weights=weights, shard_url=shard_url)


def _check_digest(bundle: WeightBundle, expected: str) -> None:
    if bundle.digest != expected.lower():
        raise IntegrityError(bundle.source, expected, bundle.digest)


def _is_in_loop() -> bool:
    try:
        anyio.get_current_task()
    except RuntimeError:
        return False
    return True


def _in_thread(work: Callable[[], Awaitable[WeightBundle]]) -> WeightBundle:
    """Return what `work` returns on an event loop in a thread of its own; an interrupt here cancels it there."""
    with start_blocking_portal() as portal:
        return portal.call(work)
