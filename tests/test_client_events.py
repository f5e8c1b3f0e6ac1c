"""What a listener is told of a load, and what becomes of the errors of listeners and consumers."""

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import anyio
import pytest

from mock_server import Cut, File, HangUp, Latency, MockServer, Status, Throttle
from tests.models import QUICK, assert_equal, floats, group, many, model
from tfjs_fetch import (
    Client,
    Event,
    Finished,
    Planned,
    ProgressState,
    Retrying,
    ShardFinished,
    ShardProgress,
    StatusError,
    TfjsFetchError,
    TruncatedError,
    Warned,
    WeightReady,
    fetch,
)

pytestmark = pytest.mark.anyio


E = TypeVar("E", bound=Event)


class Trouble(Exception):  # noqa: N818 - no error of anybody, only something to raise
    """What a listener or a consumer raises."""


def of(kind: type[E], events: list[Event]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


async def test_a_load_is_told_from_plan_to_finish() -> None:
    example, events = many(3), list[Event]()
    async with MockServer(example.hosted()) as server:
        source = f"{server.url}/m/model.json"
        await fetch(f"{source}?token=secret", progress=events.append)

        shown = f"{source}?…"
        assert events[0] == Planned(shown, shards=3, weights=3, total_bytes=48, cached_bytes=0)
        assert isinstance(events[-1], Finished)
        assert (events[-1].source, events[-1].received_bytes) == (
            shown,
            48 + len(example.files["model.json"]),
        )
    finished = sorted((event.index, event.url[-4:], event.size, event.origin) for event in of(ShardFinished, events))
    assert finished == [(index, f"s{index}?…", 16, "network") for index in range(3)]
    assert sorted(event.name for event in of(WeightReady, events)) == ["w0", "w1", "w2"]
    assert [(event.done, event.total) for event in of(WeightReady, events)] == [(1, 3), (2, 3), (3, 3)]
    assert all("secret" not in repr(event) for event in events)


async def test_a_stream_is_told_from_plan_to_finish_and_weights_come_in_order() -> None:
    example, events = many(3), list[Event]()
    async with (
        MockServer(example.hosted()) as server,
        Client() as client,
        client.stream(f"{server.url}/m/model.json", progress=events.append) as weights,
    ):
        async for _ in weights:
            pass

    assert isinstance(events[0], Planned)
    assert isinstance(events[-1], Finished)
    assert [event.name for event in of(WeightReady, events)] == ["w0", "w1", "w2"]
    assert sorted(event.index for event in of(ShardFinished, events)) == [0, 1, 2]


async def test_a_stream_that_is_left_early_does_not_claim_to_have_finished() -> None:
    example, events = many(3), list[Event]()
    async with (
        MockServer(example.hosted()) as server,
        Client() as client,
        client.stream(f"{server.url}/m/model.json", progress=events.append) as weights,
    ):
        async for _ in weights:
            break

    assert of(Finished, events) == []


async def test_the_plan_is_told_first_also_if_the_document_came_at_the_second_attempt() -> None:
    example, events = many(2), list[Event]()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK) as client:
        server.misbehave_in_turn("/m/model.json", HangUp(), Cut(10))
        await client.fetch(f"{server.url}/m/model.json", progress=events.append)

        assert isinstance(events[0], Planned)
        assert [(event.url, event.attempt) for event in of(Retrying, events)] == [
            (f"{server.url}/m/model.json", 2),
            (f"{server.url}/m/model.json", 3),
        ]


@pytest.mark.parametrize(("names", "total"), [(None, 48), (["w0", "w2"], 32), ("w1", 16)])
async def test_the_total_counts_the_wanted_weights(names: list[str] | str | None, total: int) -> None:
    example, events = many(3), list[Event]()
    async with MockServer(example.hosted()) as server:
        await fetch(f"{server.url}/m/model.json", weights=names, progress=events.append)

    state = ProgressState()
    for number, event in enumerate(events[:-1]):
        state.fold(event, number)
        assert state.done <= total
    assert (of(Planned, events)[0].total_bytes, state.total, state.done) == (total, total, total)


