"""Streams: weights in order, in bounded memory, whatever the consumer, the sizes and the framings are.

The window of a stream is a few hundred bytes here, so that small models fill it.
"""

import gc
import tracemalloc
from datetime import UTC, datetime
from itertools import product
from typing import Any

import anyio
import numpy as np
import pytest
from anyio.lowlevel import checkpoint

from mock_server import Cut, File, Latency, MockServer, TrailingGarbage
from tests.models import NO_TLS, QUICK, Model, assert_equal, floats, group, many, model
from tfjs_fetch import Client, DecodeError, ExtraBytesError, Limits, TfjsFetchError, WrongContentError, loading
from tfjs_fetch.format.dtypes import Array

pytestmark = pytest.mark.anyio

on_every_framing = pytest.mark.parametrize("framing", ["length", "chunked", "close"])


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_PIECE_BYTES", 64)
    monkeypatch.setattr(loading, "_AHEAD_BYTES", 256)


async def streamed(client: Client, url: str, **how: Any) -> dict[str, Array]:
    with anyio.fail_after(10):
        async with client.stream(url, **how) as weights:
            return {spec.name: array async for spec, array in weights}


def small_weights(sizes: list[int]) -> Model:
    """Return a model of as many small weights as fit shards of these sizes."""
    total = sum(sizes) // 16
    return model(group({f"w{index}": floats(4, index) for index in range(total)}, sizes, name="s"))


UNEVEN = (
    [1600, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16],
    [16] * 20 + [1600],
    [800, 16, 16, 16, 800, 16, 16, 16, 800, 16, 16, 16],
    [0, 0, 1600, 0, 0, 0, 0, 0, 16, 0, 0, 0],
    [1601, 15, 1, 15],
)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("sizes", UNEVEN, ids=lambda sizes: "-".join(map(str, sizes[:3])))
@pytest.mark.parametrize("per_origin", [1, 2, 8])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_uneven_shards_never_wait_for_each_other(sizes: list[int], per_origin: int, framing: Any) -> None:
    example = small_weights(sizes)
    limits = Limits(per_origin=per_origin)
    async with (
        MockServer(example.hosted(framing=framing)) as server,
        Client(limits=limits, ssl_context=NO_TLS) as client,
    ):
        found = await streamed(client, f"{server.url}/m/model.json")

        assert_equal(found, example.arrays)
        assert server.peak <= per_origin


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("per_origin", [1, 2, 8])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_streams_and_loads_inside_streams_of_one_client_never_wait_for_each_other(
    per_origin: int, framing: Any
) -> None:
    outer, inner = small_weights(UNEVEN[0]), small_weights(UNEVEN[2])
    files = {**outer.hosted("/a/", framing=framing), **inner.hosted("/b/", framing=framing)}
    async with MockServer(files) as server, Client(limits=Limits(per_origin=per_origin)) as client:
        found, count = {}, 0
        with anyio.fail_after(20):
            async with client.stream(f"{server.url}/a/model.json") as weights:
                async for spec, array in weights:
                    found[spec.name] = array
                    count += 1
                    if count % 40 == 1:
                        assert_equal(await streamed(client, f"{server.url}/b/model.json"), inner.arrays)
                        assert_equal(await client.fetch(f"{server.url}/b/model.json"), inner.arrays)

    assert_equal(found, outer.arrays)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("per_origin", [1, 2, 8])
async def test_many_streams_side_by_side_come_to_their_end(per_origin: int) -> None:
    example = small_weights(UNEVEN[2])
    files = example.hosted(framing="chunked")
    async with MockServer(files) as server, Client(limits=Limits(per_origin=per_origin)) as client:

        async def consume() -> None:
            async with client.stream(f"{server.url}/m/model.json") as weights:
                async for _ in weights:
                    await checkpoint()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(6):
                    tasks.start_soon(consume)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_consumer_that_stops_stops_the_transfers(framing: Any) -> None:
    example = many(400)
    async with (
        MockServer(example.hosted(framing=framing)) as server,
        Client() as client,
        client.stream(f"{server.url}/m/model.json") as weights,
    ):
        await anext(weights)
        await quiet(server)

        # The window has room for 256 bytes, 16 shards; 8 more may be under way.
        assert len(server.requests) <= 1 + 16 + 8


