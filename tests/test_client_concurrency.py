"""Many transfers at one time: bounded, in order, over few connections, and never in each other's way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from mock_server import Cut, Fault, HangUp, Latency, MockServer, Status
from mock_server.answers import Answer
from tests.models import QUICK, Model, assert_equal, many
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
    async with MockServer(many(100).hosted()) as server, Client(cache=None) as client:
        with anyio.fail_after(10):
            await client.fetch(f"{server.url}/m/model.json")
            await client.fetch(f"{server.url}/m/model.json")

        assert len(server.requests) == 202
        assert server.connections <= 8


async def test_shards_are_asked_for_in_the_order_of_the_document() -> None:
    async with MockServer(many(40).hosted()) as server, Client(cache=None, limits=Limits(per_origin=1)) as client:
        with anyio.fail_after(10):
            await client.fetch(f"{server.url}/m/model.json")

        assert [request.path for request in server.requests[1:]] == [f"/m/s{index}" for index in range(40)]


async def test_a_shard_keeps_its_slot_while_it_is_tried_again() -> None:
    async with (
        MockServer(many(4).hosted()) as server,
        Client(cache=None, retry=QUICK, limits=Limits(per_origin=1)) as client,
    ):
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
                    tasks.start_soon(partial(fetch, f"{server.url}/m/model.json", cache=None))

        assert len(server.requests) == 110
        await until(server, lambda: server.active == 0)


async def until(server: MockServer, condition: Callable[[], bool]) -> None:
    with anyio.fail_after(2):
        await server.wait_until(condition)


@pytest.mark.parametrize("connections", [8, 32])
async def test_64_fetches_on_one_client_all_finish_and_none_waits_for_a_large_one(connections: int) -> None:
    large, small = many(400), [many(4, first=100.0 * index) for index in range(63)]
    files = large.hosted("/large/")
    for index, example in enumerate(small):
        files |= example.hosted(f"/{index}/")
    done: list[str] = []
    async with MockServer(files) as server, Client(cache=None, limits=Limits(connections=connections)) as client:
        server.misbehave(None, Latency(0.01))

        async def one(name: str, example: Model) -> None:
            assert_equal(await client.fetch(f"{server.url}/{name}/model.json"), example.arrays)
            done.append(name)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one, "large", large)
                for index, example in enumerate(small):
                    tasks.start_soon(one, str(index), example)

        assert server.peak <= 8
    # Loads take turns: a model of four files does not wait for one of 400.
    assert len(done) == 64
    assert done[-1] == "large"


class TooMany(Fault):
    """Answers 429 while more than `most` requests are being answered."""

    def __init__(self, server: MockServer, most: int) -> None:
        self._server, self._most = server, most
        self.refused = 0

    def on_answer(self, answer: Answer) -> Answer:
        if sum(not request.finished for request in self._server.requests) <= self._most:
            return answer
        self.refused += 1
        return Status(429).on_answer(answer)


async def test_an_origin_that_has_too_much_to_do_is_asked_for_less() -> None:
    example = many(60)
    async with MockServer(example.hosted()) as server, Client(retry=Retry(10, delay=0.05)) as client:
        too_many = TooMany(server, 2)
        server.misbehave(None, Latency(0.02), too_many)
        with anyio.fail_after(20):
            bundle = await client.fetch(f"{server.url}/m/model.json")

        assert_equal(bundle, example.arrays)
        # Eight at a time all the time would have been refused about three times out of four.
        assert 0 < too_many.refused < 40


@pytest.mark.parametrize("per_origin", [1, 2, 3])
@pytest.mark.parametrize("fault", [Cut(5), HangUp(), Status(503)])
async def test_an_early_shard_of_unknown_length_is_tried_again_while_others_wait_for_it(
    per_origin: int, fault: Fault
) -> None:
    example = many(6)
    async with (
        MockServer(example.hosted(framing="chunked")) as server,
        Client(retry=QUICK, limits=Limits(per_origin=per_origin)) as client,
    ):
        # Model.json told no sizes: shards of 16 bytes are not what a converter makes.
        server.misbehave("/m/s0", Latency(0.1), fault, times=3)
        server.misbehave("/m/s1", fault, times=2)
        with anyio.fail_after(10):
            bundle = await client.fetch(f"{server.url}/m/model.json")

    assert_equal(bundle, example.arrays)