async def test_the_total_is_unknown_with_strings() -> None:
    weights = [{"name": "text", "shape": [1], "dtype": "string"}]
    document, events = json.dumps([{"paths": ["t"], "weights": weights}]).encode(), list[Event]()
    async with MockServer({"/model.json": document, "/t": b"\x02\0\0\0hi"}) as server:
        await fetch(f"{server.url}/model.json", progress=events.append)

    assert of(Planned, events)[0].total_bytes is None
    assert [event.size for event in of(ShardFinished, events)] == [6]


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_progress_of_a_shard_only_grows_and_is_not_told_too_often(framing: str) -> None:
    example, events = model(group({"a": floats(50_000)}, [120_000, 80_000])), list[Event]()
    async with MockServer(example.hosted(framing=framing)) as server:  # type: ignore[arg-type]
        server.misbehave("/m/w0", Throttle(300_000))
        with anyio.fail_after(5):
            await fetch(f"{server.url}/m/model.json", progress=events.append)

    first = [event for event in of(ShardProgress, events) if event.index == 0]
    assert 3 <= len(first) <= 8
    assert all(one.received <= other.received for one, other in pairwise(first))
    assert first[-1].received == 120_000
    assert {event.size for event in first} <= {120_000, None}


async def test_progress_is_kept_when_a_body_comes_again() -> None:
    example, events = model(group({"a": floats(100)})), list[Event]()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/w0", Cut(200), times=2)
        await client.fetch(f"{server.url}/m/model.json", progress=events.append)

    assert [event.received for event in of(ShardProgress, events)][-1] == 400
    assert max(event.received for event in of(ShardProgress, events)) == 400


async def test_a_bool_that_is_neither_true_nor_false_is_told() -> None:
    document = json.dumps([{"paths": ["w"], "weights": [{"name": "b", "shape": [4], "dtype": "bool"}]}]).encode()
    events = list[Event]()
    async with MockServer({"/model.json": document, "/w": b"\x00\x01\x07\xff"}) as server:
        bundle = await fetch(f"{server.url}/model.json", progress=events.append)

    assert bundle["b"].tolist() == [False, True, True, True]
    assert bundle.stored("b").tolist() == [0, 1, 7, 255]
    assert len(of(Warned, events)) == 1


@pytest.mark.parametrize("kind", [Planned, ShardProgress, ShardFinished, WeightReady, Retrying, Warned, Finished])
@pytest.mark.parametrize("streams", [False, True], ids=["fetch", "stream"])
async def test_what_a_listener_raises_comes_out_unchanged_and_everything_stops(
    kind: type[Event], streams: bool
) -> None:
    trouble = Trouble()

    def listener(event: Event) -> None:
        if isinstance(event, kind):
            raise trouble

    example = many(20)
    files = {**example.hosted(), "/m/s19": File(example.shards["s19"] + b"extra")}
    async with MockServer(files) as server:
        server.misbehave("/m/s3", Cut(5), times=1)
        with anyio.fail_after(5):
            async with Client(retry=QUICK) as client:
                with pytest.raises(Trouble) as caught:
                    await load(client, f"{server.url}/m/model.json", listener, streams=streams)
            await server.wait_until(lambda: server.active == 0)

    assert caught.value is trouble
    assert trouble.__cause__ is None
    assert isinstance(trouble.__context__, TfjsFetchError | None)  # that of a retry, and never our cancelling


async def load(client: Client, url: str, listener: Callable[[Event], None], *, streams: bool) -> None:
    if not streams:
        await client.fetch(url, progress=listener)
        return
    async with client.stream(url, progress=listener) as weights:
        async for _ in weights:
            pass


@pytest.mark.parametrize(
    "trouble",
    [Trouble(), ExceptionGroup("several", [Trouble(), ValueError()]), StatusError("http://h/", 503), KeyError("x")],
    ids=["error", "group", "ours", "key"],
)
async def test_what_a_consumer_raises_comes_out_unchanged(trouble: Exception) -> None:
    async with MockServer(many(50).hosted()) as server:
        with anyio.fail_after(5):
            async with Client() as client:
                with pytest.raises(type(trouble)) as caught:
                    await consume(client, f"{server.url}/m/model.json", trouble)
            await server.wait_until(lambda: server.active == 0)

    assert caught.value is trouble


