"""A model that gets its place in the cache while it is loaded.

What is kept is one generation: all its files were current at one and the same time. A file was current from when the
server first told of its version until it last did. So when all have come, the server is asked once more about those
that it last told of before the last of them was first seen; if one has changed, the load starts over with the others.
"""

import errno
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate

import anyio

from tfjs_fetch.assembly import StartOver
from tfjs_fetch.bodies import DocumentBody
from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.cache.journal import Noted
from tfjs_fetch.cache.partials import Partial
from tfjs_fetch.cache.records import Entry, Record
from tfjs_fetch.cache.shelf import Find, Generation, Shelf
from tfjs_fetch.cache.upkeep import remove, surplus
from tfjs_fetch.download import DOCUMENT_CODING
from tfjs_fetch.errors import CacheError, IntegrityError, TransportError
from tfjs_fetch.events import Warned
from tfjs_fetch.filing import Filing, Seen, Unstorable
from tfjs_fetch.format.layout import GroupLayout, usual_sizes
from tfjs_fetch.kept import KeptModel, instead_of, is_of_the_network, stored_bytes
from tfjs_fetch.loading import load_into_files
from tfjs_fetch.models import HostedModel, Weights
from tfjs_fetch.origins import Slot
from tfjs_fetch.planning import Plan
from tfjs_fetch.representation import Version
from tfjs_fetch.stretches import Stretches
from tfjs_fetch.tasks import in_thread, task_group

