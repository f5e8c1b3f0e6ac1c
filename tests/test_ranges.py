"""Chosen weights: only the byte ranges that hold them are asked for, and never put together of two versions."""

from typing import Any

import anyio
import numpy as np
import pytest

from mock_server import Cut, IgnoreRange, Latency, MockServer, Stall, WrongRange
from mock_server.faults import Fault
from tests.models import NO_TLS, QUICK, Model, assert_equal, group, model
from tests.test_streams import _WEIGHT, _sent, fetched, large
from tfjs_fetch import (
    Client,
    ModelChangedError,
    Retry,
    fetch,
)
from tfjs_fetch.format.dtypes import Array

pytestmark = pytest.mark.anyio


def only(example: Model, *names: str) -> dict[str, Array]:
    return {name: example.arrays[name] for name in names}


async def test_only_the_bytes_of_chosen_weights_are_asked_for() -> None:
    example = large()
    async with MockServer(example.hosted()) as server, Client(ssl_context=NO_TLS) as client:
        plan = await client.plan(f"{server.url}/m/model.json", weights=["w1", "w3", "w4"])
        found = await fetched(server, client, weights=["w1", "w3", "w4"])

        assert_equal(found, only(example, "w1", "w3", "w4"))
        asked = [request.headers.get("range") for request in server.requests_to("/m/w0")]
        # Between w1 and w3 lie 64 KiB, which come along.
        assert asked == ["bytes=65536-327679"]
        assert plan.shards[0].ranges == ((65536, 327680),)
        assert plan.asked_bytes == sum(request.bytes_sent for request in server.requests_to("/m/w0")) == 4 * 65536


async def test_chosen_weights_far_from_each_other_are_asked_for_one_by_one() -> None:
    example, events = large(), list[Any]()
    async with MockServer(example.hosted()) as server, Client(ssl_context=NO_TLS) as client:
        found = await fetched(server, client, weights=["w0", "w3", "w7"], progress=events.append)

        assert_equal(found, only(example, "w0", "w3", "w7"))
        asked = sorted(request.headers["range"] for request in server.requests_to("/m/w0"))
        assert asked == ["bytes=0-65535", "bytes=196608-262143", "bytes=458752-524287"]
        assert events[-1].received_bytes == 3 * 65536 + len(example.files["model.json"])


async def test_many_ranges_are_brought_side_by_side() -> None:
    values = {f"w{index}": np.full(_WEIGHT // 16, index, np.float32) for index in range(600)}
    example = model(group(values))
    wanted = [f"w{index}" for index in range(0, 600, 40)]
    async with MockServer(example.hosted()) as server, Client(ssl_context=NO_TLS) as client:
        server.misbehave("/m/w0", Latency(0.1))
        began = anyio.current_time()
        found = await fetched(server, client, weights=wanted)

        assert_equal(found, only(example, *wanted))
        assert len(server.requests_to("/m/w0")) == 15
        assert anyio.current_time() - began < 1.2
        assert server.peak > 3


@pytest.mark.parametrize("names", [["w0"], ["w3"], ["w2", "w7"]])
async def test_a_server_without_ranges_gives_the_chosen_weights_all_the_same(names: list[str]) -> None:
    example = large()
    async with MockServer(example.hosted()) as server, Client(ssl_context=NO_TLS) as client:
        server.misbehave("/m/w0", IgnoreRange())
        assert_equal(await fetched(server, client, weights=names), only(example, *names))

        assert len(server.requests_to("/m/w0")) == 1


@pytest.mark.parametrize("etag", ['W/"1"', None])
async def test_ranges_of_no_known_version_are_not_put_together(etag: str | None) -> None:
    old, new = large(), large(1)
    names = ["w0", "w3", "w7"]
    async with (
        MockServer(old.hosted(etag=etag, last_modified=None)) as server,
        Client(retry=QUICK, ssl_context=NO_TLS) as client,
    ):
        server.swap_after(new.hosted(etag=etag, last_modified=None), path="/m/w0", requests=1)
        try:
            found = await fetched(server, client, weights=names)
        except ModelChangedError:
            return

    assert any(all(np.array_equal(found[name], one.arrays[name]) for name in names) for one in (old, new))


@pytest.mark.parametrize("fault", [Cut(30_000), WrongRange(by=5), IgnoreRange(), Stall(100)])
@pytest.mark.parametrize("good", [0, 1, 2])
async def test_ranges_that_go_wrong_give_the_chosen_weights_in_the_end(fault: Fault, good: int) -> None:
    example, names = large(), ["w1", "w4", "w7"]
    retry = Retry(delay=0.0, max_delay=0.0, stall_seconds=0.3)
    async with MockServer(example.hosted()) as server, Client(retry=retry, ssl_context=NO_TLS) as client:
        server.misbehave_in_turn("/m/w0", *[()] * good, fault, fault)

        assert_equal(await fetched(server, client, weights=names), only(example, *names))


async def test_a_stream_asks_for_the_ranges_in_order() -> None:
    example, names = large(), ["w1", "w4", "w7"]
    async with MockServer(example.hosted()) as server, Client(ssl_context=NO_TLS) as client:
        with anyio.fail_after(5):
            async with client.stream(f"{server.url}/m/model.json", weights=names) as weights:
                found = {spec.name: array async for spec, array in weights}

        assert_equal(found, only(example, *names))
        starts = [_sent(request)[0] for request in server.requests_to("/m/w0")]
        assert starts == [65536, 262144, 458752]


async def test_ranges_of_several_shards() -> None:
    values = {f"w{index}": np.full(_WEIGHT, index, np.float32) for index in range(9)}
    example = model(group(values, [200_000, 200_000, 189_824]))
    names = ["w0", "w3", "w8"]
    async with MockServer(example.hosted()) as server:
        found = await fetch(f"{server.url}/m/model.json", weights=names)

        assert_equal(found, only(example, *names))
        got = [request for request in server.requests if request.method == "GET"][1:]
        assert sum(request.bytes_sent for request in got) == 3 * 65536


@pytest.mark.parametrize("etag", ['W/"1"', None])
async def test_ranges_of_no_known_version_are_not_put_together_in_a_stream(etag: str | None) -> None:
    old, new = large(), large(1)
    names = ["w1", "w6"]
    hosting: dict[str, Any] = {"etag": etag, "last_modified": None}
    async with MockServer(old.hosted(**hosting)) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.swap_after(new.hosted(**hosting), path="/m/w0", requests=1)
        with anyio.fail_after(5):
            async with client.stream(f"{server.url}/m/model.json", weights=names) as weights:
                found = {spec.name: array async for spec, array in weights}

    assert any(all(np.array_equal(found[name], one.arrays[name]) for name in names) for one in (old, new))
