"""Cancelled at its n-th await, for each n until it comes through, a load leaves nothing behind.

It has awaits in all its tasks, and each counts when its task waits; none is left out. The same client then fetches the
model, within limits that allow no more transfers than it needs, so that a lost slot would be missed. When the client is
closed, no tasks, sockets, files or generators are left; the garbage collector is off, so it does not help.
"""

import gc
import io
import ssl
import tempfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import httpx
import numpy as np
import pytest
import trustme
from anyio.lowlevel import checkpoint

from mock_server import Cut, Fault, Instead, MockServer, Redirect, Status
from mock_server.files import Entry
from tests.leaks import descriptors, nothing_for_others, swift_collection
from tests.models import NO_TLS, QUICK, Group, Model, assert_equal, f32, floats, group, model, written
from tests.steps import Means, Moment, Steps, by_deadline, by_scope, by_task, by_timeout, interrupted
from tests.test_direct import addresses, certified, trusting
from tfjs_fetch import Client, Limits, dialing, fetch
from tfjs_fetch.format.dtypes import Array

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

Load: TypeAlias = Callable[[Client, str], Awaitable[Mapping[str, Array]]]
MakeClient: TypeAlias = Callable[[ssl.SSLContext, Limits], AbstractAsyncContextManager[Client]]

# A load with fewer awaits has not done what it is here for; files on disk take a few hops to threads.
ENOUGH, ENOUGH_ON_DISK = 10, 5


def ours(context: ssl.SSLContext, limits: Limits) -> AbstractAsyncContextManager[Client]:
    return Client(ssl_context=context, limits=limits, retry=QUICK)


@asynccontextmanager
async def theirs(context: ssl.SSLContext, limits: Limits) -> AsyncIterator[Client]:
    http = httpx.AsyncClient(verify=context, trust_env=False)
    async with http, Client(http=http, limits=limits, retry=QUICK) as client:
        yield client


@dataclass(frozen=True)
class Lane:
    """A way that requests take: on this backend, through such clients."""

    backend: Any  # as anyio's plugin takes it
    client: MakeClient = ours


