"""A download on disk while it is under way: files of its own, which nobody else ever writes to.

The steps, and what is left if the process or the machine ends there:

1. a directory `partial-…` with the journal: nothing in it, removed later
2. the files of the groups, their room reserved: likewise
3. bytes, and after each piece a line in the journal: what the lines tell of is there, and the next download takes it
4. now and then the bytes are put on the disk, and then a summary of the journal: that outlives the machine as well
5. all on the disk, the directory gets the name of a generation: nobody knows it yet, it is removed later
6. the record names it: done

Bytes that the journal tells of are never written again, so that others can copy them at any time. Everything here
blocks, and is called in worker threads; one shard is written by one thread at a time.
"""

import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tfjs_fetch.cache.folder import Folder
from tfjs_fetch.cache.journal import Journal, Noted, line_of, owner, shard_line
from tfjs_fetch.cache.records import Entry
from tfjs_fetch.errors import CacheError
from tfjs_fetch.stretches import Stretches

DOCUMENT = "model.json"
JOURNAL = "journal"
SUMMARY = "summary"
PREFIX = "partial-"
# Bytes that the end of the machine may cost.
SYNC_BYTES = 16 * 2**20
_READ_BYTES = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def group_file(group: int) -> str:
    """Return the name of the file of a group."""
    return f"weights-{group}.bin"


@dataclass
class _Sum:
    """The checksum of a shard's first bytes, up to `position`."""

    position: int = 0
    sha256: "hashlib._Hash" = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def add(self, start: int, data: memoryview | bytes) -> None:
        """Add `data` if it comes next."""
        if start == self.position:
            self.sha256.update(data)
            self.position += len(data)


