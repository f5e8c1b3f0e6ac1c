"""Models on disk and in archives: the document, and the shards as buffers.

Files of a directory are mapped, so their weights cost no memory of ours until they are used. Members of archives are
read into memory, never onto the disk, and only those that model.json lists. What a name leads to stays inside: no
parent directories, no absolute paths, no links in archives; and no more is unpacked than `Limits` allow.
"""

import gzip
import mmap
import os
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from tfjs_fetch.config import Limits
from tfjs_fetch.errors import RefusedError, UnreachableError, WrongContentError
from tfjs_fetch.redaction import redact_path

_DOCUMENT = "model.json"
# JSON files that lie beside a model and are none: ml5.js and Teachable Machine write them.
_COMPANIONS = ("metadata.json", "package.json", "labels.json", "class_names.json")
_COMPANION_ENDING = "_meta.json"
_MAX_MEMBERS = 100_000
# How much of an archive is read at once; of a zip's index, of the extended headers of a tar, of a member.
_INDEX_BYTES = 4 * 2**20
_HEADER_BYTES = 64 * 1024
# And of all headers of one member: the map of a sparse file is as long as it likes, and becomes lists in Python.
_HEADERS_BYTES = 1024 * 1024
_PIECE_BYTES = 64 * 1024
_PADDING_PIECES = 16
# What the standard library raises for archives that are none; RuntimeError for encrypted ones and for endless headers.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
)


class Files(Protocol):
    """The files of one model."""

    def document(self) -> bytes:
        """Return the model.json, or whatever it is called."""

    def size(self, path: str) -> int | None:
        """Return the length of the file that model.json calls `path`; None if there is none."""

    def shards(self, paths: Iterable[str], most: int) -> Mapping[str, memoryview]:
        """Return the content of the files that model.json calls `paths`, together at most `most` bytes unpacked."""


def open_files(path: Path, limits: Limits) -> Files:
    """Return the files of the model at `path`: a JSON, a directory with one, a .zip or a .tar.gz with one.

    Raises UnreachableError if there is none.
    """
    try:
        names = [entry.name for entry in path.iterdir() if entry.is_file()] if path.is_dir() else None
    except (OSError, ValueError) as error:
        raise UnreachableError(str(path), _reason(error), final=True) from error
    if names is not None:
        return DirectoryFiles(path / choose_document(str(path), names), limits)
    if path.name.lower().endswith((".zip", ".tar.gz", ".tgz")):
        return open_archive(str(path), _open(path), limits)
    return DirectoryFiles(path, limits)


def open_archive(source: str, file: IO[bytes], limits: Limits) -> Files:
    """Return the files of the model in the archive `file`, which its first bytes tell to be a zip or a tar."""
    start = file.read(4)
    file.seek(0)
    return ZipFiles(source, file, limits) if start[:2] == b"PK" else TarFiles(source, file, limits)


def choose_document(source: str, names: Collection[str]) -> str:
    """Return the name of the model's JSON: the `model.json` nearest to the root, else the only JSON there is.

    Raises UnreachableError if there is none, or if there are several and no telling.
    """
    jsons = [name for name in names if name.lower().endswith(".json") and _is_visible(name)]
    models = sorted((name.count("/"), name) for name in jsons if PurePosixPath(name).name == _DOCUMENT)
    if models:
        candidates = [name for depth, name in models if depth == models[0][0]]
    else:
        candidates = [name for name in jsons if not _is_companion(PurePosixPath(name).name.lower())]
    if len(candidates) == 1:
        return candidates[0]
    cure = "give the path of one of them; of an archive, unpacked"
    found = f"it has {', '.join(sorted(candidates)[:5])}: {cure}" if candidates else "no JSON is in it"
    raise UnreachableError(source, f"there is not one {_DOCUMENT}; {found}", final=True)


class DirectoryFiles:
    """A JSON file and the files around it."""

    def __init__(self, document: Path, limits: Limits) -> None:
        self._document, self._limits = document, limits

    def document(self) -> bytes:
        """Return the content of the JSON file."""
        most = self._limits.manifest_bytes
        with _open(self._document) as file:
            try:
                data = file.read(most + 1)
            except OSError as error:
                raise UnreachableError(str(self._document), _reason(error), final=True) from error
        if len(data) > most:
            raise RefusedError(str(self._document), f"it has over {most:,} bytes, which is Limits.manifest_bytes")
        return data

    def size(self, path: str) -> int | None:
        """Return the length of a file."""
        try:
            return self._place(path).stat().st_size
        except (OSError, ValueError):
            return None

    def shards(self, paths: Iterable[str], most: int) -> Mapping[str, memoryview]:
        """Return the files, mapped read-only."""
        return {path: _mapped(self._place(path)) for path in paths}

    def _place(self, path: str) -> Path:
        return self._document.parent.joinpath(*inner_name(str(self._document), path).split("/"))