async def consume(client: Client, url: str, trouble: Exception) -> None:
    async with client.stream(url) as weights:
        async for _ in weights:
            raise trouble


async def test_the_context_of_what_a_consumer_raises_is_kept() -> None:
    async with MockServer(many(5).hosted()) as server, Client() as client:
        with pytest.raises(Trouble) as caught:  # noqa: PT012 - it comes out of the stream
            async with client.stream(f"{server.url}/m/model.json"):
                try:
                    raise ValueError
                except ValueError:
                    raise Trouble  # noqa: B904 - so that it has a context and no cause

    assert isinstance(caught.value.__context__, ValueError)
    assert not caught.value.__suppress_context__


async def test_an_error_of_a_transfer_interrupts_the_consumer_of_a_stream() -> None:
    async with MockServer(many(5).hosted()) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/s1", Latency(0.05), Status(404))
        with anyio.fail_after(5), pytest.raises(StatusError) as caught:  # noqa: PT012 - it comes out of the stream
            async with client.stream(f"{server.url}/m/model.json") as weights:
                async for spec, array in weights:
                    assert (spec.name, array.tolist()) == ("w0", [0, 1, 2, 3])
                    await anyio.sleep_forever()

        assert caught.value.url == f"{server.url}/m/s1"


async def test_a_second_load_of_a_changed_model_is_told_from_its_plan_on() -> None:
    old, new, events = many(3), many(3, first=100), list[Event]()
    async with MockServer(old.hosted()) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/s0", Cut(5), times=1)
        server.swap_after(new.hosted(), path="/m/s0")
        for index in (1, 2):
            server.misbehave(f"/m/s{index}", Latency(0.1), times=1)
        bundle = await client.fetch(f"{server.url}/m/model.json", progress=events.append)

    assert_equal(bundle, new.arrays)
    assert [event.total_bytes for event in of(Planned, events)] == [48, 48]


async def test_a_listener_may_raise_what_looks_like_a_failed_transfer() -> None:
    failure = TruncatedError("http://elsewhere/", 1, 2)

    def listener(event: Event) -> None:
        if isinstance(event, ShardProgress):
            raise failure

    example = many(2)
    async with MockServer(example.hosted()) as server, Client() as client:
        with anyio.fail_after(5), pytest.raises(TruncatedError) as caught:
            await client.fetch(f"{server.url}/m/model.json", progress=listener)

        assert caught.value is failure
        assert len(server.requests) <= 3


async def listen_badly(trouble: type[BaseException], event_type: type[Event], *, streams: bool) -> None:
    def listener(event: Event) -> None:
        if isinstance(event, event_type):
            raise trouble

    async with MockServer(many(5).hosted()) as server, Client() as client:
        with anyio.fail_after(5), pytest.raises(RuntimeError):
            await load(client, f"{server.url}/m/model.json", listener, streams=streams)


on_every_event = pytest.mark.parametrize("event_type", [Planned, ShardProgress, ShardFinished, WeightReady])


@on_every_event
@pytest.mark.parametrize("trouble", [StopIteration, StopAsyncIteration])
@pytest.mark.parametrize("streams", [False, True], ids=["fetch", "stream"])
async def test_a_listener_cannot_end_a_loop_of_ours(
    trouble: type[BaseException], event_type: type[Event], streams: bool
) -> None:
    await listen_badly(trouble, event_type, streams=streams)


@on_every_event
@pytest.mark.parametrize("streams", [False, True], ids=["fetch", "stream"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio lets nobody make its Cancelled
async def test_a_listener_cannot_cancel_a_task_of_ours_quietly(event_type: type[Event], streams: bool) -> None:
    await listen_badly(asyncio.CancelledError, event_type, streams=streams)
