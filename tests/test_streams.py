"""Large files over several streams, and chosen ranges: right bytes, within limits, and no more than was asked for."""

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anyio
import numpy as np
import pytest

from mock_server import Cut, File, HangUp, IgnoreRange, MockServer, Stall, Status, Throttle, WrongRange
from mock_server.answers import Answer, Delivery
from mock_server.faults import Fault
from mock_server.server import SeenRequest
from tests.models import NO_TLS, QUICK, Model, assert_equal, group, many, model
from tfjs_fetch import (
    Client,
    Limits,
    ModelChangedError,
    Retry,
    Retrying,
    ShardProgress,
    Stalled,
    TfjsFetchError,
    shards,
    streams,
)
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
    async with MockServer(example.hosted()) as server, Client(cache=None, retry=QUICK, ssl_context=NO_TLS) as client:
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
    async with MockServer(example.hosted()) as server, Client(cache=None, retry=QUICK, ssl_context=NO_TLS) as client:
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
        Client(cache=None, retry=QUICK, ssl_context=NO_TLS, limits=Limits(per_origin=3)) as client,
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


# Everything at once


@pytest.mark.usefixtures("small_scale")
@pytest.mark.parametrize("seed", range(12))
async def test_a_file_that_is_shared_out_is_one_version_whatever_the_server_does(seed: int) -> None:
    chance, old, new = random.Random(seed), large(), large(1)
    faults: list[Any] = [(), (), (), IgnoreRange(), WrongRange(by=9), Cut(20_000), Stall(5_000), Status(503), HangUp()]
    slow, events = Throttle(3 * _RATE), list[Any]()
    retry = Retry(attempts=8, delay=0.0, max_delay=0.01, stall_seconds=0.4)
    async with MockServer(old.hosted()) as server, Client(retry=retry, ssl_context=NO_TLS) as client:
        turns = [chance.choice(faults) for _ in range(12)]
        server.misbehave_in_turn("/m/w0", *[(slow, turn) if turn else slow for turn in turns], *[slow] * 60)
        if seed % 2:
            server.swap_after(new.hosted(), path="/m/w0", requests=chance.randrange(1, 8))
        try:
            found = await fetched(server, client, progress=events.append)
        except TfjsFetchError:
            return

    assert any(all(np.array_equal(found[name], one.arrays[name]) for name in one.arrays) for one in (old, new))
    told = [event for event in events if isinstance(event, ShardProgress)]
    assert all(event.size is None or event.received <= event.size for event in told)


@pytest.mark.usefixtures("small_scale")
async def test_a_stream_that_is_refused_costs_the_others_nothing() -> None:
    example, events = large(), list[Any]()
    async with MockServer(example.hosted()) as server, Client(ssl_context=NO_TLS) as client:
        slow = Throttle(2 * _RATE)
        server.misbehave_in_turn("/m/w0", slow, *[Status(403)] * 40)
        assert_equal(await fetched(server, client, progress=events.append), example.arrays)

        # One was enough to see that more are not welcome.
        assert len(server.requests_to("/m/w0")) == 2
    assert not [event for event in events if isinstance(event, Retrying)]


class Down(Fault):
    """Hangs up for so many seconds from the first request on."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._since = seconds, math.inf

    def on_delivery(self, delivery: Delivery) -> Delivery:
        self._since = min(self._since, anyio.current_time())
        down = anyio.current_time() < self._since + self._seconds
        return HangUp().on_delivery(delivery) if down else delivery


async def test_a_server_that_is_away_for_a_second_is_waited_for_by_one_transfer_for_all() -> None:
    example, events = many(40), list[Any]()
    async with MockServer(example.hosted()) as server, Client(retry=Retry(attempts=6), ssl_context=NO_TLS) as client:
        down = Down(1.0)
        for name in example.shards:
            server.misbehave(f"/m/{name}", down)
        assert_equal(await fetched(server, client, progress=events.append), example.arrays)

    assert len([event for event in events if isinstance(event, Retrying)]) < 40


@pytest.mark.usefixtures("small_scale")
async def test_what_a_helper_brought_before_it_broke_does_not_come_again() -> None:
    example = large()
    async with (
        MockServer(example.hosted()) as server,
        Client(cache=None, retry=QUICK, ssl_context=NO_TLS, limits=Limits(per_origin=2)) as client,
    ):
        server.misbehave_in_turn("/m/w0", (Throttle(_RATE),), (Throttle(_RATE), Cut(10_000)), (Throttle(_RATE),))
        assert_equal(await fetched(server, client), example.arrays)

        assert server.requests_to("/m/w0")[1].bytes_sent == 10_000
        assert sum(request.bytes_sent for request in server.requests_to("/m/w0")) < _SIZE + 2 * 64 * 1024
