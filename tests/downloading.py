"""Downloads for tests: from replies given, and from the mock server."""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

from mock_server import (
    MockServer,
)
from tests.memory_transport import MemoryTransport
from tests.models import QUICK
from tfjs_fetch.bodies import DocumentBody, Surplus
from tfjs_fetch.config import Limits, Policy, Retry
from tfjs_fetch.download import Downloader, Target
from tfjs_fetch.events import Event
from tfjs_fetch.origins import Origins
from tfjs_fetch.representation import Version
from tfjs_fetch.requesting import Requester
from tfjs_fetch.transport import http_client, transport_over
from tfjs_fetch.urls import origin

URL = "https://h/w0?sig=secret"
IMPATIENT = Retry(attempts=1, stall_seconds=0.3)
_MIB = 2**20


class Recording(DocumentBody):
    """A body that notes how its attempts begin, and has enough at `enough` bytes."""

    def __init__(self, enough: float = math.inf, *, complete: bool = False) -> None:
        super().__init__(URL, 20_000, "Limits.manifest_bytes")
        self.begun: list[tuple[int | None, Version]] = []
        self.surplus: bool | None = None
        self.complete = complete
        self._enough = enough

    def begin(self, length: int | None, version: Version, part: tuple[int, int] | None = None) -> None:
        self.begun.append((length, version))
        super().begin(length, version, part)

    def advance(self, count: int) -> None:
        super().advance(count)
        if len(self.data) >= self._enough:
            raise Surplus

    def end(self, *, surplus: bool = False) -> None:
        self.surplus = surplus
        if not surplus and not self.complete:
            super().end()


def downloads(
    replies: Mapping[str, Any] | MemoryTransport,
    *,
    home: str = URL,
    headers: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    retry: Retry = QUICK,
) -> tuple[Downloader, list[Event]]:
    """Return a downloader that gets these replies, and the events it tells of."""
    events: list[Event] = []
    transport = replies if isinstance(replies, MemoryTransport) else MemoryTransport(replies)
    requester = Requester(transport, Origins(Limits()), policy or Policy(), origin(home), headers or {})
    return Downloader(requester, retry, "https://h/model.json", events.append), events


async def brought(replies: Mapping[str, Any] | MemoryTransport, url: str = URL, **more: Any) -> bytes:
    """Return the body at `url`."""
    body = Recording()
    with anyio.fail_after(5):
        await downloads(replies, **more)[0].download(Target(url), body)
    return bytes(body.data)


@asynccontextmanager
async def served(server: MockServer, retry: Retry = QUICK) -> AsyncIterator[tuple[Downloader, list[Event]]]:
    """Give a downloader that asks the server, and the events it tells of."""
    events: list[Event] = []
    async with http_client(None) as client:
        requester = Requester(transport_over(client), Origins(Limits()), Policy(), origin(server.url))
        yield Downloader(requester, retry, notify=events.append), events


async def fetched(server: MockServer, retry: Retry = QUICK, limit: int = _MIB) -> bytes:
    """Return the body of /w on the server."""
    body = DocumentBody(server.url, limit, "Limits.manifest_bytes")
    async with served(server, retry) as (downloader, _):
        with anyio.fail_after(5):
            await downloader.download(Target(f"{server.url}/w"), body)
    return bytes(body.data)
