"""Cancelling at every await: everything stops at once, nothing is left behind, and the client can go on.

A second task counts rounds of the event loop and cancels after the n-th, for growing n, until the load comes through.
"""

import asyncio
import gc
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

import anyio
import numpy as np
import pytest
from anyio.lowlevel import checkpoint

from mock_server import File, Latency, MockServer, Stall, Status
from tests.models import QUICK, many
from tfjs_fetch import Client, Limits, fetch

pytestmark = pytest.mark.anyio

Load: TypeAlias = Callable[[Client, str], Coroutine[Any, Any, None]]

AT_ONCE = 0.25


def files() -> dict[str, bytes | File]:
    """Return a model with all that a load may wait for: retries apart, threads, strings, encodings, many shards."""
    quantization = {"dtype": "uint8", "min": 0, "scale": 1}
    groups = [
        {"paths": ["t"], "weights": [{"name": "text", "shape": [1], "dtype": "string"}]},
        {"paths": ["g0", "g1", "g2"], "weights": [{"name": "g", "shape": [30], "dtype": "float32"}]},
        {
            "paths": ["q0", "q1"],
            "weights": [{"name": "q", "shape": [100_000], "dtype": "float32", "quantization": quantization}],
        },
    ]
    return {
        "/model.json": json.dumps({"weightsManifest": groups}).encode(),
        "/t": b"\x02\0\0\0hi",
        "/g0": File(bytes(40), framing="chunked"),
        "/g1": File(bytes(40), gzip="always"),
        "/g2": bytes(40),
        "/q0": bytes(50_000),
        "/q1": bytes(50_000),
    }


async def fetch_all(client: Client, url: str) -> None:
    await client.fetch(url)


async def stream_all(client: Client, url: str) -> None:
    async with client.stream(url) as weights:
        async for _ in weights:
            await checkpoint()


async def choose(client: Client, url: str) -> None:
    await client.fetch(url, weights=["g", "text"])


on_every_load = pytest.mark.parametrize("load", [fetch_all, stream_all, choose])


async def cancelled_after(rounds: int, work: Callable[[], Awaitable[None]]) -> bool:
    """Do `work`, cancelled after so many rounds of the event loop; return whether it was over before."""
    started = 0.0
    finished = False

    async def cancel() -> None:
        nonlocal started
        for _ in range(rounds):
            await checkpoint()
        started = time.monotonic()
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        await work()
        finished = True
        group.cancel_scope.cancel()
    assert finished or time.monotonic() - started < AT_ONCE
    return finished


def rounds() -> Iterator[int]:
    """Yield all small numbers, and then fewer and fewer."""
    number = 0
    while True:
        yield number
        number += 1 + number // 60


@on_every_load
async def test_a_load_can_be_cancelled_at_every_await(load: Load) -> None:
    async with MockServer(files()) as server:
        async with Client(limits=Limits(per_origin=2)) as client:
            before = tasks()
            for number in rounds():
                with anyio.fail_after(20):
                    if await cancelled_after(number, lambda: load(client, f"{server.url}/model.json")):
                        break
                assert tasks() == before
            with anyio.fail_after(5):
                assert len(await client.fetch(f"{server.url}/model.json")) == 3
        gc.collect()
        await gone(server)


async def test_after_each_cancelled_load_the_next_one_succeeds() -> None:
    async with MockServer(files()) as server, Client(limits=Limits(per_origin=1)) as client:
        for number in range(0, 200, 7):
            await cancelled_after(number, lambda: fetch_all(client, f"{server.url}/model.json"))
            with anyio.fail_after(5):
                bundle = await client.fetch(f"{server.url}/model.json")
            assert np.array_equal(bundle["q"], np.zeros(100_000, np.float32))


async def test_fetch_with_a_client_of_its_own_leaves_no_connection_behind() -> None:
    async with MockServer(files()) as server:
        before = tasks()
        for number in range(0, 300, 11):
            await cancelled_after(number, lambda: ignore(fetch(f"{server.url}/model.json")))
            await gone(server)
            assert tasks() == before
        gc.collect()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_load_can_be_cancelled_by_asyncio_itself() -> None:
    async with MockServer(files()) as server:
        async with Client(limits=Limits(per_origin=2)) as client:
            before = tasks()
            for number in rounds():
                task = asyncio.create_task(client.fetch(f"{server.url}/model.json"))
                for _ in range(number):
                    await asyncio.sleep(0)
                if task.done():
                    break
                task.cancel()
                with suppress(asyncio.CancelledError), anyio.fail_after(AT_ONCE):
                    await task
                assert tasks() == before
            with anyio.fail_after(5):
                assert len(await client.fetch(f"{server.url}/model.json")) == 3
        gc.collect()
        await gone(server)


@pytest.mark.parametrize("fault", [Stall(0), Stall(20), Latency(60), Status(503, retry_after=60)], ids=str)
@on_every_load
async def test_a_load_that_waits_for_the_server_is_cancelled_at_once(
    load: Load, fault: Stall | Latency | Status
) -> None:
    async with MockServer(files()) as server, Client(retry=QUICK) as client:
        server.misbehave("/g1", fault)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(load, client, f"{server.url}/model.json")
                await server.wait_until(lambda: bool(server.requests_to("/g1")))
                await anyio.sleep(0.02)
                started = time.monotonic()
                group.cancel_scope.cancel()
        assert time.monotonic() - started < AT_ONCE


async def test_loads_that_wait_for_a_slot_are_cancelled_at_once() -> None:
    async with MockServer(many(50).hosted()) as server, Client(limits=Limits(per_origin=1)) as client:
        server.misbehave("/m/s0", Stall(0))
        with anyio.move_on_after(0.2):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(client.fetch, f"{server.url}/m/model.json")
        server.behave()
        with anyio.fail_after(5):
            assert len(await client.fetch(f"{server.url}/m/model.json")) == 50


async def test_a_timeout_of_the_caller_is_the_callers_error() -> None:
    async with MockServer(many(5).hosted()) as server, Client() as client:
        server.misbehave("/m/s3", Stall(0))
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.2):
                await client.fetch(f"{server.url}/m/model.json")


async def ignore(work: Awaitable[object]) -> None:
    await work


async def gone(server: MockServer) -> None:
    with anyio.fail_after(2):
        await server.wait_until(lambda: server.active == 0)


def tasks() -> set[str]:
    """Return the names of all tasks but those of servers, which come and go with connections."""
    try:
        found = asyncio.all_tasks()
    except RuntimeError:
        return set()
    return {name for name in (task.get_name() for task in found) if "MockServer" not in name}
