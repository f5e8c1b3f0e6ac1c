"""A Transport without a network: what it answers is given, and what it was asked is kept."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel

from tfjs_fetch.errors import TransportError
from tfjs_fetch.sinks import Sink
from tfjs_fetch.transport import Admit, Answer


@dataclass(frozen=True)
class Reply:
    """An answer. Its Content-Length is that of the body unless `headers` say otherwise or `chunked`.

    After the body comes `failure` if there is one; with `hangs` nothing more comes, nor an end.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    chunked: bool = False
    failure: TransportError | None = None
    hangs: bool = False


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    url: str
    headers: Mapping[str, str]
    personal: bool


class MemoryTransport:
    """Answers by URL: always the same, or a sequence of answers in turn, an error in place of one is raised.

    `peers` are the addresses of hosts (with their port, if a URL has one), for those who want to admit them.
    """

    def __init__(
        self,
        replies: Mapping[str, Reply | Sequence[Reply | TransportError]],
        piece: int = 65536,
        peers: Mapping[str, str] | None = None,
    ) -> None:
        self.asked: list[Asked] = []
        self._peers = peers or {}
        self._replies = {url: iter(reply) if isinstance(reply, Sequence) else reply for url, reply in replies.items()}
        self._piece = piece

    @asynccontextmanager
    async def request(
        self, method: str, url: str, headers: Mapping[str, str], *, personal: bool, admit: Admit | None = None
    ) -> AsyncIterator[Answer]:
        await anyio.lowlevel.checkpoint()
        if admit is not None and (peer := self._peers.get(urlsplit(url).netloc)) is not None:
            admit(peer)
        self.asked.append(Asked(method, url, dict(headers), personal))
        found = self._replies.get(url, Reply(status=404))
        reply = found if isinstance(found, Reply) else next(found)
        if isinstance(reply, TransportError):
            raise reply
        yield _MemoryAnswer(reply, with_body=method != "HEAD", piece=self._piece)

    @property
    def urls(self) -> list[str]:
        """What was asked for, in order."""
        return [asked.url for asked in self.asked]


class _MemoryAnswer:
    def __init__(self, reply: Reply, *, with_body: bool, piece: int) -> None:
        framing = {"transfer-encoding": "chunked"} if reply.chunked else {"content-length": str(len(reply.body))}
        self.status = reply.status
        self.headers: Mapping[str, str] = {**framing, **reply.headers}
        self._reply, self._with_body, self._piece = reply, with_body, piece

    async def receive(self, sink: Sink) -> None:
        rest = memoryview(self._reply.body if self._with_body else b"")
        while rest:
            await anyio.lowlevel.checkpoint()
            buffer = sink.get_buffer()
            if not buffer:
                await sink.wait()
                continue
            count = min(len(buffer), len(rest), self._piece)
            buffer[:count] = rest[:count]
            sink.advance(count)
            rest = rest[count:]
        if self._reply.failure is not None:
            raise self._reply.failure
        if self._reply.hangs:
            await anyio.sleep_forever()
