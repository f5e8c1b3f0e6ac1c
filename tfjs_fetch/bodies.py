"""Sinks for whole documents, and the one that undoes a content encoding on the way."""

import zlib
from collections.abc import Awaitable, Callable
from typing import IO, Protocol

import anyio
import anyio.lowlevel

from tfjs_fetch.content import HEAD_BYTES
from tfjs_fetch.errors import RefusedError, TruncatedError, WrongContentError
from tfjs_fetch.representation import Version
from tfjs_fetch.sinks import NO_ROOM, Sink

_SCRATCH_BYTES = 64 * 1024
# Bytes inflated in one go: a few milliseconds at most, so that the event loop is never held for long.
_INFLATE_BYTES = 256 * 1024
# Bytes that may come without anything to inflate: headers of gzip and empty blocks can be endless.
_SILENT_BYTES = 1024 * 1024


class Surplus(Exception):  # noqa: N818 - a turn of events, not an error: nobody outside sees it
    """Raised by a sink that has all it wants: the rest of the body is not to be transferred."""


class Body(Sink, Protocol):
    """A sink that takes one body, or a part of one, in one attempt or more."""

    @property
    def complete(self) -> bool:
        """Whether it has all it wants already."""

    @property
    def missing(self) -> tuple[int, int | None]:
        """The bytes to ask for: from where, and up to where if not to the end."""

    @property
    def progress(self) -> int:
        """How many bytes are dealt with that were never there before."""

    def begin(self, length: int | None, version: Version, part: tuple[int, int] | None = None) -> None:
        """Start an attempt: the body will come from its beginning, or that `part` of it (start, stop).

        `length` is the decoded length of the whole if the server told.
        """

    def end(self, *, surplus: bool = False) -> None:
        """Take note that what was announced is there, or with `surplus` that it goes on beyond what is wanted.

        Raises an error if that is wrong.
        """


class DocumentBody:
    """Collects a body of up to `limit` bytes into `file`, or into memory; beyond it RefusedError."""

    def __init__(self, url: str, limit: int, limit_name: str, file: IO[bytes] | None = None) -> None:
        self.data = bytearray()
        self.complete = False
        self.progress = 0
        self._url, self._limit, self._limit_name, self._file = url, limit, limit_name, file
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._received = 0
        self._length: int | None = None

    @property
    def missing(self) -> tuple[int, int | None]:
        return self._received, None

    def begin(self, length: int | None, version: Version, part: tuple[int, int] | None = None) -> None:
        self._length = length
        self._received = 0 if part is None else part[0]
        if self._file is None:
            del self.data[self._received :]
        else:
            self._file.seek(self._received)
            self._file.truncate()
        self._check(length or 0)

    def get_buffer(self) -> memoryview:
        return self._scratch

    def advance(self, count: int) -> None:
        self._received += count
        self.progress = max(self.progress, self._received)
        self._check(self._received)
        if self._file is None:
            self.data += self._scratch[:count]
        else:
            self._file.write(self._scratch[:count])

    async def wait(self) -> None:
        await anyio.lowlevel.checkpoint()

    def end(self, *, surplus: bool = False) -> None:
        if self._length is not None and self._received < self._length:
            raise TruncatedError(self._url, self._received, self._length)
        self.complete = True

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise RefusedError(self._url, f"it has over {self._limit:,} bytes, which is {self._limit_name}")


class Glance:
    """Wants nothing of a body but its version."""

    def __init__(self) -> None:
        self.version = Version()
        self.complete = True
        self.missing: tuple[int, int | None] = (0, None)
        self.progress = 0

    def begin(self, length: int | None, version: Version, part: tuple[int, int] | None = None) -> None:
        self.version = version

    def get_buffer(self) -> memoryview:
        return NO_ROOM

    def advance(self, count: int) -> None:
        raise Surplus

    async def wait(self) -> None:
        await anyio.lowlevel.checkpoint()

    def end(self, *, surplus: bool = False) -> None:
        """Take note that there is a body."""


class HeadBody:
    """Collects the first bytes of a body, to tell what it is, and wants no more."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._scratch = memoryview(bytearray(HEAD_BYTES))

    def get_buffer(self) -> memoryview:
        return self._scratch

    def advance(self, count: int) -> None:
        self.data += self._scratch[:count]
        if len(self.data) >= HEAD_BYTES:
            raise Surplus

    async def wait(self) -> None:
        await anyio.lowlevel.checkpoint()


class Inflating:
    """Undoes gzip or deflate in front of `sink`, never further than `sink` has room."""

    def __init__(self, url: str, encoding: str, sink: Sink) -> None:
        self._url, self._encoding, self._sink = url, encoding, sink
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._inflater: zlib._Decompress | None = None
        self._waiting = b""  # arrived, but not inflated yet
        self._more = False  # the inflater may hold output back
        self._received = 0
        self._silent = 0  # bytes since something came out

    def get_buffer(self) -> memoryview:
        return NO_ROOM if self._more else self._scratch

    def advance(self, count: int) -> None:
        self._received += count
        self._silent += count
        if self._silent > _SILENT_BYTES:
            raise WrongContentError(self._url, f"{self._encoding} data that holds nothing")
        self._waiting, self._more = bytes(self._scratch[:count]), True
        self._inflate()

    async def wait(self) -> None:
        await anyio.lowlevel.checkpoint()
        if not self._sink.get_buffer():
            await self._sink.wait()
        self._inflate()

    async def finish(self, wait: Callable[[], Awaitable[None]]) -> None:
        """Pass on what is still held back, with `wait` for this sink's own, which somebody may watch.

        Raises TruncatedError if the encoding does not end where the body does.
        """
        while self._more:
            await wait()
        if self._inflater is None or not self._inflater.eof:
            raise TruncatedError(self._url, self._received, None)

    def _inflate(self) -> None:
        buffer = self._sink.get_buffer()
        if not buffer:
            return
        room = min(len(buffer), _INFLATE_BYTES)
        try:
            inflater = self._started()
            data = inflater.decompress(self._waiting, room)
        except zlib.error as error:
            raise WrongContentError(self._url, f"damaged {self._encoding} data ({error})") from error
        self._waiting = inflater.unconsumed_tail
        if inflater.unused_data:
            if self._encoding != "gzip" or not inflater.unused_data.startswith(b"\x1f"):
                raise WrongContentError(self._url, f"{self._encoding} data with something behind its end")
            # Gzip may consist of several members, one behind the other (RFC 1952, 2.2).
            self._waiting, self._inflater = inflater.unused_data, None
        self._more = bool(self._waiting) or len(data) == room
        if data:
            self._silent = 0
            buffer[: len(data)] = data
            self._sink.advance(len(data))

    def _started(self) -> "zlib._Decompress":
        if self._inflater is None:
            # "deflate" means zlib's format, but some servers send the bare stream.
            zlib_header = self._waiting[0] & 0x0F == 8 and self._waiting[0] >> 4 < 8
            bits = 31 if self._encoding == "gzip" else zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS
            self._inflater = zlib.decompressobj(bits)
        return self._inflater
