"""From a source to a model that can be loaded: its document is found, read and checked, in the cache or where it is."""

import inspect
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import anyio

from tfjs_fetch.bodies import DocumentBody
from tfjs_fetch.cache.records import address
from tfjs_fetch.cache.shelf import Generation, Shelf
from tfjs_fetch.config import Cache, Limits, Policy, Retry
from tfjs_fetch.documents import read_document
from tfjs_fetch.download import Downloader, NotModified
from tfjs_fetch.errors import NotCachedError, TransportError
from tfjs_fetch.events import Event, OnEvent, Planned, Warned, WeightReady
from tfjs_fetch.files import Files, open_archive, open_files
from tfjs_fetch.keeping import Document
from tfjs_fetch.kept import KeptModel, instead_of, is_of_the_network
from tfjs_fetch.models import HostedModel, LocalModel, Model
from tfjs_fetch.origins import Origins
from tfjs_fetch.planning import Blueprint, Plan
from tfjs_fetch.redaction import redact
from tfjs_fetch.representation import Version
from tfjs_fetch.requesting import Requester
from tfjs_fetch.tasks import Turns, in_thread
from tfjs_fetch.transport import Transport
from tfjs_fetch.urls import Remote, joined, locate, origin, shard_url
from tfjs_fetch.visits import is_fresh, visited

Source: TypeAlias = str | os.PathLike[str]
ShardUrl: TypeAlias = str | Callable[[str], str | Awaitable[str]]

# Documents longer than this are parsed in a worker thread, and more files planned there.
_INLINE_DOCUMENT = 64 * 1024
_INLINE_SHARDS = 100