class Partial:
    """The files of one download."""

    def __init__(self, folder: Folder, entry: Path, needed: int) -> None:
        """Make the directory. `needed` counts the bytes that all files will have, as far as that is known."""
        self.directory = entry / f"{PREFIX}{secrets.token_hex(8)}"
        self.journal = Journal(owner())
        self._folder, self._needed = folder, needed
        self._groups: dict[int, int] = {}  # descriptors
        self._sums: dict[int, _Sum] = {}
        self._lock = threading.Lock()  # for the journal and what is counted
        # Without pwrite, as on Windows, a file has one place at a time where it is written.
        self._place_lock = nullcontext() if hasattr(os, "pwrite") else threading.Lock()
        self.unsynced = 0
        with self._translated():
            for directory in (entry.parent, entry):
                directory.mkdir(mode=0o700, exist_ok=True)
            self.directory.mkdir(mode=0o700)
            self._descriptor = folder.create(self.directory / JOURNAL)
            self._note(dict(self.journal.owner))

    def reserve(self, group: int, size: int) -> None:
        """Make the file of a group, with room for `size` bytes. Raises CacheError if there is none."""
        with self._translated():
            self._groups[group] = descriptor = self._folder.create(self.directory / group_file(group))
            if size and hasattr(os, "posix_fallocate"):
                try:
                    os.posix_fallocate(descriptor, 0, size)
                except OSError as error:
                    # Some file systems have no such thing.
                    if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                        raise
            os.truncate(descriptor, size)

    def begin(self, index: int, noted: Noted) -> None:
        """Take note of what will come of the shard `index`."""
        with self._translated(), self._lock:
            self.journal.shards[index] = Noted(noted.entry, noted.group, noted.start)
            self._sums[index] = _Sum()
            self._note(shard_line(index, noted))

    def drop(self, index: int) -> None:
        """Take note that what came of a shard is of no use."""
        with self._translated(), self._lock:
            self.journal.shards.pop(index, None)
            self._note(["drop", index])

    def write(self, index: int, start: int, data: memoryview) -> None:
        """Write bytes of a shard, from its byte `start` on."""
        noted = self.journal.shards[index]
        with self._translated():
            self._write(noted.group, data, noted.start + start)
            self._sums[index].add(start, data)
            with self._lock:
                noted.there.add(start, start + len(data))
                self.unsynced += len(data)
                self._note(["bytes", index, start, start + len(data)])

    def sync(self) -> None:
        """Put on the disk what is written, so that it outlives the machine."""
        with self._translated():
            with self._lock:
                summary, count, groups = self.journal.summary(), self.unsynced, list(self._groups.values())
            for descriptor in groups:
                _sync(descriptor)
            self._folder.replace(self.directory / SUMMARY, summary, lasting=True)
            with self._lock:
                self.unsynced -= count

    def copy(self, index: int, path: Path, found: Noted, there: Stretches) -> bool:
        """Copy the bytes `there` of a shard from the file `path`, in which it lies as `found` says.

        Returns whether they are what `found` says, as far as that tells; else what came is of no use.
        """
        try:
            with self._folder.opened(path) as descriptor:
                for start, stop in there:
                    for at in range(start, stop, _READ_BYTES):
                        data = _read(descriptor, found.start + at, min(stop - at, _READ_BYTES))
                        self.write(index, at, memoryview(data))
        except (OSError, EOFError):
            return False
        return found.entry.sha256 in ("", self._sums[index].sha256.hexdigest())

    def finished(self, index: int) -> Entry:
        """Return the entry of a shard that is there, with the checksum of its bytes."""
        noted, done = self.journal.shards[index], self._sums[index]
        size = noted.there.stop
        with self._translated():
            while done.position < size:
                at = done.position
                with self._place_lock:
                    data = _read(self._groups[noted.group], noted.start + at, min(size - at, _READ_BYTES))
                done.add(at, data)
        return replace(noted.entry, size=size, sha256=done.sha256.hexdigest())

    def put(self, group: int, data: bytes) -> None:
        """Write the file of a group that came as a whole."""
        with self._translated():
            os.truncate(self._groups[group], len(data))
            self._write(group, memoryview(data), 0)

    def publish(self, document: bytes, name: str) -> Path:
        """Put everything on the disk and give the directory its final name, which nobody knows yet."""
        with self._translated():
            for descriptor in self._groups.values():
                _sync(descriptor)
                if hasattr(os, "fchmod"):
                    os.fchmod(descriptor, 0o400)
            self._folder.replace(self.directory / DOCUMENT, document)
            self._end()
            final = self.directory.with_name(name)
            self.directory.rename(final)
            for leftover in (JOURNAL, SUMMARY):
                with suppress(OSError):
                    (final / leftover).unlink()
        return final

    def close(self, *, useful: bool) -> None:
        """Leave what is there to others if it is `useful`, else remove it. Does nothing if it is published."""
        with self._lock:
            if self._descriptor < 0:
                return
            with suppress(OSError):
                self._note(["closed"])
        self._end()
        if not useful:
            self._folder.discard(self.directory)

    def _write(self, group: int, data: memoryview, position: int) -> None:
        with self._place_lock:
            _write(self._groups[group], data, position)

    def _end(self) -> None:
        for descriptor in (self._descriptor, *self._groups.values()):
            os.close(descriptor)
        self._descriptor = -1
        self._groups.clear()

    def _note(self, line: object) -> None:
        os.write(self._descriptor, line_of(line))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what the system says as CacheError; of a full disk with how much room is needed."""
        try:
            yield
        except OSError as error:
            needed = self._needed if error.errno in _FULL else None
            raise CacheError(str(self._folder.root), f"cannot be written: {error.strerror or error}", needed) from error


def _write(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        if hasattr(os, "pwrite"):
            written = os.pwrite(descriptor, data, position)
        else:
            os.lseek(descriptor, position, os.SEEK_SET)
            written = os.write(descriptor, data)
        data, position = data[written:], position + written


def _read(descriptor: int, position: int, count: int) -> bytes:
    """Return `count` bytes; EOFError if there are fewer."""
    if hasattr(os, "pread"):
        data = os.pread(descriptor, count, position)
    else:
        os.lseek(descriptor, position, os.SEEK_SET)
        data = os.read(descriptor, count)
    if not data:
        raise EOFError
    return data if len(data) == count else data + _read(descriptor, position + len(data), count - len(data))


def _sync(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)
