"""What is on disk of a download that is under way, as lines of JSON, each written at once and never changed.

    {"boot": ..., "host": ..., "pid": ..., "started": ...}   the first line: who downloads
    ["shard", index, group, start, {...}]    from here on bytes of that shard lie from `start` of that group's file on
    ["bytes", index, start, stop]            these bytes of the shard are in the file
    ["drop", index]                          what was said of that shard is not so
    ["closed"]                               nobody adds anything any more

Lines are believed under the boot of the machine in which they were written: what a process wrote before it was killed
is there all the same. After the power went off only a summary counts, which is made of the same lines and a checksum,
and was written to the disk after the bytes that it tells of.
"""

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tfjs_fetch.cache.records import Entry
from tfjs_fetch.stretches import Stretches

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_ENTRY = TypeAdapter(Entry)


@dataclass
class Noted:
    """A shard in the files of a download: where it begins in the file of its group, and which bytes of it are there."""

    entry: Entry
    group: int
    start: int
    there: Stretches = field(default_factory=Stretches)


@dataclass
class Journal:
    """What the lines of a journal say together."""

    owner: Mapping[str, Any]
    shards: dict[int, Noted] = field(default_factory=dict)
    closed: bool = False

    def take(self, line: Any) -> None:
        """Take one line, parsed; ValueError, TypeError or KeyError if it is none."""
        match line:
            case ["shard", int(index), int(group), int(start), dict(entry)]:
                self.shards[index] = Noted(_ENTRY.validate_python(entry), group, start)
            case ["bytes", int(index), int(start), int(stop)] if 0 <= start < stop:
                self.shards[index].there.add(start, stop)
            case ["drop", int(index)]:
                self.shards.pop(index, None)
            case ["closed"]:
                self.closed = True
            case _:
                raise ValueError(line)

    def summary(self) -> bytes:
        """Return the fewest lines that say the same, with a checksum."""
        lines = b"".join(map(line_of, self._lines()))
        return lines + line_of(["sum", hashlib.sha256(lines).hexdigest()])

    def _lines(self) -> Iterator[Any]:
        yield dict(self.owner)
        for index, noted in self.shards.items():
            yield shard_line(index, noted)
            yield from (["bytes", index, *stretch] for stretch in noted.there)


def line_of(value: Any) -> bytes:
    """Return a line of a journal."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def shard_line(index: int, noted: Noted) -> Any:
    """Return what the line says from which on a shard is known."""
    return ["shard", index, noted.group, noted.start, asdict(noted.entry)]


def read_journal(data: bytes) -> Journal | None:
    """Return what a journal says as far as its lines are whole; None if not even the first one is."""
    journal: Journal | None = None
    for text in data.split(b"\n")[:-1]:
        try:
            line = json.loads(text)
            if journal is None:
                journal = Journal(dict(line))
            else:
                journal.take(line)
        except (ValueError, TypeError, KeyError, RecursionError, ValidationError):
            break
    return journal


def read_summary(data: bytes) -> Journal | None:
    """Return what a summary says; None if it is torn."""
    lines, _, last = data.rstrip(b"\n").rpartition(b"\n")
    lines += b"\n"
    if last + b"\n" != line_of(["sum", hashlib.sha256(lines).hexdigest()]):
        return None
    return read_journal(lines)


def boot() -> str:
    """Return what tells one run of this machine from the next; "" if nothing does."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def owner() -> Mapping[str, Any]:
    """Return who downloads."""
    return {"boot": boot(), "host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_gone(journal: Journal) -> bool:
    """Whether it is certain that nobody adds anything any more."""
    who, here = journal.owner, owner()
    if journal.closed:
        return True
    if who.get("host") != here["host"] or not here["boot"]:
        return False
    return who.get("boot") != here["boot"] or _started(who.get("pid")) != who.get("started")


def _started(pid: Any) -> str:
    """Return when a process began, "" if there is none: its number alone may be another's by now."""
    try:
        # Behind the name of the program, which may hold anything, the 20th field (proc_pid_stat(5)).
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, ValueError, TypeError, IndexError):
        return ""
