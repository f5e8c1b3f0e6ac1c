"""Visits to a model through the cache: whether what is kept is still current, and what of it can be used if not."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tfjs_fetch.cache.journal import Noted
from tfjs_fetch.cache.records import Entry, Record, address
from tfjs_fetch.cache.shelf import Find, Generation, Shelf
from tfjs_fetch.events import OnEvent
from tfjs_fetch.keeping import Document, KeepingModel
from tfjs_fetch.kept import KeptModel
from tfjs_fetch.models import HostedModel, Model
from tfjs_fetch.origins import Slot
from tfjs_fetch.representation import Version
from tfjs_fetch.tasks import in_thread, task_group

# Seconds by which clocks may differ, or be set back.
_CLOCK_SECONDS = 60.0


def is_fresh(generation: Generation, now: float) -> bool:
    """Whether the servers said of all its files that they stay what they are until after `now`."""
    return generation.record.made - _CLOCK_SECONDS <= now < generation.record.fresh_until


async def visited(
    hosted: HostedModel,
    document: Document,
    shelf: Shelf,
    kept: Generation | None,
    instead: KeptModel | None,
    notify: OnEvent,
    expected: str | None,
) -> Model:
    """Return the model as it is `kept` if that is current, else one that gets its place while it is loaded.

    If the network fails meanwhile, `instead` serves. Chosen weights do not get a place. Raises TransportError if the
    server cannot be asked.
    """
    everything, now = hosted.blueprint.everything, time.time()
    if kept is None and not everything:
        return hosted
    finds = await in_thread(shelf.finds, kept)
    visit = _Visit(hosted, finds, now)
    await visit.ask()
    if kept is not None and document.content == kept.document and visit.confirms(kept.record):
        record = visit.refreshed(kept.record, document.version)
        await in_thread(shelf.refresh, record)
        kept = replace(kept, record=record)
        return KeptModel(hosted.source, hosted.blueprint, kept, notify, hosted.received)
    if not everything:
        return hosted
    return KeepingModel(hosted, document, shelf, visit.usable, visit.lengths, now, expected, instead)


class _Visit:
    """Asks about the shards of which something is on disk."""

    def __init__(self, hosted: HostedModel, finds: Mapping[str, Sequence[Find]], now: float) -> None:
        self.found: dict[int, Find] = {}  # what can be used, by the index of the shard
        self.lengths: dict[int, int] = {}  # of those that have changed
        self._hosted, self._now = hosted, now
        self._current: dict[int, Version] = {}  # what the server said of those
        paths = [path for layout in hosted.blueprint.layouts for path in layout.paths]
        files = zip((url for group in hosted.urls for url in group), paths, strict=True)
        self._candidates = [(index, url, finds.get(address(url, path), ())) for index, (url, path) in enumerate(files)]

    async def ask(self) -> None:
        """Choose what can be used of each shard: the server is asked whether it is current."""
        downloader = self._hosted.downloader
        async with task_group() as tasks:
            for index, url, candidates in self._candidates:
                if not candidates:
                    continue
                slot = downloader.requester.origins.slot(url)
                await slot.acquire()
                tasks.start_soon(self._ask, index, url, candidates, slot)

    async def _ask(self, index: int, url: str, candidates: Sequence[Find], slot: Slot) -> None:
        asked: list[Version] = []
        try:
            for find in candidates:
                entry = find.noted.entry
                usable = entry.is_named if find.complete else entry.validator is not None
                if usable and entry.version not in asked:
                    asked.append(entry.version)
                    same, version = await self._hosted.downloader.current(url, entry.version)
                    if same:
                        self.found[index], self._current[index] = find, version
                        return
                    if version.size is not None:
                        self.lengths[index] = version.size
        finally:
            slot.release()

    @property
    def usable(self) -> Mapping[int, Find]:
        """What can be used, with what the server said just now of how long it stays current."""
        return {index: self._aged_find(find, self._current[index]) for index, find in self.found.items()}

    def _aged_find(self, find: Find, version: Version) -> Find:
        noted = find.noted
        aged = Noted(self._aged(noted.entry, version), noted.group, noted.start, noted.there)
        return Find(find.path, aged, find.generation)

    def confirms(self, record: Record) -> bool:
        """Whether all shards of the generation of `record` are current."""
        indices = iter(range(len(self._candidates)))
        for layout, entries in zip(self._hosted.blueprint.layouts, record.shards, strict=True):
            for index, entry in zip([next(indices) for _ in layout.paths], entries, strict=False):
                find = self.found.get(index)
                if find is None or index not in self._current or find.noted.entry != entry:
                    return False
        return True

    def refreshed(self, record: Record, document: Version) -> Record:
        """Return the record with what the server said of how long its files stay current."""
        index = 0
        shards: list[tuple[Entry, ...]] = []
        for layout, entries in zip(self._hosted.blueprint.layouts, record.shards, strict=True):
            positions = range(index, index + len(layout.paths))
            shards.append(
                tuple(self._aged(entry, self._current[place]) for entry, place in zip(entries, positions, strict=False))
            )
            index += len(layout.paths)
        return replace(record, document=self._aged(record.document, document), shards=tuple(shards), made=self._now)

    def _aged(self, entry: Entry, version: Version) -> Entry:
        return replace(entry, fresh_until=self._now + version.lifetime.seconds)
