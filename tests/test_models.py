from collections.abc import Iterable, Mapping, Sequence

import anyio
import pytest

from tests.memory_transport import MemoryTransport, Reply
from tests.models import Model, assert_equal, many
from tfjs_fetch.config import Limits, Policy, Retry
from tfjs_fetch.download import Downloader
from tfjs_fetch.events import Event, Planned, ShardFinished, Warned, WeightReady
from tfjs_fetch.format.manifest import parse
from tfjs_fetch.models import HostedModel, LocalModel, planned
from tfjs_fetch.origins import Origins
from tfjs_fetch.planning import draw
from tfjs_fetch.requesting import Requester

pytestmark = pytest.mark.anyio

HOST = "http://h.example/"


class Shelf:
    """Files in memory, as those of a directory."""

    def __init__(self, example: Model) -> None:
        self.asked: list[str] = []
        self._example = example

    def document(self) -> bytes:
        return self._example.files["model.json"]

    def size(self, path: str) -> int | None:
        return len(self._example.shards[path])

    def shards(self, paths: Iterable[str], most: int) -> Mapping[str, memoryview]:
        self.asked += paths
        return {path: memoryview(self._example.shards[path]) for path in self.asked}


def local(example: Model, events: list[Event], names: Sequence[str] | None = None) -> LocalModel:
    shelf = Shelf(example)
    return LocalModel("m", draw(parse(shelf.document()), names, Policy()), shelf, events.append, Limits())


def hosted(
    example: Model, names: Sequence[str] | None = None, replies: Mapping[str, Reply] | None = None
) -> tuple[HostedModel, MemoryTransport]:
    transport = MemoryTransport(
        {**{HOST + path: Reply(data) for path, data in example.shards.items()}, **(replies or {})}
    )
    requester = Requester(transport, Origins(Limits()), Policy(), ("http", "h.example", 80))
    downloader = Downloader(requester, Retry(attempts=1))
    blueprint = draw(parse(example.files["model.json"]), names, Policy())
    urls = [[HOST + path for path in group.paths] for group in blueprint.layouts]
    return HostedModel("m", blueprint, urls, downloader, Limits()), transport


def test_the_first_event_tells_what_the_plan_says() -> None:
    assert planned(local(many(3), [], ["w0", "w2"]).plan) == Planned("m", 3, 2, 32, 0)


async def test_a_local_model_is_loaded_and_told_of() -> None:
    events = list[Event]()
    with anyio.fail_after(1):
        bundle = await local(many(2), events).load(careful=False)

    assert_equal(bundle, many(2).arrays)
    assert events == [
        ShardFinished("m", "s0", 0, 16, "file"),
        ShardFinished("m", "s1", 1, 16, "file"),
        WeightReady("m", "w0", 1, 2),
        WeightReady("m", "w1", 2, 2),
    ]


async def test_a_local_model_is_streamed_in_order() -> None:
    events = list[Event]()
    with anyio.fail_after(1):
        async with local(many(3), events).stream() as weights:
            found = {spec.name: array async for spec, array in weights}

    assert_equal(found, many(3).arrays)
    assert [event.name for event in events if isinstance(event, WeightReady)] == ["w0", "w1", "w2"]


async def test_what_is_odd_about_a_local_model_is_told() -> None:
    events = list[Event]()
    weights = [{"name": "b", "shape": [1], "dtype": "bool"}]
    odd = Model([{"paths": ["w"], "weights": weights}], {"w": b"\x07\x00"}, {})
    await local(odd, events).load(careful=False)

    assert len([event for event in events if isinstance(event, Warned)]) == 2


async def test_a_hosted_model_is_loaded() -> None:
    model, transport = hosted(many(3))
    with anyio.fail_after(1):
        bundle = await model.load(careful=False)

    assert_equal(bundle, many(3).arrays)
    assert sorted((asked.method, asked.url) for asked in transport.asked) == [("GET", f"{HOST}s{n}") for n in range(3)]


@pytest.mark.parametrize("careful", [False, True])
async def test_lengths_are_asked_for_only_where_they_spare_downloads(careful: bool) -> None:
    model, transport = hosted(many(3), ["w1"])
    with anyio.fail_after(1):
        bundle = await model.load(careful=careful)

    assert_equal(bundle, {"w1": many(3).arrays["w1"]})
    methods = [asked.method for asked in transport.asked]
    assert (methods.count("HEAD"), methods.count("GET")) == ((0, 3) if careful else (3, 1))


async def test_one_shard_without_a_length_ends_the_asking() -> None:
    model, transport = hosted(many(100), ["w99"], {f"{HOST}s0": Reply(many(1).shards["s0"], chunked=True)})
    with anyio.fail_after(1):
        bundle = await model.load(careful=False)

    assert list(bundle) == ["w99"]
    assert [asked.method for asked in transport.asked].count("HEAD") < 20