class ZipFiles:
    """A model in a zip archive."""

    def __init__(self, source: str, file: IO[bytes], limits: Limits) -> None:
        weakref.finalize(self, file.close)
        self._source, self._limits = source, limits
        try:
            self._archive = zipfile.ZipFile(_Guarded(file, _INDEX_BYTES, source).as_file())
            members = self._archive.infolist()
            if len(members) > _MAX_MEMBERS:
                raise RefusedError(source, f"it has over {_MAX_MEMBERS:,} members")
            self._members = {_member_name(source, info.filename): info for info in members if not info.is_dir()}
        except _DAMAGE as error:
            raise _damaged(source, error) from error
        self._name = choose_document(source, self._members.keys())

    def document(self) -> bytes:
        """Return the content of the JSON."""
        return bytes(self._read(self._name, self._limits.manifest_bytes))

    def size(self, path: str) -> int | None:
        """Return the length of a member, unpacked."""
        member = self._members.get(_beside(self._source, self._name, path))
        return None if member is None else member.file_size

    def shards(self, paths: Iterable[str], most: int) -> Mapping[str, memoryview]:
        """Return the members, unpacked."""
        contents: dict[str, memoryview] = {}
        for path in paths:
            content = self._read(_beside(self._source, self._name, path), most)
            most -= len(content)
            contents[path] = memoryview(content)
        return contents

    def _read(self, name: str, most: int) -> bytearray:
        if name not in self._members:
            raise _missing(self._source, name)
        info = self._members[name]
        if stat.S_ISLNK(info.external_attr >> 16):
            raise _linked(self._source, name)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # The others would be unpacked without a bound.
            raise RefusedError(self._source, f"its member {name!r} is compressed in another way than deflate")
        if info.file_size > most:
            raise RefusedError(self._source, f"its member {name!r} is too long ({_too_long(info.file_size, most)})")
        try:
            with self._archive.open(info) as member:
                return _content(member)
        except _DAMAGE as error:
            raise _damaged(self._source, error) from error


class TarFiles:
    """A model in a tar archive, compressed by gzip or not; it is read from front to back, once for each purpose."""

    def __init__(self, source: str, file: IO[bytes], limits: Limits) -> None:
        weakref.finalize(self, file.close)
        self._source, self._file, self._limits = source, file, limits
        self._links: set[str] = set()  # members that are neither files nor directories
        self._sizes = sizes = dict[str, int]()
        room = limits.manifest_bytes

        def is_json(name: str, size: int) -> bool:
            nonlocal room
            sizes[name] = size
            if not name.lower().endswith(".json") or size > room:
                return False
            room -= size
            return True

        jsons = self._unpack(is_json)
        self._name = choose_document(source, sizes)
        if self._name not in jsons:
            raise RefusedError(source, _too_long(sizes[self._name], limits.manifest_bytes))
        self._content = bytes(jsons[self._name])

    def document(self) -> bytes:
        """Return the content of the JSON."""
        return self._content

    def size(self, path: str) -> int | None:
        """Return the length of a member."""
        return self._sizes.get(_beside(self._source, self._name, path))

    def shards(self, paths: Iterable[str], most: int) -> Mapping[str, memoryview]:
        """Return the members, unpacked."""
        names = {path: _beside(self._source, self._name, path) for path in paths}
        wanted = frozenset(names.values())

        def is_wanted(name: str, size: int) -> bool:
            nonlocal most
            if name not in wanted:
                return False
            most -= size
            if most < 0:
                raise RefusedError(self._source, "its members are longer than model.json and Limits allow")
            return True

        contents = self._unpack(is_wanted)
        if missing := wanted - contents.keys():
            name = min(missing)
            raise _linked(self._source, name) if name in self._links else _missing(self._source, name)
        return {path: memoryview(contents[name]) for path, name in names.items()}

    def _unpack(self, wanted: Callable[[str, int], bool]) -> Mapping[str, bytearray]:
        """Return the contents of those regular files whose name and size are `wanted`; the last of a name counts."""
        most = self._limits.weight_bytes + self._limits.manifest_bytes
        contents: dict[str, bytearray] = {}
        try:
            with self._open() as (archive, guarded):
                for count, member in enumerate(_members(archive, guarded)):
                    most -= member.size
                    if member.size < 0:  # Python before 3.13.6 would go round in circles
                        raise tarfile.ReadError(f"{member.name!r} has a negative size")
                    if most < 0 or count >= _MAX_MEMBERS:
                        raise RefusedError(self._source, "it has more members, or longer ones, than Limits allow")
                    name = _member_name(self._source, member.name)
                    if not (member.isreg() or member.isdir()):
                        self._links.add(name)
                    if member.isreg() and wanted(name, member.size) and (file := archive.extractfile(member)):
                        contents[name] = _content(file)
        except _DAMAGE as error:
            raise _damaged(self._source, error) from error
        return contents

    @contextmanager
    def _open(self) -> Iterator[tuple[tarfile.TarFile, "_Guarded"]]:
        self._file.seek(0)
        packed = self._file.read(2) == b"\x1f\x8b"
        self._file.seek(0)
        # tarfile could tell the compression itself, but would unpack bzip2 and xz without a bound.
        with gzip.GzipFile(fileobj=self._file) if packed else nullcontext(self._file) as file:
            guarded = _Guarded(file, _HEADER_BYTES, self._source)
            guarded.left = _HEADERS_BYTES  # for opening it reads the first member
            with tarfile.open(fileobj=guarded.as_file(), mode="r:") as archive:
                yield archive, guarded
            # The padding behind the last member is read so that the checksum at the end is looked at.
            for _ in range(_PADDING_PIECES if packed else 0):
                if not guarded.read(_PIECE_BYTES):
                    break


