"""The directory of a cache on disk: who may use it, and the few things that are done in it.

Everything here blocks, and is called in worker threads. Correctness rests on two things only: files that are handed
out are never changed once they have their name, and small files are replaced by renaming.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tfjs_fetch.errors import CacheError

_VERSION = "v1"
_READ_BYTES = 2**20
_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Downloaded models; see https://bford.info/cachedir/\n"
# Absent on Windows, where there are no links to files that everybody may make.
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Folder:
    """The directory `root` of a cache."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries = root / _VERSION
        self.trash = root / _VERSION / "trash"

    def exists(self) -> bool:
        """Whether there is one. Raises CacheError if it is not to be trusted."""
        with self.translated("be looked at"):
            try:
                found = self.root.lstat()
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                return False  # to nobody's harm: what is not to be seen is not used
            self._check(found)
            return self.entries.is_dir() and not self.entries.is_symlink()

    def prepare(self) -> None:
        """Make it if need be. Raises CacheError if that cannot be, or if it is not to be trusted."""
        with self.translated("be made"):
            self.root.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self.root.mkdir(mode=0o700)
                (self.root / "CACHEDIR.TAG").write_text(_TAG)
                (self.root / ".gitignore").write_text("*\n")
            self._check(self.root.lstat())
            for directory in (self.entries, self.trash):
                directory.mkdir(mode=0o700, exist_ok=True)
                if directory.is_symlink():
                    raise CacheError(str(directory), "is a symbolic link")

    def entry(self, key: str) -> Path:
        """Return where the model with that key is."""
        return self.entries / key[:2] / key

    def read(self, path: Path, most: int) -> bytes | None:
        """Return the content of a file of up to `most` bytes; None if there is none, or a longer one."""
        try:
            with self.opened(path) as descriptor:
                data = bytearray()
                while piece := os.read(descriptor, min(_READ_BYTES, most + 1 - len(data))):
                    data += piece
        except OSError:
            return None
        return bytes(data) if len(data) <= most else None

    @contextmanager
    def opened(self, path: Path) -> Iterator[int]:
        """Give the descriptor of a regular file that is no link, to read."""
        descriptor = os.open(path, os.O_RDONLY | _NOFOLLOW)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(f"{path} is no file")
            yield descriptor
        finally:
            os.close(descriptor)

    def create(self, path: Path) -> int:
        """Return the descriptor of a new file, to be read and written."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o600)

    def reopen(self, path: Path) -> int:
        """Return the descriptor of a file that is there, to be read and written."""
        return os.open(path, os.O_RDWR | _NOFOLLOW)

    def replace(self, path: Path, data: bytes, *, lasting: bool = False) -> None:
        """Give the file `path` the content `data`, all at once; with `lasting` it is on the disk before."""
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        descriptor = self.create(draft)
        try:
            try:
                written = os.write(descriptor, data)
                while written < len(data):
                    written += os.write(descriptor, data[written:])
                if lasting:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise

    def discard(self, path: Path) -> None:
        """Remove a directory: nobody finds half of it. Where a file of it is in use, as on Windows, it may stay."""
        with suppress(OSError):
            self.trash.mkdir(mode=0o700, exist_ok=True)
            gone = self.trash / secrets.token_hex(8)
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Raise what the system says as CacheError: the cache cannot `what`."""
        try:
            yield
        except OSError as error:
            raise CacheError(str(self.root), f"cannot {what}: {error.strerror or error}") from error

    def _check(self, found: os.stat_result) -> None:
        """Raise CacheError unless it is a directory of this user that nobody else may write to."""
        problem = None
        if stat.S_ISLNK(found.st_mode):
            problem = "is a symbolic link; name the directory that it leads to"
        elif not stat.S_ISDIR(found.st_mode):
            problem = "is no directory"
        elif hasattr(os, "geteuid") and found.st_uid not in (os.geteuid(), 0):
            problem = "belongs to another user, who could put any weights there"
        elif os.name == "posix" and found.st_mode & stat.S_IWOTH:
            problem = "is writable by everybody, who could put any weights there; chmod 700 would mend that"
        if problem is not None:
            raise CacheError(str(self.root), problem)
