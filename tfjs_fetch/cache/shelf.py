"""The place of one model in a cache: its current generation, what others left of downloads, and a new generation.

Everything here blocks, and is called in worker threads.
"""

import hashlib
import mmap
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from tfjs_fetch.cache.folder import Folder
from tfjs_fetch.cache.journal import Noted, boot, is_gone, read_journal, read_summary
from tfjs_fetch.cache.partials import DOCUMENT, JOURNAL, PREFIX, SUMMARY, Partial, group_file
from tfjs_fetch.cache.records import Entry, Record, seal, unseal
from tfjs_fetch.stretches import Stretches

RECORD = "record.json"
GENERATION = "g-"
# Longer ones are none of ours.
_MOST_RECORD_BYTES = 256 * 2**20
# Seconds after which a download that nobody is known to work on is given up by others, and how often a use is noted.
ABANDONED_SECONDS = 24 * 3600
_USE_SECONDS = 3600
# Each map keeps a descriptor. Of a model with more groups than this the small ones are read instead.
_MOST_MAPS = 64
_LARGE_BYTES = 16 * 2**20
# A generation can be replaced and removed while it is being opened.
_OPENINGS = 5


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation that is there and of the right size: its document, and the content of the file of each group."""

    record: Record
    document: bytes
    groups: tuple[memoryview, ...]


@dataclass(frozen=True, slots=True)
class Find:
    """Bytes of a shard that are on disk: `noted` says which ones, in the file `path` of `generation` if that is one."""

    path: Path
    noted: Noted
    generation: str = ""

    @property
    def size(self) -> int | None:
        """How long the whole shard is; None if that is unknown."""
        entry = self.noted.entry
        return entry.whole if entry.whole is not None or not self.generation else entry.size

    @property
    def complete(self) -> bool:
        """Whether all of it that is of use is there."""
        return bool(self.generation) or list(self.noted.there) == [(0, self.size)]


class Shelf:
    """The place of the model with the key `key` in the cache `folder`, which is to have at most `max_bytes`."""

    def __init__(self, folder: Folder, key: str, *, mapped: bool, max_bytes: int | None = None) -> None:
        self.folder, self.directory, self.max_bytes = folder, folder.entry(key), max_bytes
        self._mapped = mapped

    def open(self) -> Generation | None:
        """Return the current generation; None if there is none that is whole."""
        if not self.folder.exists():
            return None
        for _ in range(_OPENINGS):
            record = self.record()
            if record is None:
                return None
            try:
                generation = self._opened(record)
            except FileNotFoundError:
                continue  # replaced just now
            except (OSError, ValueError):
                return None
            self._note_use()
            return generation
        return None

    def record(self) -> Record | None:
        """Return the record; None if there is none that can be read."""
        data = self.folder.read(self.directory / RECORD, _MOST_RECORD_BYTES)
        return None if data is None else unseal(Record, data)

    def missing(self, url: str) -> tuple[str, ...]:
        """Return the URLs of the files that are not there as they should be."""
        record = self.record() if self.folder.exists() else None
        if record is None:
            return (url,)
        directory, lacking = self.directory / record.generation, []
        if self.folder.read(directory / DOCUMENT, _MOST_RECORD_BYTES) is None:
            lacking.append(record.document.url)
        for group, entries in enumerate(record.shards):
            try:
                there = (directory / group_file(group)).stat().st_size == record.groups[group]
            except OSError:
                there = not entries
            lacking += [entry.url for entry in entries if not there]
        return tuple(lacking) or (url,)

    def refresh(self, record: Record) -> None:
        """Replace the record of the same generation by one that is valid for longer, if it can be written."""
        current = self.record()
        if current is not None and current.generation == record.generation:
            with suppress(OSError):
                self.folder.replace(self.directory / RECORD, seal(record))

    def download(self, needed: int) -> Partial:
        """Return a new download, of which nothing is on the disk yet."""
        return Partial(self.folder, self.directory, needed)

    def place(
        self,
        partial: Partial,
        entry: Entry,
        groups: Sequence[int],
        shards: Sequence[tuple[Entry, ...]],
    ) -> tuple[Record, Generation]:
        """Put what came in its place, where nobody finds it yet; return what to `name`, and the generation."""
        name = f"{GENERATION}{secrets.token_hex(8)}"
        record = Record(entry.url, name, entry, tuple(groups), tuple(shards), time.time())
        partial.publish(name)
        with self.folder.translated("be read"):
            return record, self._opened(record)

    def name(self, record: Record) -> None:
        """Make the generation of `record` the current one, and remove what it replaces."""
        before = self.record()
        with self.folder.translated("be written"):
            self.folder.replace(self.directory / RECORD, seal(record), lasting=True)
        if before is not None:
            self.remove(before)
        self.clear()

    def clear(self) -> None:
        """Remove the downloads that were left by those who are gone."""
        for path, gone in self._partials():
            if gone:
                self.folder.discard(path)

    def remove(self, record: Record) -> None:
        """Remove the files of the generation of `record`."""
        self.folder.discard(self.directory / record.generation)

    def finds(self, generation: Generation | None) -> Mapping[str, Sequence[Find]]:
        """Return what is there of shards, by their addresses: those of `generation` first, then what has the most."""
        found: dict[str, list[Find]] = {}
        if generation is not None:
            for find in self._of_generation(generation.record):
                found.setdefault(find.noted.entry.address, []).append(find)
        left = [find for path, _ in self._partials() for find in _of_partial(self.folder, path)]
        for find in sorted(left, key=lambda one: one.noted.there.size, reverse=True):
            found.setdefault(find.noted.entry.address, []).append(find)
        return found

    def _opened(self, record: Record) -> Generation:
        """Return the generation of `record`. Raises OSError or ValueError if it is not whole."""
        directory = self.directory / record.generation
        if not record.generation.startswith(GENERATION) or os.sep in record.generation or directory.is_symlink():
            raise ValueError(record.generation)
        document = self.folder.read(directory / DOCUMENT, _MOST_RECORD_BYTES)
        if document is None:
            raise FileNotFoundError(directory)
        if len(document) != record.document.size or hashlib.sha256(document).hexdigest() != record.document.sha256:
            raise ValueError("model.json")
        mapped = self._mapped and sum(map(bool, record.groups)) <= _MOST_MAPS
        groups = tuple(
            self._content(directory / group_file(index), size, mapped=mapped or (self._mapped and size >= _LARGE_BYTES))
            for index, size in enumerate(record.groups)
        )
        return Generation(record, document, groups)

    def _content(self, path: Path, size: int, *, mapped: bool) -> memoryview:
        if not size:
            return memoryview(b"")
        with self.folder.opened(path) as descriptor:
            if os.fstat(descriptor).st_size != size:
                raise ValueError(f"{path} has another size")
            if mapped:
                return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ))
            with os.fdopen(os.dup(descriptor), "rb") as file:
                content = np.fromfile(file, np.uint8, size)
        if len(content) != size:
            raise ValueError(f"{path} cannot be read")
        return content.data.toreadonly()

    def _note_use(self) -> None:
        record = self.directory / RECORD
        with suppress(OSError):
            if time.time() - record.stat().st_mtime > _USE_SECONDS:
                os.utime(record)

    def _of_generation(self, record: Record) -> Iterator[Find]:
        for group, shards in enumerate(record.shards):
            path = self.directory / record.generation / group_file(group)
            for start, entry in zip(accumulate((one.size for one in shards), initial=0), shards, strict=False):
                yield Find(path, Noted(entry, group, start, Stretches([(0, entry.size)])), record.generation)

    def _partials(self) -> Iterator[tuple[Path, bool]]:
        """Yield the downloads that are under way or were left, and whether it is certain that nobody works on them."""
        try:
            names = [path for path in self.directory.iterdir() if path.name.startswith(PREFIX)]
        except OSError:
            return
        for path in names:
            with suppress(OSError):
                journal = read_journal(self.folder.read(path / JOURNAL, _MOST_RECORD_BYTES) or b"")
                old = time.time() - (path / JOURNAL).stat().st_mtime > ABANDONED_SECONDS
                yield path, old or (journal is not None and is_gone(journal))


def _of_partial(folder: Folder, path: Path) -> Iterator[Find]:
    journal = read_journal(folder.read(path / JOURNAL, _MOST_RECORD_BYTES) or b"")
    if journal is None or not boot() or journal.owner.get("boot") != boot():
        journal = read_summary(folder.read(path / SUMMARY, _MOST_RECORD_BYTES) or b"")
    for noted in journal.shards.values() if journal is not None else ():
        if noted.there:
            yield Find(path / group_file(noted.group), noted)
