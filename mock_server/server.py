"""A real HTTP/1.1 server on loopback that misbehaves on request."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType

import anyio
import h11
from anyio.abc import ByteStream, TaskGroup
from anyio.streams.tls import TLSStream

from mock_server.answers import Answer, Request, answer, fitted, plain
from mock_server.connections import Connection
from mock_server.faults import Close, Fault
from mock_server.files import Entry, Redirect, Representation, Representations
from mock_server.schedule import Schedule
from mock_server.sockets import SocketStream, accept, listen

CLIENT_LEFT = (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError)


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request as the server saw it, and how far its answer has got.

    `target` is raw, with the query; `path` is decoded, without it. `connection` counts from 1. `status` is None until
    there is an answer. `bytes_sent` of the body are with the kernel, which is not to say that the client read them;
    `finished` is set when the server is done with the request, whatever the outcome.
    """

    method: str
    target: str
    path: str
    headers: Mapping[str, str]
    connection: int
    status: int | None = None
    bytes_sent: int = 0
    finished: bool = False


@dataclass(slots=True)
class _Swap:
    """A set of files that waits for `left` more requests to `path` (None: to any)."""

    files: Mapping[str, Entry]
    path: str | None
    left: int


class MockServer:
    """A server of `files` by path, for the time of an `async with`.

    It serves in tasks of its own while the body runs and stops at once when the body ends, however it ends. `files`
    may be changed at any time; what is not in it is asked of `elsewhere`. With an `ssl_context` it speaks TLS.

    Attributes: `connections` counts the connections accepted, `active` those open now, `peak` is the highest number of
    requests that were being answered at one time.
    """

    def __init__(
        self,
        files: Mapping[str, Entry] | None = None,
        *,
        elsewhere: Callable[[str], Entry | None] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.files: MutableMapping[str, Entry] = dict(files or {})
        self.connections = 0
        self.active = 0
        self.peak = 0
        self._elsewhere = elsewhere
        self._host = host
        self._port = port
        self._ssl_context = ssl_context
        self._representations = Representations()
        self._schedule = Schedule()
        self._swaps: list[_Swap] = []
        self._seen: list[SeenRequest] = []
        self._in_flight = 0
        self._tasks: TaskGroup | None = None
        self._changed = anyio.Event()

    async def __aenter__(self) -> MockServer:
        self._listener = listen(self._host, self._port)
        self._port = self._listener.getsockname()[1]
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._accept, self._tasks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None, "left before it was entered"
        self._tasks.cancel_scope.cancel()
        try:
            # The group is not told of an error in the body, for it would come back wrapped in an ExceptionGroup.
            await self._tasks.__aexit__(None, None, None)
        finally:
            self._listener.close()

    @property
    def url(self) -> str:
        """The origin of this server, without a slash at the end."""
        return f"{'https' if self._ssl_context else 'http'}://{self._host}:{self._port}"

    @property
    def requests(self) -> tuple[SeenRequest, ...]:
        """All requests so far, in the order they came, each as it stands now."""
        return tuple(self._seen)

    def requests_to(self, path: str) -> tuple[SeenRequest, ...]:
        """The requests for `path` so far."""
        return tuple(request for request in self._seen if request.path == path)

    def misbehave(self, path: str | None, *faults: Fault, times: int | None = None) -> None:
        """Let all `faults` together befall the next `times` requests to `path` (None: to any path), or all of them.

        Calls for the same path queue up: the second takes its turn when the first has had its `times`. Faults of a
        path come on top of those of any path.

        Raises ValueError if an earlier call for the same path already holds for all requests.
        """
        self._schedule.add(path, faults, times)

    def misbehave_in_turn(self, path: str | None, *turns: Fault | tuple[Fault, ...]) -> None:
        """Let each of `turns` befall one request to `path`; () is a request answered well."""
        for turn in turns:
            self._schedule.add(path, (turn,) if isinstance(turn, Fault) else turn, 1)

    def behave(self, path: str | None = None) -> None:
        """Forget the faults planned for `path`; all of them if None."""
        self._schedule.clear(path)

    def swap_after(self, files: Mapping[str, Entry], *, requests: int = 1, path: str | None = None) -> None:
        """Replace all files by `files` once so many more requests to `path` (None: to any) have come.

        The last of these requests is still answered from the old files.
        """
        self._swaps.append(_Swap(files, path, requests))

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` on the attributes of this server holds; for ever if it never does."""
        while not condition():
            await self._changed.wait()

    async def _accept(self, tasks: TaskGroup) -> None:
        while True:
            stream = await accept(self._listener)
            self.connections += 1
            tasks.start_soon(self._serve, stream, self.connections)

    async def _serve(self, stream: SocketStream, number: int) -> None:
        self.active += 1
        self._note_change()
        try:
            async with stream:
                with suppress(*CLIENT_LEFT):
                    await self._converse(Connection(await self._secured(stream)), number)
        finally:
            self.active -= 1
            self._note_change()

    async def _secured(self, stream: SocketStream) -> ByteStream:
        if self._ssl_context is None:
            return stream
        return await TLSStream.wrap(stream, server_side=True, ssl_context=self._ssl_context, standard_compatible=False)

    async def _converse(self, connection: Connection, number: int) -> None:
        try:
            while request := await connection.request():
                if not await self._exchange(connection, number, request):
                    break
        except h11.RemoteProtocolError as error:
            refusal = Close(announced=True).on_answer(plain(error.error_status_hint))
            await connection.send(refusal, lambda _: None)
        await connection.close()

    async def _exchange(self, connection: Connection, number: int, request: Request) -> bool:
        """Answer `request` and say whether another may follow on this connection."""
        index = len(self._seen)
        self._seen.append(SeenRequest(request.method, request.target, request.path, request.headers, number))
        self._in_flight += 1
        self.peak = max(self.peak, self._in_flight)
        reply = self._reply(request)
        self._update(replace(self._seen[index], status=reply.status), index)
        try:
            return await connection.send(
                reply, lambda sent: self._update(replace(self._seen[index], bytes_sent=sent), index)
            )
        finally:
            self._in_flight -= 1
            self._update(replace(self._seen[index], finished=True), index)

    def _reply(self, request: Request) -> Answer:
        faults = self._schedule.take(request.path)
        for fault in faults:
            request = fault.on_request(request)
        found = self._find(request)
        self._swap(request.path)
        if isinstance(found, Representation):
            for fault in faults:
                found = fault.on_file(found)
        reply = answer(request, found)
        for fault in faults:
            reply = fault.on_answer(reply)
        return fitted(reply, request)

    def _find(self, request: Request) -> Representation | Redirect | None:
        entry = self.files.get(request.path)
        if entry is None and self._elsewhere:
            entry = self._elsewhere(request.path)
        if entry is None or isinstance(entry, Redirect):
            return entry
        return self._representations.of(entry, request.path, request.headers.get("accept-encoding", ""))

    def _swap(self, path: str) -> None:
        for swap in self._swaps:
            if swap.path in (None, path):
                swap.left -= 1
            if swap.left == 0:
                self.files = dict(swap.files)
        self._swaps = [swap for swap in self._swaps if swap.left > 0]

    def _update(self, seen: SeenRequest, index: int) -> None:
        self._seen[index] = seen
        self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
