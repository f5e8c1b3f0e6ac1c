"""What is in a cache, whether it is still right, and how it gets smaller. Everything here blocks.

A model is removed by renaming its directory: nobody finds half of one, and who has its files mapped keeps them.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from tfjs_fetch.cache.folder import Folder
from tfjs_fetch.cache.journal import Journal, Noted, is_gone, line_of, owner, read_journal
from tfjs_fetch.cache.partials import JOURNAL, PREFIX, SUMMARY, group_file
from tfjs_fetch.cache.records import Record, unseal
from tfjs_fetch.cache.shelf import ABANDONED_SECONDS, GENERATION, RECORD
from tfjs_fetch.redaction import redact
from tfjs_fetch.stretches import Stretches
from tfjs_fetch.urls import Remote, locate

_READ_BYTES = 2**20
_MOST_RECORD_BYTES = 256 * 2**20
# Seconds after which a generation that no record names was left by somebody who did not come to that.
_NAMELESS_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Kept:
    """A model in the cache, or what is there of one that did not come to be complete (`record` is None).

    `nbytes` counts the bytes of its files; `used` is in seconds since the epoch. While it is `busy`, somebody may be
    downloading it.
    """

    directory: Path
    record: Record | None
    nbytes: int
    used: float
    busy: bool = False

    @property
    def url(self) -> str:
        """The URL of its document, without query; "" if it is incomplete."""
        return self.record.url if self.record is not None else ""


@dataclass(frozen=True, slots=True)
class Damage:
    """What `verify` found of one model: the URLs of files that are not what came once."""

    kept: Kept
    damaged: tuple[str, ...]


def kept_models(folder: Folder) -> Sequence[Kept]:
    """Return what is in the cache, the last used first. Raises CacheError if that is not to be trusted."""
    if not folder.exists():
        return []
    found = [_kept(folder, entry) for entry in _entries(folder)]
    return sorted(found, key=lambda kept: kept.used, reverse=True)


def of_url(folder: Folder, url: str) -> Sequence[Kept]:
    """Return the models whose document is at `url`, whoever's they are."""
    place = locate(url)
    shown = redact(place.url if isinstance(place, Remote) else url)
    return [kept for kept in kept_models(folder) if kept.record is not None and kept.url == shown]


def remove(folder: Folder, models: Sequence[Kept]) -> None:
    """Remove models."""
    for kept in models:
        folder.discard(kept.directory)


def surplus(folder: Folder, *, older_than: float | None = None, max_bytes: int | None = None) -> Sequence[Kept]:
    """Return the models that were not used for `older_than` seconds, and those that are too many for `max_bytes`."""
    models, now, total = kept_models(folder), time.time(), 0
    found = []
    for kept in models:
        total += kept.nbytes
        if kept.busy:
            continue
        old = older_than is not None and now - kept.used > older_than
        if old or (max_bytes is not None and total > max_bytes):
            found.append(kept)
            total -= kept.nbytes
    return found


def leftovers(folder: Folder) -> Sequence[Path]:
    """Return what was left by those who are gone: downloads that nobody works on, generations that no record names."""
    found = list(folder.trash.iterdir()) if folder.exists() and folder.trash.is_dir() else []
    for entry in _entries(folder):
        record = _record(folder, entry)
        for path in entry.iterdir():
            with suppress(OSError):
                age = time.time() - path.stat().st_mtime
                if path.name.startswith(PREFIX):
                    journal = read_journal(folder.read(path / JOURNAL, _MOST_RECORD_BYTES) or b"")
                    if age > ABANDONED_SECONDS or (journal is not None and is_gone(journal) and record is not None):
                        found.append(path)
                nameless = path.name.startswith(GENERATION) and (record is None or record.generation != path.name)
                if nameless and age > _NAMELESS_SECONDS:
                    found.append(path)
    return found


def verify(folder: Folder, kept: Kept) -> Damage:
    """Compare the files of a model with their checksums; if some differ, it has to come again, but for the others."""
    record = kept.record
    assert record is not None
    directory = kept.directory / record.generation
    document = folder.read(directory / "model.json", _MOST_RECORD_BYTES)
    damaged = [] if document is not None and _sum_of(document) == record.document.sha256 else [record.document.url]
    good = Journal(owner())
    index = 0
    for group, entries in enumerate(record.shards):
        starts = accumulate((entry.size for entry in entries), initial=0)
        for start, entry in zip(starts, entries, strict=False):
            if not entry.size or _file_sum(folder, directory / group_file(group), start, entry.size) == entry.sha256:
                there = Stretches([(0, entry.size)])
                good.shards[index] = Noted(replace(entry, sha256=""), group, start, there)
            else:
                damaged.append(entry.url)
            index += 1
    current = _record(folder, kept.directory)
    if current is None or current.generation != record.generation:
        return Damage(kept, ())  # there is another one meanwhile
    if damaged:
        _demote(folder, kept, record, good)
    return Damage(kept, tuple(damaged))


def _demote(folder: Folder, kept: Kept, record: Record, good: Journal) -> None:
    """Make a generation a download that was left: the next one takes from it what is good."""
    directory = kept.directory / record.generation
    with folder.translated("be mended"):
        (kept.directory / RECORD).unlink()
        lines = good.summary().rpartition(b'["sum"')[0]
        folder.replace(directory / JOURNAL, lines + line_of(["closed"]), lasting=True)
        folder.replace(directory / SUMMARY, good.summary(), lasting=True)
        directory.rename(kept.directory / f"{PREFIX}{secrets.token_hex(8)}")


def _entries(folder: Folder) -> Iterator[Path]:
    if folder.exists():
        for fan in folder.entries.iterdir():
            if fan != folder.trash and fan.is_dir() and not fan.is_symlink():
                yield from (entry for entry in fan.iterdir() if entry.is_dir() and not entry.is_symlink())


def _kept(folder: Folder, entry: Path) -> Kept:
    record, used = _record(folder, entry), 0.0
    with suppress(OSError):
        used = ((entry / RECORD) if record is not None else entry).stat().st_mtime
    busy = any(not _is_left(folder, path) for path in entry.iterdir() if path.name.startswith(PREFIX))
    return Kept(entry, record, sum(_sizes(entry)), used, busy)


def _is_left(folder: Folder, path: Path) -> bool:
    """Whether it is certain that nobody works on a download any more."""
    journal = read_journal(folder.read(path / JOURNAL, _MOST_RECORD_BYTES) or b"")
    with suppress(OSError):
        old = time.time() - (path / JOURNAL).stat().st_mtime > ABANDONED_SECONDS
        return old or (journal is not None and is_gone(journal))
    return False


def _record(folder: Folder, entry: Path) -> Record | None:
    data = folder.read(entry / RECORD, _MOST_RECORD_BYTES)
    return None if data is None else unseal(Record, data)


def _sizes(entry: Path) -> Iterator[int]:
    for directory, _, names in os.walk(entry):
        for name in names:
            with suppress(OSError):
                yield (Path(directory) / name).lstat().st_size


def _sum_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_sum(folder: Folder, path: Path, start: int, size: int) -> str:
    digest = hashlib.sha256()
    try:
        with folder.opened(path) as descriptor:
            os.lseek(descriptor, start, os.SEEK_SET)
            while size and (data := os.read(descriptor, min(size, _READ_BYTES))):
                digest.update(data)
                size -= len(data)
    except OSError:
        return ""
    return "" if size else digest.hexdigest()
