"""Large files over several streams, and chosen ranges: right bytes, within limits, and no more than was asked for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anyio
import numpy as np
import pytest

from mock_server import Cut, File, IgnoreRange, Latency, MockServer, Stall, Throttle, WrongRange
from mock_server.answers import Answer
from mock_server.faults import Fault
from mock_server.server import SeenRequest
from tests.models import NO_TLS, QUICK, Model, assert_equal, group, many, model
from tfjs_fetch import Client, Limits, ModelChangedError, Retry, Retrying, Stalled, fetch, shards, streams
from tfjs_fetch.format.dtypes import Array

pytestmark = pytest.mark.anyio

# A "large" file here: 8 weights of 64 KiB each.
_WEIGHT = 16 * 1024
_SIZE = 8 * 4 * _WEIGHT
_RATE = 400_000.0


@pytest.fixture
def small_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make everything small: what a large file is, a piece of one, and the time to wait."""
    monkeypatch.setattr(streams, "_LARGE_BYTES", _SIZE)
    monkeypatch.setattr(streams, "_LEAST_PIECE", 16 * 1024)
    monkeypatch.setattr(shards, "_BUFFER_BYTES", 8 * 1024)
    monkeypatch.setattr(streams, "_TRIAL_SECONDS", 0.05)
    monkeypatch.setattr(streams, "_WORTH_SECONDS", 0.1)


def large(seed: int = 0) -> Model:
    values = np.random.default_rng(seed).random((8, _WEIGHT), np.float32)
    return model(group({f"w{index}": row for index, row in enumerate(values)}))


async def fetched(server: MockServer, client: Client, **more: Any) -> Mapping[str, Array]:
    with anyio.fail_after(20):
        return await client.fetch(f"{server.url}/m/model.json", **more)


def ranges(server: MockServer) -> list[tuple[int, int]]:
    """Return what of /m/w0 was sent, from where up to where, in order."""
    return sorted(_sent(request) for request in server.requests_to("/m/w0"))


def _sent(request: SeenRequest) -> tuple[int, int]:
    first = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
    return first, first + request.bytes_sent


@pytest.mark.usefixtures("small_scale")
async def test_a_slow_large_file_is_shared_out() -> None:
    example = large()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/w0", Throttle(_RATE))
        began = anyio.current_time()
        found = await fetched(server, client)
        took = anyio.current_time() - began

        assert_equal(found, example.arrays)
        # One stream would take 1.3 seconds.
        assert took < 0.8
        assert 3 <= server.peak <= 8
        (first, *others) = server.requests_to("/m/w0")
        assert "range" not in first.headers
        assert all(
            request.headers["if-range"] == first.headers.get("etag", request.headers["if-range"]) for request in others
        )
        # No byte came twice but those that were on their way when a stream met a piece.
        assert sum(stop - start for start, stop in ranges(server)) < _SIZE + 8 * 64 * 1024


@pytest.mark.usefixtures("small_scale")
@pytest.mark.parametrize("etag", ['W/"1"', None])
async def test_a_file_of_no_known_version_comes_over_one_stream(etag: str | None) -> None:
    example = large()
    async with (
        MockServer(example.hosted(etag=etag, last_modified=None)) as server,
        Client(retry=QUICK, ssl_context=NO_TLS) as client,
    ):
        server.misbehave("/m/w0", Throttle(2 * _RATE))
        assert_equal(await fetched(server, client), example.arrays)

        assert len(server.requests_to("/m/w0")) == 1


@pytest.mark.usefixtures("small_scale")
async def test_a_fast_file_comes_over_one_stream() -> None:
    example = large()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        assert_equal(await fetched(server, client), example.arrays)

        assert len(server.requests_to("/m/w0")) == 1


@pytest.mark.usefixtures("small_scale")
async def test_a_server_without_ranges_is_noticed_and_left_in_peace() -> None:
    example = large()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/w0", Throttle(3 * _RATE), IgnoreRange())
        for _ in range(4):
            assert_equal(await fetched(server, client), example.arrays)

        asked = ["range" in request.headers for request in server.requests_to("/m/w0")]
        assert asked == [False, True, False, True, False, True, False]
        assert server.requests_to("/m/w0")[0].bytes_sent == _SIZE


@pytest.mark.usefixtures("small_scale")
async def test_a_server_that_says_so_is_not_even_asked() -> None:
    example = large()
    files = example.hosted()
    files["/m/w0"] = File(example.shards["w0"], headers=(("accept-ranges", "none"),))

    class NoRanges(Fault):
        def on_answer(self, answer: Answer) -> Answer:

            return replace(answer, headers=tuple(h for h in answer.headers if h != ("accept-ranges", "bytes")))

    async with MockServer(files) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/w0", Throttle(2 * _RATE), NoRanges())
        assert_equal(await fetched(server, client), example.arrays)

        assert len(server.requests_to("/m/w0")) == 1


