"""Chosen weights: only the shards that hold them are downloaded, and the values are right all the same."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Literal, TypeAlias

import anyio
import pytest

from mock_server import File, Instead, MockServer, Status
from mock_server.answers import Answer, Request
from mock_server.faults import Fault
from tests.models import QUICK, Model, assert_equal, floats, group, many, model
from tfjs_fetch import Client, MissingBytesError, ModelChangedError, TfjsFetchError, UnknownWeightError, fetch
from tfjs_fetch.format.dtypes import Array

pytestmark = pytest.mark.anyio

Framing: TypeAlias = Literal["length", "chunked", "close"]
Take: TypeAlias = Callable[..., Awaitable[dict[str, Array]]]


class OnlyForHead(Fault):
    """A fault that befalls HEAD and spares GET."""

    def __init__(self, announced: int | None = None, status: int | None = None) -> None:
        self._announced, self._status = announced, status

    def on_answer(self, answer: Answer) -> Answer:
        if not self.is_head:
            return answer
        if self._status is not None:
            return Status(self._status).on_answer(answer)
        return replace(answer, announced=self._announced)

    def on_request(self, request: Request) -> Request:
        self.is_head = request.method == "HEAD"
        return request


async def chosen(client: Client, server: MockServer, *names: str) -> dict[str, Array]:
    with anyio.fail_after(5):
        return dict(await client.fetch(f"{server.url}/m/model.json", weights=names))


async def streamed(client: Client, server: MockServer, *names: str) -> dict[str, Array]:
    with anyio.fail_after(5):
        async with client.stream(f"{server.url}/m/model.json", weights=names) as weights:
            return {spec.name: array async for spec, array in weights}


def downloaded(server: MockServer) -> list[str]:
    return sorted(request.path.rpartition("/")[2] for request in server.requests if request.method == "GET")


def only(example: Model, *names: str) -> dict[str, Array]:
    return {name: array for name, array in example.arrays.items() if name in names}


@pytest.mark.parametrize("take", [chosen, streamed])
async def test_only_shards_that_hold_chosen_weights_are_downloaded(take: Take) -> None:
    example = many(8)
    async with MockServer(example.hosted()) as server, Client(retry=QUICK) as client:
        found = await take(client, server, "w2", "w5")

        assert_equal(found, only(example, "w2", "w5"))
        assert downloaded(server) == ["model.json", "s2", "s5"]
        assert Counter(request.method for request in server.requests) == {"GET": 3, "HEAD": 8}


@pytest.mark.parametrize("take", [chosen, streamed])
@pytest.mark.parametrize("names", [["a"], ["b"], ["c"], ["a", "c"], ["b", "d"], ["d"]], ids="".join)
async def test_weights_across_shards_take_all_shards_that_hold_a_part(take: Take, names: list[str]) -> None:
    example = model(group({"a": floats(3), "b": floats(6), "c": floats(1), "d": floats(6)}, [10, 10, 10, 10, 24]))
    holders = {"a": "01", "b": "123", "c": "3", "d": "4"}
    async with MockServer(example.hosted()) as server, Client(retry=QUICK) as client:
        found = await take(client, server, *names)

        assert_equal(found, only(example, *names))
        needed = sorted({index for name in names for index in holders[name]})
        assert downloaded(server) == ["model.json", *(f"w{index}" for index in needed)]


async def test_only_groups_with_chosen_weights_are_asked_for() -> None:
    example = model(*(group({f"{name}/x": floats(4), f"{name}/y": floats(2)}, name=name) for name in "abc"))
    async with MockServer(example.hosted()) as server:
        bundle = await fetch(f"{server.url}/m/model.json", weights="b/*")

        assert_equal(bundle, only(example, "b/x", "b/y"))
        assert [request.path for request in server.requests] == ["/m/model.json", "/m/b0"]


async def test_a_name_that_is_no_weight_is_a_key_error_with_the_nearest_names() -> None:
    example = model(group({"conv1/kernel": floats(2), "conv2/kernel": floats(2)}))
    async with MockServer(example.hosted()) as server:
        with pytest.raises(UnknownWeightError) as caught:
            await fetch(f"{server.url}/m/model.json", weights=["conv1/kernal"])

        assert isinstance(caught.value, KeyError)
        assert (caught.value.name, caught.value.nearest) == ("conv1/kernal", ("conv1/kernel", "conv2/kernel"))
        assert len(server.requests) == 1


@pytest.mark.parametrize("take", [chosen, streamed])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("name", ["w0", "w3", "w7"])
async def test_a_server_without_head_costs_only_more_downloads(take: Take, framing: Framing, name: str) -> None:
    example = many(8)
    async with MockServer(example.hosted(framing=framing)) as server, Client(retry=QUICK) as client:
        for path in example.shards:
            server.misbehave(f"/m/{path}", OnlyForHead(status=405))
        found = await take(client, server, name)

    assert_equal(found, only(example, name))


@pytest.mark.parametrize("take", [chosen, streamed])
@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("gzip", ["never", "always"])
async def test_a_server_that_tells_no_lengths_costs_only_more_downloads(
    take: Take, framing: Framing, gzip: str
) -> None:
    example = many(12)
    async with MockServer(example.hosted(framing=framing, gzip=gzip)) as server, Client(retry=QUICK) as client:  # type: ignore[arg-type]
        assert_equal(await take(client, server, "w0"), only(example, "w0"))
        assert_equal(await take(client, server, "w5"), only(example, "w5"))
        assert_equal(await take(client, server, "w11", "w1"), only(example, "w1", "w11"))


async def test_lengths_of_compressed_files_are_no_reason_to_refuse_them() -> None:
    example = many(8)
    async with MockServer(example.hosted(gzip="always")) as server, Client(retry=QUICK) as client:
        found = await chosen(client, server, "w2", "w5")

    assert_equal(found, only(example, "w2", "w5"))


async def test_head_lengths_that_are_wrong_in_sum_are_not_believed() -> None:
    example = many(4)
    async with MockServer(example.hosted()) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/s1", OnlyForHead(announced=7))
        found = await chosen(client, server, "w2")

    assert_equal(found, only(example, "w2"))


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_head_lengths_that_are_wrong_but_right_in_sum_are_noticed(framing: Framing) -> None:
    example = many(4)
    async with MockServer(example.hosted(framing=framing)) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/s1", OnlyForHead(announced=12))
        server.misbehave("/m/s2", OnlyForHead(announced=20))
        server.files.update({f"/m/s{index}": File(example.shards[f"s{index}"]) for index in (1, 2)})
        found = await chosen(client, server, "w2")

    assert_equal(found, only(example, "w2"))


async def test_a_stream_by_wrong_head_lengths_is_an_error() -> None:
    example = many(4)
    async with MockServer(example.hosted()) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/s1", OnlyForHead(announced=12))
        server.misbehave("/m/s2", OnlyForHead(announced=20))
        with pytest.raises(ModelChangedError):
            await streamed(client, server, "w2")


async def test_a_short_file_without_chosen_weights_is_an_error_all_the_same() -> None:
    example = many(3)
    async with MockServer({**example.hosted(), "/m/s2": b"short"}) as server, Client(retry=QUICK) as client:
        with pytest.raises(MissingBytesError) as caught:
            await chosen(client, server, "w0")

    assert (caught.value.shard, caught.value.expected, caught.value.got) == ("s2", 48, 37)


async def test_an_error_page_instead_of_a_chosen_shard_is_named() -> None:
    example = many(3)
    async with MockServer(example.hosted()) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/s1", Instead(b"<!DOCTYPE html><title>Sign in</title>", "text/html"))
        with pytest.raises(TfjsFetchError) as caught:
            await chosen(client, server, "w1")

    assert getattr(caught.value, "url", None) == f"{server.url}/m/s1"


async def test_lengths_are_asked_for_within_the_limit_of_transfers() -> None:
    example = many(100)
    async with MockServer(example.hosted()) as server, Client(retry=QUICK) as client:
        found = await chosen(client, server, "w50")

        assert_equal(found, only(example, "w50"))
        assert server.peak <= 8