def _members(archive: tarfile.TarFile, guarded: "_Guarded") -> Iterator[tarfile.TarInfo]:
    """Yield the members; reading the headers of one is bounded, what a caller reads of it is not."""
    while True:
        guarded.left = _HEADERS_BYTES
        member = archive.next()
        guarded.left = None
        if member is None:
            return
        if member.issparse():
            raise tarfile.ReadError(f"{member.name!r} is a sparse file, which is not supported")
        yield member


class _Guarded:
    """A file that may be read forwards and backwards, but not much at a time, and in all no more than is `left`.

    What zipfile and tarfile keep in memory, the index and extended headers, they read at once, however long it says
    it is.
    """

    def __init__(self, file: Any, most: int, source: str) -> None:  # whatever can read, seek and tell
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.left: int | None = None
        self._file, self._most, self._source = file, most, source

    def read(self, size: int = -1) -> bytes:
        """Return what a file does. Raises RefusedError if that is too much."""
        data: bytes = self._file.read(self._most + 1 if size < 0 else min(size, self._most + 1))
        if self.left is not None:
            self.left -= len(data)
        if len(data) > self._most or (self.left is not None and self.left < 0):
            raise RefusedError(self._source, f"its index or a header in it has over {self._most:,} bytes")
        return data

    def as_file(self) -> IO[bytes]:
        """Return it as the type that zipfile and tarfile are declared to want; they use what it has."""
        return cast("IO[bytes]", self)


class GivenFiles:
    """Files whose content a caller has, by name."""

    def __init__(self, contents: Mapping[str, memoryview]) -> None:
        self._contents = {name: content.cast("B") if content.nbytes else content for name, content in contents.items()}

    @cached_property
    def _by_file_name(self) -> Mapping[str, list[memoryview]]:
        found: dict[str, list[memoryview]] = {}
        for name, content in self._contents.items():
            found.setdefault(PurePosixPath(name).name, []).append(content)
        return found

    def shards(self, paths: Iterable[str], most: int) -> Mapping[str, memoryview]:
        """Return the content of the files, found by their path or else by their name alone."""
        return {path: self._content(path) for path in paths}

    def _content(self, path: str) -> memoryview:
        if path in self._contents:
            return self._contents[path]
        found = self._by_file_name.get(PurePosixPath(path).name, ())
        if len(found) == 1:
            return found[0]
        reason = "it is not among the given files" if not found else "several of the given files have its name"
        raise UnreachableError(path, reason, final=True)


def inner_name(source: str, path: str) -> str:
    """Return `path` from a model.json as a relative path with slashes that stays in the directory of the model.

    Raises RefusedError if it does not.
    """
    parts: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    drive = os.name == "nt" and ":" in path
    if path.startswith(("/", "\\")) or drive or ".." in parts or "\0" in path or not parts:
        raise RefusedError(source, f"the shard {redact_path(path)!r} leads out of the model's directory")
    return "/".join(parts)


def _beside(source: str, document: str, path: str) -> str:
    return str(PurePosixPath(document).parent / inner_name(source, path))


def _member_name(source: str, name: str) -> str:
    """Return the name of a member as `inner_name` gives it; some archives made on Windows have backslashes.

    Raises RefusedError if it leads out of the archive, wanted or not: no honest program makes such archives.
    """
    plain = name.replace("\\", "/").removeprefix("./")
    if plain.startswith("/") or ".." in plain.split("/"):
        raise RefusedError(source, f"its member {name!r} leads out of it")
    return plain


def _is_companion(name: str) -> bool:
    return name in _COMPANIONS or name.endswith(_COMPANION_ENDING)


def _is_visible(name: str) -> bool:
    """Whether `name` is no hidden file, nor one of those that macOS puts into archives."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _open(path: Path) -> IO[bytes]:
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            reason = "it is no file" if path.exists() else "there is no such file"
            raise UnreachableError(str(path), reason, final=True)
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise UnreachableError(str(path), _reason(error), final=True) from error


def _mapped(path: Path) -> memoryview:
    with _open(path) as file:
        try:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise UnreachableError(str(path), _reason(error), final=True) from error


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _too_long(size: int, most: int) -> str:
    return f"it has {size:,} bytes where {most:,} are allowed"


def _content(file: IO[bytes]) -> bytearray:
    content = bytearray()
    while piece := file.read(_PIECE_BYTES):
        content += piece
    return content


def _linked(source: str, name: str) -> RefusedError:
    return RefusedError(source, f"its member {name!r} is a link, or a device")


def _missing(source: str, name: str) -> UnreachableError:
    return UnreachableError(source, f"the archive has no member {name!r}", final=True)


def _damaged(source: str, error: Exception) -> WrongContentError:
    return WrongContentError(source, f"a damaged archive ({error})")