async def quiet(server: MockServer) -> None:
    """Wait until no new request comes for a while."""
    known = -1
    while known < len(server.requests):
        known = len(server.requests)
        await anyio.sleep(0.05)


async def test_hazard_5_a_huge_shard_takes_no_more_memory_than_the_window() -> None:
    size = 96 * 2**20
    document = [
        {
            "paths": ["w"],
            "weights": [{"name": f"w{index}", "shape": [2**18], "dtype": "float32"} for index in range(96)],
        }
    ]
    content = np.zeros(size, np.uint8).data
    files = {"/model.json": File(str(document).replace("'", '"').encode()), "/w": File(content, etag='"1"')}
    async with MockServer(files) as server, Client() as client:
        with anyio.fail_after(30):
            tracemalloc.start()
            try:
                async with client.stream(f"{server.url}/model.json") as weights:
                    count = len([None async for _ in weights])
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()

    assert count == 96
    assert peak < 48 * 2**20


@pytest.mark.usefixtures("narrow")
async def test_weights_of_many_groups_come_in_order_with_strings_between_them() -> None:
    text = {"paths": ["t0", "t1"], "weights": [{"name": "text", "shape": [2], "dtype": "string"}]}
    strings = {"t0": b"\x03\0\0\0a", "t1": b"bc\x00\0\0\0"}
    before, behind = small_weights([320, 320]), group({"z": floats(200)}, [100, 700], name="z")
    example = model(group(before.arrays, [320, 320], name="s"), behind)
    example.document["weightsManifest"].insert(1, text)
    files = {**example.hosted(), **{f"/m/{path}": data for path, data in strings.items()}}
    async with MockServer(files) as server, Client() as client:
        found = await streamed(client, f"{server.url}/m/model.json")

    assert list(found) == [*before.arrays, "text", "z"]
    assert found["text"].tolist() == [b"abc", b""]
    assert_equal({name: array for name, array in found.items() if name != "text"}, example.arrays)


@pytest.mark.usefixtures("narrow")
async def test_a_weight_larger_than_the_window_comes_all_the_same() -> None:
    example = model(group({"small": floats(2), "large": floats(2000), "last": floats(2)}, [3000, 3000, 2016]))
    async with MockServer(example.hosted()) as server, Client() as client:
        found = await streamed(client, f"{server.url}/m/model.json")

    assert_equal(found, example.arrays)


async def test_leaving_a_stream_early_stops_its_transfers_at_once() -> None:
    example = many(100)
    async with MockServer(example.hosted()) as server:
        async with Client(cache=None) as client:
            with anyio.fail_after(1):
                async with client.stream(f"{server.url}/m/model.json") as weights:
                    async for spec, _ in weights:
                        assert spec.name == "w0"
                        break
            await anyio.wait_all_tasks_blocked()  # until the server has seen what was on its way
            seen = len(server.requests)
            assert_equal(await client.fetch(f"{server.url}/m/model.json"), example.arrays)
            assert len(server.requests) <= seen + 101
        with anyio.fail_after(1):
            await server.wait_until(lambda: server.active == 0)


async def test_a_stream_that_is_never_read_holds_nothing_up() -> None:
    async with MockServer(many(100).hosted()) as server, Client() as client:
        with anyio.fail_after(1):
            async with client.stream(f"{server.url}/m/model.json"):
                pass


async def test_weights_cannot_be_taken_behind_the_end_of_the_stream() -> None:
    async with MockServer(many(3).hosted()) as server, Client() as client:
        async with client.stream(f"{server.url}/m/model.json") as weights:
            await anext(weights)
        with anyio.fail_after(1), pytest.raises(RuntimeError):
            await anext(weights)


@on_every_framing
async def test_what_is_wrong_behind_the_last_weight_is_an_error_too(framing: Any) -> None:
    example = model(group({"a": floats(2)}, [8, 0], name="a"), group({"b": floats(0)}, [0], name="b"))
    files = {**example.hosted(framing=framing), "/m/a1": File(b"more", framing=framing)}
    async with MockServer(files) as server, Client() as client:
        with pytest.raises(ExtraBytesError):
            await streamed(client, f"{server.url}/m/model.json")


