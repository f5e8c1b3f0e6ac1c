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
from collections.abc import Iterator, Sequence
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
# The files of so many groups stay open; those of others are opened for each write.
_MOST_OPEN = 16
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
        """Do nothing yet: see `create`. `needed` counts the bytes of all files, as far as that is known."""
        self.directory = entry / f"{PREFIX}{secrets.token_hex(8)}"
        self.journal = Journal({})
        self.unsynced = 0
        self._folder, self._needed = folder, needed
        self._groups: dict[int, int] = {}  # descriptors of the files that stay open
        self._made: list[int] = []  # all groups that have a file
        self._unsynced_groups: set[int] = set()
        self._sums: dict[int, _Sum] = {}
        self._descriptor = -1
        self._lock = threading.Lock()  # for the journal and what is counted
        # A thread whose task was cancelled may go on for a while: nothing is closed beneath it.
        self._guard = threading.RLock()
        self._closed = False
        # Without pwrite, as on Windows, a file has one place at a time where it is written.
        self._place_lock = nullcontext() if hasattr(os, "pwrite") else threading.Lock()

    def create(self) -> None:
        """Make the directory. Raises CacheError if it cannot be written."""
        self._folder.prepare()
        self.journal = Journal(owner())
        with self._guard, self._translated():
            if self._closed:
                return
            for directory in (self.directory.parent.parent, self.directory.parent):
                directory.mkdir(mode=0o700, exist_ok=True)
            self.directory.mkdir(mode=0o700)
            self._descriptor = self._folder.create(self.directory / JOURNAL)
            self._note(dict(self.journal.owner))

    def reserve(self, group: int, size: int) -> None:
        """Make the file of a group, with room for `size` bytes. Raises CacheError if there is none."""
        with self._translated():
            descriptor = self._folder.create(self.directory / group_file(group))
            self._made.append(group)
            try:
                _allocate(descriptor, size)
            except BaseException:
                os.close(descriptor)
                raise
            if len(self._groups) < _MOST_OPEN:
                self._groups[group] = descriptor
            else:
                os.close(descriptor)

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

    def sum_up(self, index: int, start: int, data: memoryview) -> None:
        """Add bytes of a shard, from its byte `start` on, to its checksum, before they are written."""
        self._sums[index].add(start, data)

    def write(self, pieces: Sequence[tuple[int, int, memoryview]]) -> None:
        """Write pieces of shards: the index of each one's shard, from which byte of it on, and its bytes."""
        with self._translated():
            for index, start, data in pieces:
                noted = self.journal.shards[index]
                self._write(noted.group, data, noted.start + start)
            with self._lock:
                for index, start, data in pieces:
                    self.journal.shards[index].there.add(start, start + len(data))
                    self.unsynced += len(data)
                self._note(*(["bytes", index, start, start + len(data)] for index, start, data in pieces))

    def sync(self) -> None:
        """Put on the disk what is written, so that it outlives the machine."""
        with self._translated():
            with self._lock:
                summary, count, groups = self.journal.summary(), self.unsynced, self._unsynced_groups
                self._unsynced_groups = set()
            for group in groups:
                with self._opened(group) as descriptor:
                    _sync(descriptor)
            self._folder.replace(self.directory / SUMMARY, summary, lasting=True)
            with self._lock:
                self.unsynced -= count

    def copy(self, index: int, path: Path, found: Noted, there: Stretches) -> bool:
        """Copy the bytes `there` of a shard from the file `path`, in which it lies as `found` says.

        Returns whether they are what `found` says, as far as that tells; else what came is of no use.
        """
        try:
            with self._guard, self._folder.opened(path) as descriptor:
                for start, stop in there:
                    for at in range(start, stop, _READ_BYTES):
                        data = _read(descriptor, found.start + at, min(stop - at, _READ_BYTES))
                        self.sum_up(index, at, memoryview(data))
                        self.write([(index, at, memoryview(data))])
        except (OSError, EOFError):
            return False
        return found.entry.sha256 in ("", self._sums[index].sha256.hexdigest())

    def finished(self, index: int) -> Entry:
        """Return the entry of a shard that is there, with the checksum of its bytes."""
        noted, done = self.journal.shards[index], self._sums[index]
        size = noted.there.stop
        with self._guard, self._translated():
            while done.position < size:
                at = done.position
                with self._place_lock, self._opened(noted.group) as descriptor:
                    data = _read(descriptor, noted.start + at, min(size - at, _READ_BYTES))
                done.add(at, data)
        return replace(noted.entry, size=size, sha256=done.sha256.hexdigest())

    def put(self, group: int, data: bytes) -> None:
        """Write the file of a group that came as a whole."""
        with self._guard, self._translated():
            with self._opened(group) as descriptor:
                os.truncate(descriptor, len(data))
            self._write(group, memoryview(data), 0)

    def keep_document(self, content: bytes) -> None:
        """Write the document, and put it on the disk."""
        with self._translated():
            self._folder.replace(self.directory / DOCUMENT, content, lasting=True)

    def publish(self, name: str) -> Path:
        """Put everything on the disk and give the directory its final name, which nobody knows yet."""
        with self._guard, self._translated():
            for group in self._made:
                with self._opened(group) as descriptor:
                    if group in self._unsynced_groups:
                        _sync(descriptor)
                    if hasattr(os, "fchmod"):
                        os.fchmod(descriptor, 0o400)
            self._end()
            final = self.directory.with_name(name)
            self.directory.rename(final)
            for leftover in (JOURNAL, SUMMARY):
                with suppress(OSError):
                    (final / leftover).unlink()
        return final

    def close(self, *, useful: bool) -> None:
        """Leave what is there to others if it is `useful`, else remove it. Does nothing if it is published."""
        useful = useful and any(noted.there for noted in self.journal.shards.values())
        with self._guard:
            self._closed = True
            if self._descriptor >= 0:
                with self._lock, suppress(OSError):
                    self._note(["closed"])
                self._end()
                if useful:
                    return
            self._folder.discard(self.directory)  # if it was made at all, and is not published

    def _write(self, group: int, data: memoryview, position: int) -> None:
        with self._lock:
            self._unsynced_groups.add(group)
        with self._place_lock, self._opened(group) as descriptor:
            _write(descriptor, data, position)

    @contextmanager
    def _opened(self, group: int) -> Iterator[int]:
        """Give the descriptor of the file of a group."""
        if (kept := self._groups.get(group)) is not None:
            yield kept
            return
        descriptor = self._folder.reopen(self.directory / group_file(group))
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _end(self) -> None:
        if self._descriptor < 0:
            return
        for descriptor in (self._descriptor, *self._groups.values()):
            os.close(descriptor)
        self._descriptor = -1
        self._groups.clear()

    def _note(self, *lines: object) -> None:
        os.write(self._descriptor, b"".join(map(line_of, lines)))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what the system says as CacheError; of a full disk with how much room is needed."""
        try:
            yield
        except OSError as error:
            needed = self._needed if error.errno in _FULL else None
            raise CacheError(str(self._folder.root), f"cannot be written: {error.strerror or error}", needed) from error


def _allocate(descriptor: int, size: int) -> None:
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            # Some file systems have no such thing.
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
    os.truncate(descriptor, size)


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