LANES = {
    "fast": Lane("asyncio"),
    "uvloop": Lane(("asyncio", {"use_uvloop": True})),
    "httpx": Lane("asyncio", theirs),
    "trio": Lane("trio"),
}


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on these lanes."""
    return pytest.mark.parametrize("lane", [pytest.param(LANES[name], id=name) for name in names])


@pytest.fixture
def anyio_backend(lane: Lane) -> Any:
    if lane is LANES["uvloop"]:
        pytest.importorskip("uvloop")
    return lane.backend


@pytest.fixture(scope="module", autouse=True)
def swiftly() -> Iterator[None]:
    with swift_collection():
        yield


@pytest.fixture(autouse=True)
def no_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Secrets:
    """What a client and a server need for TLS; a server that has none speaks in the open."""

    client: ssl.SSLContext = NO_TLS
    server: ssl.SSLContext | None = None


@pytest.fixture(scope="module")
def secrets() -> Secrets:
    authority = trustme.CA()
    return Secrets(trusting(authority), certified(authority, "127.0.0.1"))


async def fetch_all(client: Client, url: str) -> Mapping[str, Array]:
    return await client.fetch(url)


async def stream_all(client: Client, url: str) -> Mapping[str, Array]:
    async with client.stream(url) as weights:
        return {spec.name: array async for spec, array in weights}


async def choose(client: Client, url: str) -> Mapping[str, Array]:
    return await client.fetch(url, weights=["b", "c"])


async def read_text(client: Client, url: str) -> Mapping[str, Array]:
    bundle = await client.fetch(url)
    return {name: np.frombuffer(b"".join(bundle[name].tolist()), np.uint8) for name in bundle}


def elsewhere(url: str) -> Callable[[str], Awaitable[str]]:
    """Return a function that finds some files on another host, which is the same one by another name."""

    async def find(path: str) -> str:
        await checkpoint()
        here = url.replace("model.json", path)
        return here if path == "s0" else here.replace("127.0.0.1", "localhost")

    return find


async def fetch_from_two_hosts(client: Client, url: str) -> Mapping[str, Array]:
    return await client.fetch(url, shard_url=elsewhere(url))


async def fetch_alone(client: Client, url: str) -> Mapping[str, Array]:
    return await fetch(url, ssl_context=NO_TLS, shard_url=elsewhere(url))


@dataclass(frozen=True)
class Case:
    """A load of a hosted model and what it brings, the faults on its way, and how many transfers it has at a time.

    With `again` the client has loaded the model before, and keeps connections. An `archive` is closed when nothing
    refers to it: from Python 3.12 on the traceback of a cancellation is part of a cycle, which has to be collected.
    """

    files: Mapping[str, Entry]
    arrays: Mapping[str, Any]
    load: Load = fetch_all
    faults: Mapping[str, Fault] = field(default_factory=dict)
    transfers: int = 1
    path: str = "/m/model.json"
    host: str = "127.0.0.1"
    again: bool = False
    archive: bool = False

    @property
    def limits(self) -> Limits:
        return Limits(per_origin=self.transfers, connections=self.transfers)


def small() -> Model:
    return model(group({"a": floats(3), "b": floats(5)}, [20, 12], "s"), group({"c": floats(4)}, name="t"))


def large() -> Model:
    """Return a model whose memory is touched, and whose weight is decoded, in a thread."""
    data = bytes(range(250)) * 1120
    quantization = {"dtype": "uint8", "min": 0, "scale": 1}
    spec = {"name": "q", "shape": [len(data)], "dtype": "float32", "quantization": quantization}
    return model(Group({"paths": ["q0"], "weights": [spec]}, {"q0": data}, {"q": f32(list(data))}))


def scattered() -> Model:
    """Return a model with chosen weights far from each other, which are asked for one by one."""
    arrays = {"x": floats(20_000), "b": floats(5), "y": floats(20_000), "c": floats(4), "z": floats(20_000)}
    return model(group(arrays))


def text() -> Model:
    entry = {"paths": ["t0", "t1"], "weights": [{"name": "t", "shape": [1], "dtype": "string"}]}
    return model(Group(entry, {"t0": b"\5\0\0", "t1": b"\0hello"}, {"t": np.frombuffer(b"hello", np.uint8)}))


def zipped(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


SMALL, LARGE, SCATTERED, TEXT = small(), large(), scattered(), text()
HOSTED, FILES, ARRAYS = SMALL.hosted(), SMALL.files, SMALL.arrays
MOVED = {**HOSTED, "/m/s1": Redirect("/elsewhere/s1"), "/elsewhere/s1": FILES["s1"]}
LONG_REFUSAL = Instead(bytes(300_000), "text/plain", status=503)

SIDE_BY_SIDE = Case(HOSTED, ARRAYS, transfers=2)
ALONE = Case(HOSTED, ARRAYS, fetch_alone)
CASES = {
    "side by side": SIDE_BY_SIDE,
    "one by one": Case(HOSTED, ARRAYS),
    "again": Case(HOSTED, ARRAYS, transfers=2, again=True),
    "refused once": Case(HOSTED, ARRAYS, faults={"/m/s0": Status(503)}),
    "refused at length": Case(HOSTED, ARRAYS, faults={"/m/s0": LONG_REFUSAL}),
    "cut once": Case(HOSTED, ARRAYS, faults={"/m/s0": Cut(5)}),
    "moved": Case(MOVED, ARRAYS),
    "two hosts": Case(HOSTED, ARRAYS, fetch_from_two_hosts),
    "chunked": Case(SMALL.hosted(framing="chunked"), ARRAYS),
    "gzip": Case(SMALL.hosted(gzip="always"), ARRAYS),
    "large": Case(LARGE.hosted(), LARGE.arrays),
    "text": Case(TEXT.hosted(), TEXT.arrays, read_text),
    "stream": Case(HOSTED, ARRAYS, stream_all, transfers=2),
    "choice": Case(HOSTED, {name: ARRAYS[name] for name in "bc"}, choose, transfers=2),
    "ranges": Case(SCATTERED.hosted(), {name: SCATTERED.arrays[name] for name in "bc"}, choose, transfers=2),
    "zip": Case({"/m.zip": zipped(FILES)}, ARRAYS, path="/m.zip", archive=True),
}
on_every_case = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
at_both_moments = pytest.mark.parametrize("moment", ["waiting", "waking"])


async def cancelled_everywhere(
    lane: Lane, case: Case, means: Means = by_scope, moment: Moment = "waiting", secrets: Secrets = Secrets()
) -> int:
    """Cancel the load of `case` at each of its awaits, and check what is said above; return how many there were."""
    async with MockServer(case.files, ssl_context=secrets.server) as server:
        url = server.url.replace("127.0.0.1", case.host) + case.path
        with nothing_for_others() as left:
            before = descriptors()
            for number in count(1):
                steps = Steps(number, moment)
                async with lane.client(secrets.client, case.limits) as client:
                    await cancelled_at(steps, means, server, case, client, url)
                await gone(server, before, collect=case.archive)
                assert left == []
                if not steps.reached:
                    break
        assert left == []
    return number


async def cancelled_at(steps: Steps, means: Means, server: MockServer, case: Case, client: Client, url: str) -> None:
    """Cancel one load, see that this is how it ends, in all its tasks, and load again."""
    done = False

    async def work() -> None:
        nonlocal done
        assert_equal(await case.load(client, url), case.arrays)
        done = True

    if case.again:
        await case.load(client, url)
    for path, fault in case.faults.items():
        server.misbehave(path, fault, times=1)
    with anyio.fail_after(10):
        stopped = await interrupted(work, steps, means)
    # Where no await follows, a scope has nothing to cancel any more: then the load is done.
    assert (stopped, steps.tasks) == (not done, set())

    server.behave()
    with anyio.fail_after(10):
        assert_equal(await case.load(client, url), case.arrays)


async def gone(server: MockServer, before: int, *, collect: bool) -> None:
    """Wait until the server sees no connection, and no more descriptors are open than before."""
    with anyio.fail_after(10):
        await server.wait_until(lambda: server.active == 0)
        while descriptors() > before:
            await checkpoint()
            if collect:
                gc.collect()


@on("fast", "httpx", "trio")
@on_every_case
async def test_a_load_cancelled_at_any_await_leaves_nothing_behind(lane: Lane, case: Case) -> None:
    assert await cancelled_everywhere(lane, case) > ENOUGH


@on("fast")
@on_every_case
async def test_asyncio_itself_may_cancel_a_load_at_any_await(lane: Lane, case: Case) -> None:
    assert await cancelled_everywhere(lane, case, by_task) > ENOUGH


@on("fast", "httpx")
@on_every_case
async def test_what_a_load_has_just_waited_for_is_not_lost_when_asyncio_cancels_it(lane: Lane, case: Case) -> None:
    assert await cancelled_everywhere(lane, case, by_task, "waking") > ENOUGH


@on("uvloop")
@pytest.mark.parametrize("means", [by_scope, by_task])
@at_both_moments
async def test_another_loop_leaves_as_little_behind(lane: Lane, means: Means, moment: Moment) -> None:
    assert await cancelled_everywhere(lane, SIDE_BY_SIDE, means, moment) > ENOUGH


@on("fast", "httpx", "trio")
async def test_a_deadline_at_any_await_leaves_nothing_behind(lane: Lane) -> None:
    assert await cancelled_everywhere(lane, SIDE_BY_SIDE, by_deadline) > ENOUGH


@on("fast", "httpx")
@at_both_moments
async def test_a_timeout_of_asyncio_at_any_await_leaves_nothing_behind(lane: Lane, moment: Moment) -> None:
    assert await cancelled_everywhere(lane, SIDE_BY_SIDE, by_timeout, moment) > ENOUGH


@on("fast", "uvloop", "httpx", "trio")
async def test_a_load_over_tls_leaves_nothing_behind(lane: Lane, secrets: Secrets) -> None:
    assert await cancelled_everywhere(lane, SIDE_BY_SIDE, secrets=secrets) > ENOUGH


@on("fast", "uvloop", "httpx")
@at_both_moments
async def test_asyncio_itself_may_cancel_a_load_over_tls(lane: Lane, moment: Moment, secrets: Secrets) -> None:
    assert await cancelled_everywhere(lane, SIDE_BY_SIDE, by_task, moment, secrets) > ENOUGH


@on("fast", "uvloop", "trio")
async def test_fetch_closes_its_own_client_whenever_it_is_cancelled(lane: Lane) -> None:
    assert await cancelled_everywhere(lane, ALONE) > ENOUGH


@on("fast", "uvloop")
@at_both_moments
async def test_fetch_closes_its_own_client_whenever_asyncio_cancels_it(lane: Lane, moment: Moment) -> None:
    assert await cancelled_everywhere(lane, ALONE, by_task, moment) > ENOUGH


@on("fast")
@pytest.mark.parametrize("means", [by_scope, by_task])
@pytest.mark.parametrize("found", [["::1", "127.0.0.1"], ["127.0.0.1", "127.0.0.1"]], ids=["one answers", "both do"])
@at_both_moments
async def test_a_host_with_several_addresses_leaves_nothing_behind(
    lane: Lane, means: Means, found: list[str], moment: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses(monkeypatch, found)
    monkeypatch.setattr(dialing, "_PATIENCE", 0)  # both at once

    assert await cancelled_everywhere(lane, replace(SIDE_BY_SIDE, host="h.example"), means, moment) > ENOUGH


@on("fast", "trio")
@pytest.mark.parametrize("load", [fetch_all, stream_all])
@pytest.mark.parametrize("name", ["model.json", "m.zip"])
async def test_files_on_disk_are_closed(lane: Lane, load: Load, name: str, tmp_path_factory: Any) -> None:
    place = written(tmp_path_factory.mktemp("model"), {**FILES, "m.zip": zipped(FILES)}) / name

    async def load_files(client: Client, url: str) -> Mapping[str, Array]:
        return await load(client, str(place))

    case = replace(SIDE_BY_SIDE, load=load_files, archive=name == "m.zip")
    assert await cancelled_everywhere(lane, case) > ENOUGH_ON_DISK
