"""The peak of anonymous memory of this process, exact however short it is: nothing is sampled. Linux only.

The kernel's high-water mark of resident memory is reset (5 into /proc/self/clear_refs) and read later (VmHWM). The
pages of files (RssFile, RssShmem) are taken off, which leaves the anonymous ones.
"""

from collections.abc import Mapping
from pathlib import Path


class Peak:
    """The peak from now on."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status()["RssAnon"]

    def above(self) -> int:
        """Return how many bytes the peak since the beginning is above the memory that was there then."""
        after = _status()
        return after["VmHWM"] - after["RssFile"] - after["RssShmem"] - self._before


def _status() -> Mapping[str, int]:
    """Return the sizes in /proc/self/status, in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}
