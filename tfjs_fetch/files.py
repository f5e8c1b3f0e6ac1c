"""Models on disk and in archives: the document, and the shards as buffers.

Files of a directory are mapped, so their weights cost no memory of ours until they are used. Members of archives are
read into memory, never onto the disk, and only those that model.json lists. What a name leads to stays inside: no
parent directories, no absolute paths, no links in archives; and no more is unpacked than `Limits` allow.
"""

import mmap
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from tfjs_fetch.config import Limits
from tfjs_fetch.errors import RefusedError, UnreachableError, WrongContentError

_DOCUMENT = "model.json"
# JSON files that lie beside a model and are none: ml5.js and Teachable Machine write them.
_COMPANIONS = ("metadata.json", "model_meta.json", "package.json", "labels.json", "class_names.json")
_MAX_MEMBERS = 100_000


class Files(Protocol):
    """The files of one model."""

    def document(self) -> bytes:
        """Return the model.json, or whatever it is called."""

    def shards(self, paths: Iterable[str], most: int) -> Mapping[str, memoryview]:
        """Return the content of the files that model.json calls `paths`, together at most `most` bytes unpacked."""


def open_files(path: Path, limits: Limits) -> Files:
    """Return the files of the model at `path`: a JSON, a directory with one, a .zip or a .tar.gz with one.

    Raises UnreachableError if there is none.
    """
    if path.is_dir():
        names = [entry.name for entry in path.iterdir() if entry.is_file()]
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
        return models[0][1]
    candidates = [name for name in jsons if PurePosixPath(name).name.lower() not in _COMPANIONS]
    if len(candidates) == 1:
        return candidates[0]
    found = f"it has {', '.join(sorted(candidates)[:5])}: name one of them" if candidates else "no JSON is in it"
    raise UnreachableError(source, f"there is no {_DOCUMENT}; {found}", final=True)


class DirectoryFiles:
    """A JSON file and the files around it."""

    def __init__(self, document: Path, limits: Limits) -> None:
        self._document, self._limits = document, limits

    def document(self) -> bytes:
        """Return the content of the JSON file."""
        with _open(self._document) as file:
            size = os.fstat(file.fileno()).st_size
            if size > self._limits.manifest_bytes:
                raise RefusedError(str(self._document), _too_long(size, self._limits.manifest_bytes))
            return file.read(self._limits.manifest_bytes)

    def shards(self, paths: Iterable[str], most: int) -> Mapping[str, memoryview]:
        """Return the files, mapped read-only."""
        root = self._document.parent
        return {path: _mapped(root.joinpath(*inner_name(str(self._document), path).split("/"))) for path in paths}


class ZipFiles:
    """A model in a zip archive."""

    def __init__(self, source: str, file: IO[bytes], limits: Limits) -> None:
        self._source, self._limits = source, limits
        try:
            self._archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise _damaged(source, error) from error
        if len(self._archive.infolist()) > _MAX_MEMBERS:
            raise RefusedError(source, f"it has over {_MAX_MEMBERS:,} members")
        self._name = choose_document(source, [info.filename for info in self._archive.infolist() if not info.is_dir()])

    def document(self) -> bytes:
        """Return the content of the JSON."""
        return self._read(self._name, self._limits.manifest_bytes)

    def shards(self, paths: Iterable[str], most: int) -> Mapping[str, memoryview]:
        """Return the members, unpacked."""
        contents: dict[str, memoryview] = {}
        for path in paths:
            content = self._read(_beside(self._source, self._name, path), most)
            most -= len(content)
            contents[path] = memoryview(content)
        return contents

    def _read(self, name: str, most: int) -> bytes:
        try:
            info = self._archive.getinfo(name)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise RefusedError(self._source, f"its member {name!r} is a link")
            if info.file_size > most:
                raise RefusedError(self._source, f"its member {name!r} is too long ({_too_long(info.file_size, most)})")
            with self._archive.open(info) as member:
                content = member.read(most + 1)
        except KeyError:
            raise UnreachableError(f"{self._source}/{name}", "the archive has no such member", final=True) from None
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise _damaged(self._source, error) from error
        if len(content) > most:
            raise RefusedError(self._source, f"its member {name!r} is longer than it says")
        return content


