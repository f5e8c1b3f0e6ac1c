"""Many transfers at one time: bounded, in order, over few connections, and never in each other's way."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from mock_server import Cut, Latency, MockServer
from tests.models import QUICK, assert_equal, many
from tfjs_fetch import Client, Limits, Retry, fetch

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("per_origin", [1, 2, 8])
async def test_hazard_4_no_more_transfers_than_allowed_are_in_flight(per_origin: int) -> None:
    example = many(40)
    async with MockServer(example.hosted()) as server, Client(limits=Limits(per_origin=per_origin)) as client:
        server.misbehave(None, Latency(0.05))
        with anyio.fail_after(10):
            bundle = await client.fetch(f"{server.url}/m/model.json")

        assert_equal(bundle, example.arrays)
        assert server.peak == per_origin


async def test_connections_are_used_again() -> None:
    async with MockServer(many(100).hosted()) as server, Client() as client:
        with anyio.fail_after(10):
            await client.fetch(f"{server.url}/m/model.json")
            await client.fetch(f"{server.url}/m/model.json")

        assert len(server.requests) == 202
        assert server.connections <= 8


async def test_shards_are_asked_for_in_the_order_of_the_document() -> None:
    async with MockServer(many(40).hosted()) as server, Client(limits=Limits(per_origin=1)) as client:
        with anyio.fail_after(10):
            await client.fetch(f"{server.url}/m/model.json")

        assert [request.path for request in server.requests[1:]] == [f"/m/s{index}" for index in range(40)]


async def test_a_shard_keeps_its_slot_while_it_is_tried_again() -> None:
    async with MockServer(many(4).hosted()) as server, Client(retry=QUICK, limits=Limits(per_origin=1)) as client:
        server.misbehave("/m/s0", Cut(5), times=3)
        with anyio.fail_after(10):
            await client.fetch(f"{server.url}/m/model.json")

        asked = [request.path for request in server.requests[1:]]
        assert asked == ["/m/s0"] * 4 + ["/m/s1", "/m/s2", "/m/s3"]


async def test_two_loads_run_side_by_side_within_common_limits() -> None:
    first, second = many(30), many(30, first=1000)
    async with MockServer({**first.hosted("/a/"), **second.hosted("/b/")}) as server, Client() as client:
        server.misbehave(None, Latency(0.005))
        found: dict[str, Any] = {}

        async def load(name: str) -> None:
            found[name] = await client.fetch(f"{server.url}/{name}/model.json")

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(load, "a")
                tasks.start_soon(load, "b")

        assert_equal(found["a"], first.arrays)
        assert_equal(found["b"], second.arrays)
        assert server.peak <= 8


async def test_limits_of_two_origins_add_up_to_the_limit_of_all() -> None:
    first, second = many(20), many(20, first=1000)
    async with MockServer(first.hosted()) as one, MockServer(second.hosted()) as other:
        async with Client(limits=Limits(per_origin=4, connections=5)) as client:
            for server in (one, other):
                server.misbehave(None, Latency(0.005))
            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.fetch, f"{one.url}/m/model.json")
                    tasks.start_soon(client.fetch, f"{other.url}/m/model.json")

        assert max(one.peak, other.peak) <= 4
        assert one.peak + other.peak <= 8
        assert one.connections + other.connections >= 2


async def test_a_thousand_shards_over_four_connections_wait_without_a_timeout() -> None:
    example = many(1000)
    async with MockServer(example.hosted()) as server, Client(limits=Limits(connections=4)) as client:
        with anyio.fail_after(30):
            bundle = await client.fetch(f"{server.url}/m/model.json")

        assert_equal(bundle, example.arrays)
        assert server.peak <= 4
        assert server.connections <= 4


async def test_waiting_for_a_slot_is_no_stall() -> None:
    limits, retry = Limits(per_origin=1), Retry(attempts=1, stall_seconds=0.5)
    async with MockServer(many(8).hosted()) as server, Client(limits=limits, retry=retry) as client:
        server.misbehave(None, Latency(0.1))
        with anyio.fail_after(10):
            bundle = await client.fetch(f"{server.url}/m/model.json")

    assert len(bundle) == 8


@pytest.mark.parametrize(
    "limits", [Limits(per_origin=1), Limits(per_origin=2)], ids=lambda limits: str(limits.per_origin)
)
async def test_a_load_inside_a_stream_of_the_same_client_does_not_wait_for_it(limits: Limits) -> None:
    outer, inner = many(20), many(3, first=1000)
    async with MockServer({**outer.hosted("/a/"), **inner.hosted("/b/")}) as server, Client(limits=limits) as client:
        with anyio.fail_after(10):
            async with client.stream(f"{server.url}/a/model.json") as weights:
                async for _ in weights:
                    assert_equal(await client.fetch(f"{server.url}/b/model.json"), inner.arrays)
                    break


async def test_ten_fetches_with_clients_of_their_own_run_side_by_side() -> None:
    example = many(10)
    async with MockServer(example.hosted()) as server:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(fetch, f"{server.url}/m/model.json")

        assert len(server.requests) == 110
        await until(server, lambda: server.active == 0)


async def until(server: MockServer, condition: Callable[[], bool]) -> None:
    with anyio.fail_after(2):
        await server.wait_until(condition)
