"""Shards placed by a guess of their size: right bytes in the end, whatever turns out and in whichever order.

The usual shard has eight bytes here, so three shards of a group of twenty are taken for 8, 8 and 4.
"""

from collections.abc import Sequence
from itertools import permutations, product
from typing import Literal, TypeAlias

import anyio
import pytest

from mock_server import File, Latency, MockServer
from tests.models import QUICK, Group, Model, assert_equal, cut, f32, model
from tfjs_fetch import Client, Event, Limits, ShardFinished
from tfjs_fetch.format import layout

pytestmark = pytest.mark.anyio

Framing: TypeAlias = Literal["length", "chunked", "close"]
Orders: TypeAlias = Sequence[tuple[int, ...]]

DATA = bytes(range(1, 21))
STEP = 0.02


@pytest.fixture(autouse=True)
def shards_of_eight_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "USUAL_SHARD_BYTES", 8)


def quantized(sizes: Sequence[int], name: str) -> Model:
    """Return a model of four weights of five bytes each, which are copied as soon as they are whole."""
    quantization = {"dtype": "uint8", "min": 0, "scale": 1}
    weights = [
        {"name": f"w{index}", "shape": [5], "dtype": "float32", "quantization": quantization} for index in range(4)
    ]
    arrays = {f"w{index}": f32([5 * index + 1 + value for value in range(5)]) for index in range(4)}
    shards = cut(DATA, sizes, name)
    return model(Group({"paths": list(shards), "weights": weights}, shards, arrays))


async def check_all(sizes: Sequence[int], framings: Sequence[tuple[Framing, ...]], orders: Orders) -> None:
    """Fetch the same model once for each combination, side by side."""
    async with MockServer({}) as server, Client(retry=QUICK, limits=Limits(per_origin=24)) as client:

        async def check(at: str, example: Model) -> None:
            assert_equal(await client.fetch(f"{server.url}{at}model.json"), example.arrays)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for number, (framing, order) in enumerate(product(framings, orders)):
                    at, example = f"/{number}/", quantized(sizes, "s")
                    server.files.update(example.hosted(at))
                    for index in range(len(sizes)):
                        server.files[f"{at}s{index}"] = File(example.shards[f"s{index}"], framing=framing[index])
                        server.misbehave(f"{at}s{index}", Latency(STEP * order[index]))
                    tasks.start_soon(check, at, example)


SIZES = ([8, 8, 4], [4, 8, 8], [8, 4, 8], [3, 5, 12], [1, 18, 1], [0, 8, 12], [20, 0, 0], [0, 0, 20], [9, 7, 4])


@pytest.mark.parametrize("sizes", SIZES, ids=str)
async def test_right_bytes_in_any_order_of_arrival_under_announced_lengths(sizes: Sequence[int]) -> None:
    await check_all(sizes, [("length", "length", "length")], list(permutations(range(3))))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
async def test_right_bytes_in_any_order_of_arrival_with_lengths_that_only_the_end_tells(sizes: Sequence[int]) -> None:
    some: list[tuple[Framing, ...]] = [
        ("chunked", "chunked", "chunked"),
        ("length", "chunked", "length"),
        ("chunked", "length", "length"),
        ("length", "length", "close"),
    ]
    await check_all(sizes, some, list(permutations(range(3))))


async def test_a_contradicted_guess_asks_for_the_model_only_once_more() -> None:
    example = quantized([4, 8, 8], "s")
    async with MockServer(example.hosted()) as server, Client(cache=None, retry=QUICK) as client:
        server.misbehave("/m/s0", Latency(0.2), times=1)
        server.misbehave("/m/s2", Latency(0.1), times=1)
        with anyio.fail_after(5):
            bundle = await client.fetch(f"{server.url}/m/model.json")

        assert_equal(bundle, example.arrays)
        assert len(server.requests_to("/m/model.json")) == 2


async def test_chosen_names_survive_a_second_load_also_if_they_come_from_a_generator() -> None:
    example = quantized([4, 8, 8], "s")
    async with MockServer(example.hosted()) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/s0", Latency(0.2), times=1)
        server.misbehave("/m/s2", Latency(0.1), times=1)
        with anyio.fail_after(5):
            bundle = await client.fetch(f"{server.url}/m/model.json", weights=(name for name in ("w*", "w0")))

    assert_equal(bundle, example.arrays)


async def test_a_right_guess_lets_later_shards_come_first() -> None:
    example, events = quantized([8, 8, 4], "s"), list[Event]()
    async with MockServer(example.hosted()) as server, Client(cache=None, retry=QUICK) as client:
        server.misbehave("/m/s0", Latency(0.2), times=1)
        with anyio.fail_after(5):
            bundle = await client.fetch(f"{server.url}/m/model.json", progress=events.append)

    finished = [event.index for event in events if isinstance(event, ShardFinished)]
    assert_equal(bundle, example.arrays)
    assert (sorted(finished[:2]), finished[2], len(server.requests)) == ([1, 2], 0, 4)
