"""Client: fetches models. The functions here do so with a client of their own."""

import inspect
import os
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias

import anyio
import anyio.to_thread
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import current_token

from tfjs_fetch.assembly import StartOver
from tfjs_fetch.bodies import DocumentBody
from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.config import Limits, Policy, Retry
from tfjs_fetch.direct import is_on_asyncio
from tfjs_fetch.documents import read_document
from tfjs_fetch.download import Downloader
from tfjs_fetch.errors import IntegrityError, ModelChangedError
from tfjs_fetch.events import Event, Finished, OnEvent, Planned, WeightReady, ignore
from tfjs_fetch.files import Files, open_archive, open_files
from tfjs_fetch.models import HostedModel, LocalModel, Model, Weights, planned
from tfjs_fetch.origins import Origins
from tfjs_fetch.planning import Blueprint, Plan
from tfjs_fetch.redaction import redact
from tfjs_fetch.requesting import Requester
from tfjs_fetch.tasks import Turns
from tfjs_fetch.transport import HttpClient, Transport, http_client, transport_over, usable_environment
from tfjs_fetch.urls import Remote, joined, locate, origin, shard_url

Source: TypeAlias = str | os.PathLike[str]
ShardUrl: TypeAlias = str | Callable[[str], str | Awaitable[str]]

# A model that changes while it is loaded is loaded again, so often in all.
_LOADS = 3
# Documents longer than this are parsed in a worker thread, and more files planned there.
_INLINE_DOCUMENT = 64 * 1024
_INLINE_SHARDS = 100


class Client:
    """Fetches any number of models, side by side, within common limits: `async with Client() as client: ...`.

    `headers` go to each model's own origin and nowhere else. `http` is a client of the caller's own, which then
    decides on proxies, certificates and credentials; it stays open. `cache` takes None only: nothing is kept on disk.

    A client belongs to the event loop it was entered on; use outside of `async with` is a RuntimeError.
    """

    def __init__(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        cache: None = None,
        limits: Limits = Limits(),
        retry: Retry = Retry(),
        policy: Policy = Policy(),
        ssl_context: ssl.SSLContext | None = None,
        http: HttpClient | None = None,
    ) -> None:
        self._headers = dict(headers or {})
        self._limits, self._retry, self._policy = limits, retry, policy
        self._ssl_context, self._http = ssl_context, http
        self._own: Any = None  # the client made here, when it is first needed
        self._loop: object = None  # the event loop it was entered on, while it is open
        self._origins: Origins

    async def __aenter__(self) -> Self:
        self._loop = current_token()
        self._origins = Origins(self._limits)
        self._making = anyio.Lock()
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
        self._check()
        return (await self._open(source, weights, shard_url, _Events(ignore))).plan

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
        started = time.monotonic()
        weights = _patterns(weights)
        received = 0
        for attempt in range(_LOADS):
            events = _Events(progress)
            model = await self._open(source, weights, shard_url, events)
            events.begin(planned(model.plan))
            try:
                bundle = await model.load(careful=attempt > 0)
            except StartOver:
                received += _received(model)
                continue
            if expected is not None and bundle.digest != expected.lower():
                raise IntegrityError(bundle.source, expected, bundle.digest)
            progress(Finished(bundle.source, received + _received(model), time.monotonic() - started))
            return bundle
        raise ModelChangedError(str(source), _LOADS)

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
        self._check()
        started = time.monotonic()
        events = _Events(progress)
        model = await self._open(source, weights, shard_url, events)
        events.begin(planned(model.plan))
        try:
            async with model.stream() as stream:
                yield stream
        except StartOver:
            raise ModelChangedError(str(source), 1) from None
        if events.complete:
            progress(Finished(model.plan.source, _received(model), time.monotonic() - started))

    def _check(self) -> None:
        if self._loop != current_token():
            raise RuntimeError("a Client is used inside its `async with`, and on the event loop it was entered on")

    async def _open(
        self, source: Source, weights: str | Iterable[str] | None, shard_url: ShardUrl | None, events: "_Events"
    ) -> Model:
        place = locate(source)
        shown = redact(str(source))
        if isinstance(place, Remote):
            return await self._open_remote(place, shown, weights, shard_url, events)
        files = await anyio.to_thread.run_sync(open_files, place.path, self._limits)
        return await self._open_local(files, shown, weights, events.take)

    async def _open_remote(
        self,
        place: Remote,
        shown: str,
        weights: str | Iterable[str] | None,
        shard_url: ShardUrl | None,
        events: "_Events",
    ) -> Model:
        url = place.url
        transport = await self._transport(url)
        requester = Requester(transport, self._origins, self._policy, origin(url), self._headers)
        downloader = Downloader(requester, self._retry, shown, events.take, lambda: events.raised)
        if place.is_archive:
            return await self._open_archive(url, downloader, weights)
        body = DocumentBody(url, self._limits.manifest_bytes, "Limits.manifest_bytes")
        await self._bring(downloader, url, body)
        blueprint = await self._draw(bytes(body.data), url, weights)
        turns, urls = Turns(), list[Sequence[str]]()
        for layout in blueprint.layouts:
            urls.append(await self._urls(downloader, url, layout.paths, shard_url))
            await turns.give()
        model = HostedModel(shown, blueprint, urls, downloader, self._limits)
        if sum(map(len, urls)) > _INLINE_SHARDS:
            await anyio.to_thread.run_sync(lambda: model.plan, abandon_on_cancel=True)
        return model

    async def _open_archive(self, url: str, downloader: Downloader, weights: str | Iterable[str] | None) -> LocalModel:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the model is; gone with it
        most = self._limits.weight_bytes + self._limits.manifest_bytes
        try:
            await self._bring(downloader, url, DocumentBody(url, most, "Limits.weight_bytes", file))
            file.seek(0)
            files = await anyio.to_thread.run_sync(open_archive, url, file, self._limits)
        except BaseException:
            file.close()
            raise
        return await self._open_local(files, downloader.source, weights, downloader.notify)

    async def _open_local(
        self, files: Files, shown: str, weights: str | Iterable[str] | None, notify: OnEvent
    ) -> LocalModel:
        document = await anyio.to_thread.run_sync(files.document)
        return LocalModel(shown, await self._draw(document, shown, weights), files, notify, self._limits)

    async def _bring(self, downloader: Downloader, url: str, body: DocumentBody) -> None:
        slot = self._origins.slot(url)
        await slot.acquire()
        try:
            await downloader.document(url, body)
        finally:
            slot.release()

    async def _draw(self, document: bytes, source: str, weights: str | Iterable[str] | None) -> Blueprint:
        work = partial(read_document, document, source, self._limits, self._policy, _patterns(weights))
        if len(document) <= _INLINE_DOCUMENT:
            return work()
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)

    async def _urls(
        self, downloader: Downloader, url: str, paths: Sequence[str], given: ShardUrl | None
    ) -> Sequence[str]:
        """Return the URLs of the files `paths`. The caller's own may be anywhere; those of model.json are checked."""
        if callable(given):
            urls = [joined(url, await _called(given, path)) for path in paths]
        else:
            urls = [shard_url(url, path, given, allow_absolute=self._policy.absolute_shards) for path in paths]
        if given:
            downloader.requester.named.update(origin(one)[1] for one in urls)
            return urls
        for foreign in {one for one in urls if origin(one) != downloader.requester.home}:
            await downloader.requester.check_leap(url, foreign)
        return urls

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
    cache: None = None,
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
    cache: None = None,
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
    cache: None = None,
    http: HttpClient | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Plan:
    """Return what fetching `source` would bring: see `Client.plan`."""
    async with Client(headers=headers, cache=cache, http=http, ssl_context=ssl_context) as client:
        return await client.plan(source, weights=weights, shard_url=shard_url)


