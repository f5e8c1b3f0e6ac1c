"""Bodies that break and come again: the same weights in the end, of one version, or a clear error."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import anyio
import numpy as np
import pytest

from mock_server import (
    Close,
    Cut,
    Fault,
    Flip,
    HangUp,
    Latency,
    MockServer,
    Reset,
    Stall,
    Status,
    Throttle,
    WrongLength,
)
from tests.models import NO_TLS, QUICK, Model, assert_equal, cut, floats, group, is_one_of, many, model
from tfjs_fetch import (
    Client,
    Event,
    ModelChangedError,
    Retry,
    Retrying,
    Stalled,
    StalledError,
    TfjsFetchError,
    TruncatedError,
    UnreachableError,
)

pytestmark = pytest.mark.anyio

Framing: TypeAlias = Literal["length", "chunked", "close"]
Take: TypeAlias = Callable[..., Awaitable[dict[str, Any]]]


def across(first: float = 0.0) -> Model:
    """Return a model whose weights lie across its three shards; `first` tells one version from another."""
    quantization = {"dtype": "uint8", "min": first, "scale": 1}
    stored = bytes(range(60))
    specs = [
        {"name": f"w{index}", "shape": [10], "dtype": "float32", "quantization": quantization} for index in range(6)
    ]
    arrays = {f"w{index}": floats(10, first + 10 * index) for index in range(6)}
    shards = cut(stored, [25, 25, 10], "s")
    return Model({"weightsManifest": [{"paths": list(shards), "weights": specs}]}, shards, arrays)


async def fetch_all(server: MockServer, client: Client, events: list[Event] | None = None) -> dict[str, Any]:
    with anyio.fail_after(10):
        bundle = await client.fetch(f"{server.url}/m/model.json", progress=([] if events is None else events).append)
    return dict(bundle)


async def stream_all(server: MockServer, client: Client, events: list[Event] | None = None) -> dict[str, Any]:
    with anyio.fail_after(10):
        report = ([] if events is None else events).append
        async with client.stream(f"{server.url}/m/model.json", progress=report) as weights:
            return {spec.name: array async for spec, array in weights}


on_both = pytest.mark.parametrize("take", [fetch_all, stream_all])


@on_both
@pytest.mark.parametrize("kind", [Cut, Reset])
@pytest.mark.parametrize("at", [0, 9, 11, 24])
async def test_a_broken_body_of_no_known_version_comes_again(take: Take, kind: type[Cut | Reset], at: int) -> None:
    example, events = across(), list[Event]()
    async with (
        MockServer(example.hosted(etag='W/"1"')) as server,
        Client(cache=None, retry=QUICK, ssl_context=NO_TLS) as client,
    ):
        for index in range(2):
            server.misbehave_in_turn(f"/m/s{index}", kind(at), kind(at // 2))
        found = await take(server, client, events)

        assert_equal(found, example.arrays)
        assert [len(server.requests_to(f"/m/s{index}")) for index in range(3)] == [3, 3, 1]
        assert not any("range" in request.headers for request in server.requests)
    retries = [(event.url[-2:], event.attempt) for event in events if isinstance(event, Retrying)]
    assert sorted(retries) == [("s0", 2), ("s0", 3), ("s1", 2), ("s1", 3)]


@on_both
@pytest.mark.parametrize(
    "fault", [Cut(13), Reset(13), HangUp(), HangUp(reset=True), Status(503), Close(), Status(429, 0)]
)
async def test_hazard_7_the_document_and_all_shards_may_fail_once(take: Take, fault: Fault) -> None:
    example = across()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        for name in example.files:
            server.misbehave(f"/m/{name}", fault, times=1)
        found = await take(server, client)

    assert_equal(found, example.arrays)


@pytest.mark.parametrize("gzip", ["never", "always"])
async def test_a_broken_body_without_a_length_comes_again(gzip: Literal["never", "always"]) -> None:
    example = across()
    async with (
        MockServer(example.hosted(framing="chunked", gzip=gzip)) as server,
        Client(retry=QUICK, ssl_context=NO_TLS) as client,
    ):
        for name in example.shards:
            server.misbehave(f"/m/{name}", Cut(7), times=2)
        found = await fetch_all(server, client)

    assert_equal(found, example.arrays)


async def test_a_body_that_never_comes_whole_is_the_error_of_its_last_attempt() -> None:
    example = across()
    async with (
        MockServer(example.hosted(etag=None, last_modified=None)) as server,
        Client(retry=QUICK, ssl_context=NO_TLS) as client,
    ):
        server.misbehave("/m/s1", Cut(9))
        with pytest.raises(TruncatedError) as caught:
            await fetch_all(server, client)

        assert (caught.value.url, caught.value.received, caught.value.expected) == (f"{server.url}/m/s1", 9, 25)
        assert len(server.requests_to("/m/s1")) == 5


async def test_a_server_that_only_hangs_up_is_unreachable() -> None:
    async with MockServer(across().hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/s1", HangUp())
        with pytest.raises(UnreachableError) as caught:
            await fetch_all(server, client)

        assert caught.value.url == f"{server.url}/m/s1"


async def test_a_length_that_is_too_long_is_a_truncated_body() -> None:
    async with MockServer(across().hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/s0", WrongLength(by=3))
        with pytest.raises(TfjsFetchError) as caught:
            await fetch_all(server, client)

    assert isinstance(caught.value, TruncatedError | ModelChangedError)


@on_both
async def test_a_stalled_body_is_given_up_and_comes_again(take: Take) -> None:
    example, events = across(), list[Event]()
    retry = Retry(delay=0.0, max_delay=0.0, stall_seconds=0.5)
    async with MockServer(example.hosted()) as server, Client(retry=retry) as client:
        server.misbehave("/m/s1", Stall(9), times=1)
        found = await take(server, client, events)

    assert_equal(found, example.arrays)
    stalled = [(event.url[-2:], event.index) for event in events if isinstance(event, Stalled)]
    assert stalled == [("s1", 1)]


async def test_a_body_that_always_stalls_is_an_error() -> None:
    retry = Retry(attempts=2, delay=0.0, max_delay=0.0, stall_seconds=0.1)
    async with MockServer(across().hosted(etag=None, last_modified=None)) as server, Client(retry=retry) as client:
        server.misbehave("/m/s1", Stall(9))
        with pytest.raises(StalledError) as caught:
            await fetch_all(server, client)

        assert (caught.value.url, caught.value.received) == (f"{server.url}/m/s1", 9)


@on_both
@pytest.mark.parametrize("etag", ["sha256", None, 'W/"1"'])
@pytest.mark.parametrize("at", [1, 10, 24])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_file_replaced_between_two_attempts_gives_one_version(
    take: Take, framing: Framing, at: int, etag: str | None
) -> None:
    old, new = across(), Model(across().document, cut(bytes(range(100, 160)), [25, 25, 10], "s"), {})
    arrays = {name: array + np.float32(100) for name, array in old.arrays.items()}
    async with (
        MockServer(old.hosted(framing=framing, etag=etag)) as server,
        Client(retry=QUICK, ssl_context=NO_TLS) as client,
    ):
        server.misbehave("/m/s0", Cut(at), times=1)
        for index in (1, 2):
            server.misbehave(f"/m/s{index}", Latency(0.05))
        changed = datetime(2024, 6, 1, tzinfo=UTC)
        server.swap_after(new.hosted(framing=framing, etag=etag, last_modified=changed), path="/m/s0")
        try:
            found = await take(server, client)
        except ModelChangedError:
            return

    assert all(np.array_equal(found[name], arrays[name]) for name in ("w0", "w1"))


@on_both
@pytest.mark.parametrize("gzip", ["never", "always"])
async def test_a_body_that_differs_only_in_its_second_attempt_is_never_mixed(take: Take, gzip: Any) -> None:
    example = model(group({f"w{index}": floats(64, index) for index in range(64)}, [64 * 256]))
    async with MockServer(example.hosted(gzip=gzip)) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave_in_turn("/m/w0", Cut(64 * 128 if gzip == "never" else 400), Flip(at=20))
        try:
            found = await take(server, client)
        except TfjsFetchError:
            return

    assert_equal(found, example.arrays)


async def test_a_model_replaced_during_the_load_comes_in_its_new_version() -> None:
    old, new = many(4), many(4, first=1000)
    async with MockServer(old.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/s0", Cut(5), times=1)
        server.swap_after(new.hosted(), path="/m/s0")
        for index in (1, 2, 3):
            server.misbehave(f"/m/s{index}", Latency(0.1), times=1)
        with anyio.fail_after(5):
            bundle = await client.fetch(f"{server.url}/m/model.json")

    assert is_one_of(bundle, new)


async def test_a_model_that_never_stops_changing_is_an_error() -> None:
    async with MockServer(many(2).hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        for version in range(1, 12):
            server.misbehave_in_turn("/m/s0", Cut(5), ())
            server.swap_after(many(2, first=1000 * version).hosted(), requests=2 * version - 1, path="/m/s0")
        with anyio.fail_after(5), pytest.raises(ModelChangedError) as caught:
            await client.fetch(f"{server.url}/m/model.json")

    assert (caught.value.source, caught.value.attempts) == (f"{server.url}/m/model.json", 3)


async def test_a_second_attempt_that_is_shorter_than_what_is_in_place_is_never_mixed() -> None:
    old, new = across(), Model(across().document, cut(bytes(range(25)) + bytes(range(125, 160)), [12, 38, 10], "s"), {})
    async with MockServer(old.hosted(framing="chunked")) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/s0", Cut(20), times=1)
        server.misbehave("/m/s1", Latency(0.05), times=1)
        server.swap_after(new.hosted(framing="chunked"), path="/m/s0")
        found = await fetch_all(server, client)

    assert found["w2"].tolist() == [20, 21, 22, 23, 24, 125, 126, 127, 128, 129]


@pytest.mark.parametrize("requests", range(1, 5))
async def test_a_swap_to_a_smaller_version_between_two_requests_is_an_error_or_one_version(requests: int) -> None:
    old = many(3)
    new = model(group({f"w{index}": floats(3, 1000 + index) for index in range(3)}, [12, 12, 12], name="s"))
    async with MockServer(old.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.swap_after(new.hosted(), requests=requests)
        try:
            with anyio.fail_after(5):
                bundle = await client.fetch(f"{server.url}/m/model.json")
        except TfjsFetchError:
            return

    assert is_one_of(bundle, old, new)


@on_both
async def test_a_compressed_shard_that_waits_for_one_before_it_is_not_stalled(take: Take) -> None:
    example = model(group({"a": floats(5000), "b": floats(100)}, [20_000, 400]))
    async with MockServer(example.hosted(gzip="always")) as server:
        server.misbehave("/m/w0", Throttle(bytes_per_second=3_000))
        events = list[Event]()
        retry = Retry(attempts=1, stall_seconds=1.0, stall_bytes=100)
        async with Client(ssl_context=NO_TLS, retry=retry) as client:
            assert_equal(await take(server, client, events), example.arrays)

    assert not [event for event in events if isinstance(event, Stalled)]