@pytest.mark.usefixtures("small_scale")
@pytest.mark.parametrize("fault", [WrongRange(by=7), WrongRange(by=-7), IgnoreRange()])
@pytest.mark.parametrize("good", [1, 2, 3])
async def test_a_server_that_stops_giving_right_ranges_gives_right_bytes(fault: Fault, good: int) -> None:
    example = large()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        slow = Throttle(2 * _RATE)
        server.misbehave_in_turn("/m/w0", *[slow] * good, *[(slow, fault)] * 20)

        assert_equal(await fetched(server, client), example.arrays)


@pytest.mark.usefixtures("small_scale")
@pytest.mark.parametrize("fault", [Cut(10_000), Stall(10_000), Stall(0)])
async def test_a_stream_that_breaks_goes_on_where_it_was(fault: Fault) -> None:
    example, events = large(), list[Any]()
    retry = Retry(delay=0.0, max_delay=0.0, stall_seconds=0.4)
    async with MockServer(example.hosted()) as server, Client(retry=retry, ssl_context=NO_TLS) as client:
        slow = Throttle(2 * _RATE)
        server.misbehave_in_turn("/m/w0", slow, (slow, fault), (slow, fault), *[slow] * 30)
        assert_equal(await fetched(server, client, progress=events.append), example.arrays)

        assert sum(stop - start for start, stop in ranges(server)) < _SIZE + 10 * 64 * 1024
    # One that breaks leaves its piece to the others, without a pause.
    assert not [event for event in events if isinstance(event, Retrying)]
    assert bool([event for event in events if isinstance(event, Stalled)]) == isinstance(fault, Stall)


@pytest.mark.usefixtures("small_scale")
async def test_the_first_stream_may_break_while_others_are_at_work() -> None:
    example = large()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        slow = Throttle(2 * _RATE)
        server.misbehave_in_turn("/m/w0", (slow, Cut(100_000)), *[slow] * 30)

        assert_equal(await fetched(server, client), example.arrays)


@pytest.mark.usefixtures("small_scale")
@pytest.mark.parametrize("etag", ["sha256", '"same"'])
@pytest.mark.parametrize("requests", [1, 2, 4])
async def test_a_file_replaced_while_it_is_shared_out_is_one_version(etag: str, requests: int) -> None:
    old, new = large(), large(1)
    async with MockServer(old.hosted(etag=etag)) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/w0", Throttle(2 * _RATE))
        if etag == '"same"':  # a new name is what tells one version from another
            server.swap_after(new.hosted(etag='"other"'), path="/m/w0", requests=requests)
        else:
            server.swap_after(new.hosted(), path="/m/w0", requests=requests)
        try:
            found = await fetched(server, client)
        except ModelChangedError:
            return

    matches = [
        all(np.array_equal(found[name], array) for name, array in example.arrays.items()) for example in (old, new)
    ]
    assert any(matches)


@pytest.mark.usefixtures("small_scale")
async def test_a_straggler_leaves_its_piece_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_STRAGGLING_SECONDS", 0.5)
    example = large()
    async with MockServer(example.hosted()) as server, Client(ssl_context=NO_TLS) as client:
        slow = Throttle(2 * _RATE)
        server.misbehave_in_turn("/m/w0", slow, slow, Throttle(1000), *[slow] * 40)
        began = anyio.current_time()
        found = await fetched(server, client)

        assert_equal(found, example.arrays)
        # At that pace the piece alone would take 16 seconds.
        assert anyio.current_time() - began < 5


@pytest.mark.usefixtures("small_scale")
async def test_more_streams_than_slots_are_never_at_work() -> None:
    example = large()
    async with (
        MockServer(example.hosted()) as server,
        Client(retry=QUICK, ssl_context=NO_TLS, limits=Limits(per_origin=3)) as client,
    ):
        server.misbehave("/m/w0", Throttle(_RATE))
        assert_equal(await fetched(server, client), example.arrays)

        assert server.peak == 3


@pytest.mark.usefixtures("small_scale")
async def test_who_waits_for_a_slot_goes_before_more_streams_of_one_file() -> None:
    example, other = large(), many(6)
    async with (
        MockServer({**example.hosted("/m/"), **other.hosted("/o/")}) as server,
        Client(retry=QUICK, ssl_context=NO_TLS, limits=Limits(per_origin=2)) as client,
    ):
        server.misbehave("/m/w0", Throttle(_RATE))
        took: list[float] = []

        async def another() -> None:
            await anyio.sleep(0.4)
            began = anyio.current_time()
            assert_equal(await client.fetch(f"{server.url}/o/model.json"), other.arrays)
            took.append(anyio.current_time() - began)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(another)
            assert_equal(await fetched(server, client), example.arrays)

        # A piece takes 0.04 seconds and more; one of the two slots is that of the first stream.
        assert took[0] < 0.6


@pytest.mark.usefixtures("small_scale")
async def test_a_fetch_that_is_cancelled_while_a_file_is_shared_out_leaves_no_slot_taken() -> None:
    example = large()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/w0", Throttle(_RATE), times=8)
        for seconds in (0.15, 0.3, 0.4):
            with anyio.move_on_after(seconds):
                await fetched(server, client)
        assert client._origins.at(server.url).transfers.borrowed_tokens == 0

        assert_equal(await fetched(server, client), example.arrays)


# Chosen weights


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