async def test_garbage_behind_the_last_weight_is_an_error_too() -> None:
    example = many(2)
    async with MockServer(example.hosted(gzip="always")) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/s1", TrailingGarbage())
        with pytest.raises(WrongContentError):
            await streamed(client, f"{server.url}/m/model.json")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("at", [10, 600, 1500])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_broken_body_goes_on_where_the_consumer_is(at: int, framing: Any) -> None:
    example = small_weights([1600, 64])
    async with MockServer(example.hosted(framing=framing)) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/s0", Cut(at), times=2)
        found = await streamed(client, f"{server.url}/m/model.json")

    assert_equal(found, example.arrays)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("etag", "framing"), [*product(["sha256", None], ["length", "chunked"])])
async def test_a_file_replaced_while_its_weights_are_handed_out_is_never_mixed(etag: Any, framing: Any) -> None:
    old, new = (
        small_weights([1600, 64]),
        model(group({f"w{index}": floats(4, 500 + index) for index in range(104)}, [1600, 64], name="s")),
    )
    found: dict[str, Array] = {}
    async with (
        MockServer(old.hosted(etag=etag, framing=framing)) as server,
        Client(retry=QUICK, ssl_context=NO_TLS) as client,
    ):
        # All that came before the cut is handed out when the new version comes.
        server.misbehave_in_turn("/m/s0", Cut(896), Latency(0.1))
        changed = datetime(2024, 6, 1, tzinfo=UTC)
        server.swap_after(new.hosted(etag=etag, framing=framing, last_modified=changed), path="/m/s0")
        with anyio.fail_after(5), pytest.raises(TfjsFetchError):  # noqa: PT012 - it comes out of the stream
            async with client.stream(f"{server.url}/m/model.json") as weights:
                async for spec, array in weights:
                    found[spec.name] = array

    assert found
    assert all(np.array_equal(array, old.arrays[name]) for name, array in found.items())


async def test_arrays_that_the_consumer_keeps_stay_valid() -> None:
    example = many(50)
    async with MockServer(example.hosted()) as server, Client() as client:
        found = await streamed(client, f"{server.url}/m/model.json")
    gc.collect()

    assert_equal(found, example.arrays)


async def test_a_stream_without_weights_ends_at_once() -> None:
    async with MockServer({"/model.json": b'{"weightsManifest": []}'}) as server, Client() as client:
        assert await streamed(client, f"{server.url}/model.json") == {}


async def test_missing_bytes_end_a_stream() -> None:
    example = many(3)
    async with MockServer({**example.hosted(), "/m/s2": b"short"}) as server, Client() as client:
        with anyio.fail_after(5), pytest.raises(DecodeError):
            await streamed(client, f"{server.url}/m/model.json")


async def test_a_cancelled_wait_for_a_weight_can_be_made_again() -> None:
    example = many(3)
    async with MockServer(example.hosted()) as server, Client() as client:
        server.misbehave("/m/s1", Latency(0.5))
        names: list[str] = []
        with anyio.fail_after(10):
            async with client.stream(f"{server.url}/m/model.json") as weights:
                while len(names) < 3:
                    with anyio.move_on_after(0.1):
                        spec, _ = await anext(weights)
                        names.append(spec.name)

    assert names == ["w0", "w1", "w2"]


async def test_a_stream_has_one_taker_at_a_time() -> None:
    example = model(group({"w": np.zeros(2**20, np.float32)}, name="s"))
    failures = list[Exception]()
    async with MockServer(example.hosted()) as server, Client() as client:
        server.misbehave("/m/s0", Latency(0.2))

        async def take() -> None:
            try:
                await anext(weights)
            except RuntimeError as error:
                failures.append(error)

        with anyio.fail_after(5):
            async with client.stream(f"{server.url}/m/model.json") as weights, anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                tasks.start_soon(take)

    assert len(failures) == 1