# Seconds after which the name of a version that comes from the second of its making can be relied on.
_SETTLING_SECONDS = 1.05


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it came: `version` was current at the time `seen`, on the clock of the event loop."""

    url: str
    content: bytes
    version: Version
    seen: float


@dataclass(frozen=True)
class KeepingModel:
    """The model `hosted` on a server. `finds` is what is on disk of its shards already, by their index.

    `lengths` are those of others, as the server told when it was asked about them. `now` is in seconds since the epoch,
    and `expected` the digest that the weights must have.
    """

    hosted: HostedModel
    document: Document
    shelf: Shelf
    finds: Mapping[int, Find]
    lengths: Mapping[int, int]
    now: float
    expected: str | None = None
    instead: KeptModel | None = None  # what serves if the network fails

    @cached_property
    def plan(self) -> Plan:
        """What loading it will bring."""
        plan = self.hosted.plan
        known = sum(find.noted.there.size for find in self.finds.values())
        return replace(plan, cached_bytes=min(known, plan.total_bytes or 0))

    @property
    def received(self) -> int:
        """How many bytes came over the network for it."""
        return self.hosted.received

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Weights]:
        """Give its weights one by one; they are not kept."""
        async with self.hosted.stream() as weights:
            yield weights

    async def load(self, *, careful: bool) -> WeightBundle:
        """Return its weights. Raises StartOver, and CacheError if they cannot be written."""
        try:
            return await self._load(careful=careful)
        except TransportError as error:
            if self.instead is None or not is_of_the_network(error) or error is self.hosted.downloader.raised():
                raise
            self._warn(instead_of(error, self.instead.generation))
            return await self.instead.load(careful=careful)

    async def _load(self, *, careful: bool) -> WeightBundle:
        sizes = [self._sizes(group, careful=careful) for group in range(len(self.hosted.urls))]
        work, useful = self.shelf.download(self.hosted.blueprint.total_bytes or 0), True
        try:
            await in_thread(work.create)
            adopted = await in_thread(self._prepare, work, sizes)
            filing = Filing(work, adopted, self.now)
            filing.take(partial(work.keep_document, self.document.content))
            await load_into_files(replace(self.hosted.job(sizes), filing=filing))
            await self._confirm(filing)
            bundle, warnings = await in_thread(self._publish, filing)
            for message in warnings:
                self._warn(message)
        except CacheError as error:
            if not _is_forbidden(error):
                raise
            self._warn(f"{error}: the model is not kept")
            return await self.hosted.load(careful=careful)
        except Unstorable:
            useful = False
            return await self.hosted.load(careful=careful)
        except IntegrityError:
            useful = False
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await in_thread(partial(work.close, useful=useful))
        return bundle

    def _warn(self, message: str) -> None:
        self.hosted.downloader.notify(Warned(self.hosted.source, message))

    @cached_property
    def _firsts(self) -> Sequence[int]:
        return list(accumulate(map(len, self.hosted.urls), initial=0))

    def _sizes(self, group: int, *, careful: bool) -> Sequence[int] | None:
        """Return the lengths of the shards of a group as they are likely to be; None if there is no telling."""
        layout, first = self.hosted.blueprint.layouts[group], self._firsts[group]
        known = [self._known_size(first + position) for position in range(len(layout.paths))]
        if not careful:
            known = [
                self.lengths.get(first + position) if size is None else size for position, size in enumerate(known)
            ]
        if None not in known:
            return [size or 0 for size in known]
        return None if careful else usual_sizes(layout)

    def _known_size(self, index: int) -> int | None:
        find = self.finds.get(index)
        return None if find is None else find.size

    def _prepare(self, work: Partial, sizes: Sequence[Sequence[int] | None]) -> Mapping[int, Noted]:
        """Reserve room, and copy what is there; return what of each shard was."""
        adopted: dict[int, Noted] = {}
        for layout, guess in zip(self.hosted.blueprint.layouts, sizes, strict=True):
            if not self.hosted.blueprint.is_needed(layout):
                continue
            work.reserve(layout.index, layout.size or 0)
            if layout.size is None:
                continue
            for position, start in self._places(layout, guess):
                index = self._firsts[layout.index] + position
                noted = self._copied(work, index, layout, start)
                if noted is not None:
                    adopted[index] = noted
        if adopted:
            work.sync()  # else the power could take what the others had put on the disk
        self.shelf.clear()
        return adopted

    def _places(self, layout: GroupLayout, guess: Sequence[int] | None) -> Sequence[tuple[int, int]]:
        """Return the shards of which something is there, and where each begins, as far as that is known."""
        first = self._firsts[layout.index]
        places = []
        starts = list(accumulate(guess or (), initial=0))
        for position in range(len(layout.paths)):
            size = self._known_size(first + position)
            if guess is None:
                # Only while all before it are known.
                if size is None:
                    break
                starts.append(starts[-1] + size)
            elif size != guess[position]:
                continue
            if size:
                places.append((position, starts[position]))
        return places

    def _copied(self, work: Partial, index: int, layout: GroupLayout, start: int) -> Noted | None:
        find = self.finds[index]
        room = (layout.size or 0) - start
        there = Stretches((first, min(last, room)) for first, last in find.noted.there)
        noted = Noted(replace(find.noted.entry, sha256=""), layout.index, start, there)
        work.begin(index, noted)
        if work.copy(index, find.path, find.noted, there):
            return noted
        work.drop(index)
        return None

    async def _confirm(self, filing: Filing) -> None:
        """Raise StartOver unless all files were current at one time."""
        shards = filing.seen
        latest = max([self.document.seen, *(shard.first for shard in shards)])
        doubtful = [shard for shard in shards if shard.version.unsettled]
        if doubtful or self.document.version.unsettled:
            # What was seen may have been replaced within the same second, by something of the same name.
            await anyio.sleep(_SETTLING_SECONDS)
        elif self.document.seen < latest and not await self._is_document_current():
            raise StartOver(changed=True)
        else:
            doubtful = await self._changed(_early(shards))
            if not doubtful:
                return
        for index in [shard.index for shard in doubtful if shard.index is not None]:
            await in_thread(filing.partial.drop, index)
        raise StartOver(changed=True)

    async def _changed(self, shards: Sequence[Seen]) -> list[Seen]:
        """Return those of the shards that the server does not have any more as they came."""
        changed: list[Seen] = []

        async def ask(shard: Seen, slot: Slot) -> None:
            if not await self._is_current(shard.url, shard.version, slot):
                changed.append(shard)

        async with task_group() as tasks:
            for shard in shards:
                slot = self.hosted.downloader.requester.origins.slot(shard.url)
                await slot.acquire()
                tasks.start_soon(ask, shard, slot)
        return changed

    async def _is_document_current(self) -> bool:
        slot = self.hosted.downloader.requester.origins.slot(self.document.url)
        await slot.acquire()
        if not (self.document.version.etag or self.document.version.last_modified):
            return await self._is_document_the_same(slot)
        return await self._is_current(self.document.url, self.document.version, slot, accept=DOCUMENT_CODING)

    async def _is_document_the_same(self, slot: Slot) -> bool:
        """Return whether the document, which has no name by which it could be asked about, comes as it came."""
        try:
            limit = self.hosted.limits.manifest_bytes
            body = DocumentBody(self.document.url, limit, "Limits.manifest_bytes")
            await self.hosted.downloader.document(self.document.url, body)
        finally:
            slot.release()
        return bytes(body.data) == self.document.content

    async def _is_current(self, url: str, version: Version, slot: Slot, *, accept: str = "identity") -> bool:
        """Return whether the server still has that version, or cannot tell; gives `slot` back."""
        try:
            if not (version.etag or version.last_modified):
                return True
            return (await self.hosted.downloader.current(url, version, accept=accept))[0]
        finally:
            slot.release()

    def _publish(self, filing: Filing) -> tuple[WeightBundle, Sequence[str]]:
        """Make what came the current generation; return its weights, and what is odd about them.

        Raises IntegrityError if it is not the expected one.
        """
        record, generation = self._shelve(filing)
        blueprint = self.hosted.blueprint
        warnings: list[str] = []
        stored = stored_bytes(blueprint, generation, warnings.append)
        bundle = WeightBundle(blueprint.manifest, stored, source=self.hosted.source)
        if self.expected is not None and bundle.digest != self.expected.lower():
            self.shelf.remove(record)
            raise IntegrityError(bundle.source, self.expected, bundle.digest)
        self.shelf.name(record)
        if self.shelf.max_bytes is not None:
            too_many = surplus(self.shelf.folder, max_bytes=self.shelf.max_bytes)
            remove(self.shelf.folder, [kept for kept in too_many if kept.directory != self.shelf.directory])
        return bundle, warnings

    def _shelve(self, filing: Filing) -> tuple[Record, Generation]:
        """Put the files in their place, without a name yet."""
        blueprint, first = self.hosted.blueprint, 0
        groups: list[int] = []
        shards: list[tuple[Entry, ...]] = []
        for layout in blueprint.layouts:
            entries: tuple[Entry, ...] = ()
            if (text := filing.texts.get(layout.index)) is not None:
                filing.partial.put(layout.index, text.data)
                entries = tuple(_text_entries(text.data, text.shards, self.now))
            elif blueprint.is_needed(layout):
                indices = range(first, first + len(layout.paths))
                entries = tuple(self._entry(filing, index) for index in indices)
            groups.append(sum(entry.size for entry in entries))
            shards.append(entries)
            first += len(layout.paths)
        document = Entry.of(self.document.url, self.document.version, self.now)
        content = self.document.content
        document = replace(document, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        return self.shelf.place(filing.partial, document, groups, shards)

    def _entry(self, filing: Filing, index: int) -> Entry:
        if index in filing.partial.journal.shards:
            return filing.partial.finished(index)
        shard = next(shard for shard in filing.shards if shard.index == index)  # nothing of it is wanted
        return shard.entry(shard.version or Version())


def _early(shards: Sequence[Seen]) -> Sequence[Seen]:
    """Return those of the shards that were last asked for before all others were first seen."""
    firsts = sorted((shard.first for shard in shards), reverse=True)
    if len(firsts) < 2:
        return ()
    return [shard for shard in shards if shard.last < firsts[shard.first == firsts[0]]]


def _is_forbidden(error: CacheError) -> bool:
    """Whether nothing may be written at all: what is there can be read all the same."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.EROFS, errno.EACCES, errno.EPERM)


def _text_entries(data: bytes, shards: Sequence[tuple[Seen, int]], now: float) -> Sequence[Entry]:
    entries, at = [], 0
    for seen, size in shards:
        content = data[at : at + size]
        entry = Entry.of(seen.url, seen.version, now, seen.path)
        entries.append(replace(entry, whole=None, size=size, sha256=hashlib.sha256(content).hexdigest()))
        at += size
    return entries