class _Events:
    """Holds the events of opening a model back until the first one is out, which is Planned."""

    def __init__(self, listener: OnEvent) -> None:
        self.complete = False  # whether all weights are ready
        self.raised: BaseException | None = None  # what the listener raised
        self._listener = listener
        self._held: list[Event] | None = []

    def take(self, event: Event) -> None:
        """Pass `event` on, now or later."""
        if isinstance(event, WeightReady):
            self.complete = event.done == event.total
        if self._held is None:
            try:
                self._call(event)
            except BaseException as error:
                self.raised = error
                raise
        else:
            self._held.append(event)

    def _call(self, event: Event) -> None:
        try:
            self._listener(event)
        except (StopIteration, StopAsyncIteration, anyio.get_cancelled_exc_class()) as error:
            # In the middle of a load these would end a loop or a task quietly.
            raise RuntimeError(f"the progress listener raised {type(error).__name__}") from error

    def begin(self, first: Planned) -> None:
        """Pass `first` on and what was held back."""
        self.complete = first.weights == 0
        held, self._held = self._held or [], None
        for event in (first, *held):
            self._call(event)


def _received(model: Model) -> int:
    return model.downloader.received if isinstance(model, HostedModel) else 0


def _patterns(weights: str | Iterable[str] | None) -> str | tuple[str, ...] | None:
    """Return `weights` as something that can be gone through more than once."""
    return weights if weights is None or isinstance(weights, str) else tuple(weights)


async def _called(function: Callable[[str], str | Awaitable[str]], path: str) -> str:
    result = function(path)
    return await result if inspect.isawaitable(result) else result


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