class Events:
    """Passes events on to `listener`; those of opening a model are held back until the first one is out: Planned."""

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


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted: the weights of `source`, all or those that match `weights`; `expected` is their digest.

    Unless it is to be `lasting` nothing gets a place in the cache.
    """

    source: Source
    weights: str | tuple[str, ...] | None = None
    shard_url: ShardUrl | None = field(default=None, repr=False)
    expected: str | None = None
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class Parts:
    """What a client has for opening models: its settings and what it knows, its transport for a URL, and its cache."""

    headers: Mapping[str, str]
    limits: Limits
    retry: Retry
    policy: Policy
    cache: Cache | None
    origins: Origins
    transport: Callable[[str], Awaitable[Transport]]
    shelf: Callable[[str, ShardUrl | None], Shelf | None]


class Opening:
    """One source on its way to a model."""

    def __init__(self, parts: Parts, wish: Wish, events: Events) -> None:
        self._parts, self._wish, self._events = parts, wish, events
        self._shown = redact(str(wish.source))
        self._planning = False  # whether nothing is to be loaded

    async def plan(self) -> Plan:
        """Return what loading the model would bring."""
        self._planning = True
        return (await self.model()).plan

    async def model(self) -> Model:
        """Return the model. Raises what `Client.fetch` does before the first shard."""
        place = locate(self._wish.source)
        if not isinstance(place, Remote):
            files = await in_thread(open_files, place.path, self._parts.limits)
            return await self._local(files)
        offline = self._parts.cache is not None and self._parts.cache.mode == "offline"
        if self._parts.cache is None or place.is_archive:
            if offline:
                raise NotCachedError(self._shown, (place.url,))
            return await self._remote(place)
        shelf = self._parts.shelf(place.url, self._wish.shard_url)
        if shelf is None and offline:
            raise NotCachedError(self._shown, (place.url,))
        if shelf is None:
            self._warn(
                "the cache is not used: whose models come through the caller's own client is unknown without "
                "Cache(scope=...)"
            )
            return await self._remote(place)
        return await self._through_cache(place, shelf, self._parts.cache)

    def _warn(self, message: str) -> None:
        self._events.take(Warned(self._shown, message))

    async def _through_cache(self, place: Remote, shelf: Shelf, cache: Cache) -> Model:
        kept = await in_thread(shelf.open)
        if kept is not None:
            fresh = cache.mode == "auto" and is_fresh(kept, time.time())
            unasked = fresh or cache.mode in ("trust", "offline")
            if unasked and not await self._leads_elsewhere(kept, place.url):
                return await self._kept(kept, place.url)
        if cache.mode == "offline":
            missing = await in_thread(shelf.missing, place.url)
            raise NotCachedError(self._shown, missing)
        try:
            return await self._remote(place, shelf, kept)
        except TransportError as error:
            if kept is None or error is self._events.raised or not is_of_the_network(error):
                raise
            if not self._parts.policy.stale_if_error:
                raise
            self._warn(instead_of(error, kept))
            return await self._kept(kept, place.url)

    async def _leads_elsewhere(self, kept: Generation, url: str) -> bool:
        """Whether the caller's function says of shards that they are somewhere else than those that are kept were."""
        given = self._wish.shard_url
        if not callable(given):
            return False
        blueprint = await self._draw(kept.document, url)
        for layout, entries in zip(blueprint.layouts, kept.record.shards, strict=True):
            for path, entry in zip(layout.paths, entries, strict=False):
                if address(joined(url, await _called(given, path)), path) != entry.address:
                    return True
        return False

    async def _kept(self, kept: Generation, url: str) -> KeptModel:
        blueprint = await self._draw(kept.document, url)
        return KeptModel(self._shown, blueprint, kept, self._events.take)

    async def _remote(self, place: Remote, shelf: Shelf | None = None, kept: Generation | None = None) -> Model:
        url = place.url
        transport = await self._parts.transport(url)
        requester = Requester(transport, self._parts.origins, self._parts.policy, origin(url), self._parts.headers)
        take, raised = self._events.take, self._raised
        downloader = Downloader(requester, self._parts.retry, self._shown, take, raised)
        if place.is_archive:
            return await self._archive(url, downloader)
        document = await self._document(url, downloader, kept)
        blueprint = await self._draw(document.content, url)
        turns, urls = Turns(), list[Sequence[str]]()
        for layout in blueprint.layouts:
            urls.append(await self._urls(downloader, url, layout.paths))
            await turns.give()
        model = HostedModel(self._shown, blueprint, urls, downloader, self._parts.limits)
        if sum(map(len, urls)) > _INLINE_SHARDS:
            await in_thread(lambda: model.plan, abandon=True)
        if shelf is None or not document.version.lifetime.storable:
            return model
        if self._planning:
            unchanged = kept is not None and kept.document == document.content
            return await self._kept(kept, url) if kept is not None and unchanged else model
        if kept is None and not self._wish.lasting:
            return model
        instead = None
        if kept is not None and self._parts.policy.stale_if_error:
            same = kept.document == document.content
            instead = KeptModel(self._shown, blueprint, kept, take) if same else await self._kept(kept, url)
        return await visited(model, document, shelf, kept, instead, take, self._wish.expected)

    def _raised(self) -> BaseException | None:
        return self._events.raised

    async def _document(self, url: str, downloader: Downloader, kept: Generation | None) -> Document:
        body = DocumentBody(url, self._parts.limits.manifest_bytes, "Limits.manifest_bytes")
        known = kept.record.document.version if kept is not None and kept.record.document.is_named else None
        seen = anyio.current_time()
        try:
            version = await self._bring(downloader, url, body, known)
        except NotModified as unchanged:
            assert kept is not None
            assert known is not None
            now = Version(known.etag, known.last_modified, known.size, known.validator, unchanged.version.lifetime)
            return Document(url, kept.document, now, seen)
        return Document(url, bytes(body.data), version, seen)

    async def _archive(self, url: str, downloader: Downloader) -> LocalModel:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the model is; gone with it
        limits = self._parts.limits
        try:
            body = DocumentBody(url, limits.weight_bytes + limits.manifest_bytes, "Limits.weight_bytes", file)
            await self._bring(downloader, url, body)
            file.seek(0)
            files = await in_thread(open_archive, url, file, limits)
        except BaseException:
            file.close()
            raise
        return await self._local(files)

    async def _local(self, files: Files) -> LocalModel:
        document = await in_thread(files.document)
        blueprint = await self._draw(document, self._shown)
        return LocalModel(self._shown, blueprint, files, self._events.take, self._parts.limits)

    async def _bring(
        self, downloader: Downloader, url: str, body: DocumentBody, known: Version | None = None
    ) -> Version:
        slot = self._parts.origins.slot(url)
        await slot.acquire()
        try:
            return await downloader.document(url, body, known)
        finally:
            slot.release()

    async def _draw(self, document: bytes, source: str) -> Blueprint:
        parts = self._parts
        work = partial(read_document, document, source, parts.limits, parts.policy, self._wish.weights)
        if len(document) <= _INLINE_DOCUMENT:
            return work()
        return await in_thread(work, abandon=True)

    async def _urls(self, downloader: Downloader, url: str, paths: Sequence[str]) -> Sequence[str]:
        """Return the URLs of the files `paths`. The caller's own may be anywhere; those of model.json are checked."""
        given, policy = self._wish.shard_url, self._parts.policy
        if callable(given):
            urls = [joined(url, await _called(given, path)) for path in paths]
        else:
            urls = [shard_url(url, path, given, allow_absolute=policy.absolute_shards) for path in paths]
        if given:
            downloader.requester.named.update(origin(one)[1] for one in urls)
            return urls
        for foreign in {one for one in urls if origin(one) != downloader.requester.home}:
            await downloader.requester.check_leap(url, foreign)
        return urls


def patterns(weights: str | Iterable[str] | None) -> str | tuple[str, ...] | None:
    """Return `weights` as something that can be gone through more than once."""
    return weights if weights is None or isinstance(weights, str) else tuple(weights)


async def _called(function: Callable[[str], str | Awaitable[str]], path: str) -> str:
    result = function(path)
    return await result if inspect.isawaitable(result) else result
