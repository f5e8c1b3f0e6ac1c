"""What the cache writes down of a model: values, and their JSON, which tells when it is torn.

No URL is written with its query, its name or its password, and of headers validators alone. A record that cannot be
read, for whatever reason, is none.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from tfjs_fetch.redaction import redact
from tfjs_fetch.representation import Version

# Part of every key: what another format has written is not found.
FORMAT = "tfjs_fetch 1"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a model as a server gave it.

    `url` is for people; `address` is a checksum of the URL without its query, which may be a signature, and of its path
    in model.json. `etag`, `last_modified`, `whole` (bytes of the whole file on the wire) and `validator` name its
    version. `size` counts the bytes that are kept, `sha256` is theirs. `fresh_until` is in seconds since the epoch:
    until then the server need not be asked.
    """

    url: str
    address: str
    etag: str = ""
    last_modified: str = ""
    whole: int | None = None
    validator: str | None = None
    fresh_until: float = 0.0
    size: int = 0
    sha256: str = ""

    @classmethod
    def of(cls, url: str, version: Version, now: float, path: str = "") -> "Entry":
        """Return the entry for what came from `url`, which model.json calls `path`; its bytes are yet to be counted."""
        names = version.etag, version.last_modified, version.size, version.validator
        return cls(redact(url), address(url, path), *names, now + version.lifetime.seconds)

    @property
    def version(self) -> Version:
        """What names its version."""
        return Version(self.etag, self.last_modified, self.whole, self.validator)

    @property
    def is_named(self) -> bool:
        """Whether a server can be asked if it still has this version."""
        return bool(self.etag or self.last_modified)


@dataclass(frozen=True, slots=True)
class Record:
    """Which generation of a model is the current one: its directory, its document, one entry for each shard.

    `groups` are the lengths of the files of groups, `made` is in seconds since the epoch.
    """

    url: str
    generation: str
    document: Entry
    groups: tuple[int, ...]
    shards: tuple[tuple[Entry, ...], ...]
    made: float

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The document and all shards."""
        return self.document, *(entry for group in self.shards for entry in group)

    @property
    def fresh_until(self) -> float:
        """Until when no server need be asked for any of it."""
        return min(entry.fresh_until for entry in self.entries)


def key(
    url: str, headers: Mapping[str, str], scope: str | None, shard_url: str | None, extra_bytes: str = "error"
) -> str:
    """Return the name of the entry for the model at `url`, as it is fetched with these credentials.

    `shard_url` says where the shards are if not beside the document, `extra_bytes` what is tolerated of them.
    """
    personal = sorted((name.lower(), value) for name, value in headers.items())
    return _digest(json.dumps([FORMAT, url, personal, scope, shard_url, extra_bytes]).encode())


def address(url: str, path: str) -> str:
    """Return what tells one file from another: its URL without the query, for links are signed anew, and its path."""
    return _digest(json.dumps([redact(url), path]).encode())


def seal(value: object) -> bytes:
    """Return a dataclass as JSON, with a checksum."""
    content = json.dumps(asdict(value), separators=(",", ":"))  # type: ignore[call-overload]
    return f'{{"sha256":"{_digest(content.encode())}","content":{content}}}\n'.encode()


def unseal(kind: type[Value], data: bytes) -> Value | None:
    """Return the value that `seal` made `data` of; None if it is torn, or none of that kind."""
    try:
        sealed = json.loads(data)
        content = json.dumps(sealed["content"], separators=(",", ":"))
        if sealed["sha256"] != _digest(content.encode()):
            return None
        return TypeAdapter(kind).validate_json(content)
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
        return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
