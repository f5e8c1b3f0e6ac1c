"""A directory of this machine as the files of a mock server."""

import mmap
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mock_server.files import Entry, File


@dataclass(frozen=True, slots=True)
class Directory:
    """The files below `root`, read from disk as they are sent; `configure` may change how each is served."""

    root: Path
    configure: Callable[[File], File] = replace

    def find(self, path: str) -> Entry | None:
        """The file for the decoded URL `path`; None if there is none or if it is not below the root.

        A link is followed as long as it does not lead out; what cannot be read is not there.
        """
        root = self.root.resolve()
        try:
            inside = (root / path.lstrip("/")).resolve()
            if inside.is_relative_to(root) and inside.is_file():
                return self.configure(_mapped(inside))
        except (OSError, ValueError):
            # No permission, too long a name, a NUL in it: the URL is the client's choice.
            return None
        return None


def _mapped(path: Path) -> File:
    status = path.stat()
    return File(
        _content(path),
        # A hash would read all of a large file before the first byte leaves.
        etag=f'"{status.st_size:x}-{status.st_mtime_ns:x}"',
        last_modified=datetime.fromtimestamp(status.st_mtime, UTC),
    )


def _content(path: Path) -> memoryview:
    with path.open("rb") as opened:
        if path.stat().st_size == 0:
            # An empty file cannot be mapped.
            return memoryview(b"")
        return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