class TarFiles:
    """A model in a tar archive, compressed or not; it is read from front to back, once for each purpose."""

    def __init__(self, source: str, file: IO[bytes], limits: Limits) -> None:
        self._source, self._file, self._limits = source, file, limits
        sizes: dict[str, int] = {}
        jsons: dict[str, bytes] = {}
        for name, member, content in self._members():
            sizes[name] = member.size
            if name.endswith(".json") and member.size <= limits.manifest_bytes - sum(map(len, jsons.values())):
                jsons[name] = content.read()
        self._name = choose_document(source, list(sizes))
        if self._name not in jsons:
            raise RefusedError(source, _too_long(sizes[self._name], limits.manifest_bytes))
        self._content = jsons[self._name]

    def document(self) -> bytes:
        """Return the content of the JSON."""
        return self._content

    def shards(self, paths: Iterable[str], most: int) -> Mapping[str, memoryview]:
        """Return the members, unpacked."""
        wanted: dict[str, list[str]] = {}
        for path in paths:
            wanted.setdefault(_beside(self._source, self._name, path), []).append(path)
        contents: dict[str, memoryview] = {}
        for name, member, file in self._members():
            for path in wanted.get(name, ()):
                if path not in contents:
                    most -= member.size
                    if most < 0:
                        raise RefusedError(self._source, "its members are longer than model.json and Limits allow")
                    contents[path] = memoryview(file.read())
        for name, listed in wanted.items():
            if listed[0] not in contents:
                raise UnreachableError(f"{self._source}/{name}", "the archive has no such member", final=True)
        return contents

    def _members(self) -> Iterable[tuple[str, tarfile.TarInfo, IO[bytes]]]:
        """Yield the regular files: name, description, content to be read before the next one."""
        most = self._limits.weight_bytes + self._limits.manifest_bytes
        self._file.seek(0)
        try:
            with tarfile.open(fileobj=self._file, mode="r|*") as archive:
                for count, member in enumerate(archive):
                    most -= member.size
                    if most < 0 or count >= _MAX_MEMBERS:
                        raise RefusedError(self._source, "it has more members, or longer ones, than Limits allow")
                    content = archive.extractfile(member) if member.isreg() else None
                    if content is not None:
                        yield member.name.removeprefix("./"), member, content
        except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
            raise _damaged(self._source, error) from error


class GivenFiles:
    """Files whose content a caller has, by name."""

    def __init__(self, contents: Mapping[str, memoryview]) -> None:
        self._contents = {name: content.cast("B") if content.nbytes else content for name, content in contents.items()}

    def shards(self, paths: Iterable[str], most: int) -> Mapping[str, memoryview]:
        """Return the content of the files, found by their path or else by their name alone."""
        return {path: self._content(path) for path in paths}

    def _content(self, path: str) -> memoryview:
        if path in self._contents:
            return self._contents[path]
        file_name = PurePosixPath(path).name
        found = [name for name in self._contents if PurePosixPath(name).name == file_name]
        if len(found) == 1:
            return self._contents[found[0]]
        reason = "it is not among the given files" if not found else "several of the given files have its name"
        raise UnreachableError(path, reason, final=True)


def inner_name(source: str, path: str) -> str:
    """Return `path` from a model.json as a relative path with slashes that stays in the directory of the model.

    Raises RefusedError if it does not.
    """
    parts: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    drive = len(path) > 1 and path[1] == ":" and os.name == "nt"
    if path.startswith(("/", "\\")) or drive or ".." in parts or "\0" in path or not parts:
        raise RefusedError(source, f"the shard {path!r} leads out of the model's directory")
    return "/".join(parts)


def _beside(source: str, document: str, path: str) -> str:
    return str(PurePosixPath(document).parent / inner_name(source, path))


def _is_visible(name: str) -> bool:
    """Whether `name` is no hidden file, nor one of those that macOS puts into archives."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.removeprefix("./").split("/"))


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


def _damaged(source: str, error: Exception) -> WrongContentError:
    return WrongContentError(source, f"a damaged archive ({error})")
