"""Hostile servers: refused in bounded time and memory."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from mock_server import Drip, Endless, File, GzipBomb, HeaderFlood, MockServer, Redirect
from tests.models import QUICK, floats, group, many, model
from tfjs_fetch import (
    Client,
    Event,
    ExtraBytesError,
    Limits,
    ManifestError,
    RefusedError,
    Retry,
    StalledError,
    TfjsFetchError,
    TransportError,
    Warned,
    fetch,
)

pytestmark = pytest.mark.anyio

MEBIBYTE = 2**20


@contextmanager
def bounded(seconds: float = 5, memory: int = 16 * MEBIBYTE) -> Iterator[None]:
    """Check that what is done inside takes no more time and memory of Python's than this."""
    tracemalloc.start()
    started = time.monotonic()
    try:
        yield
        assert time.monotonic() - started < seconds
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()


def one_weight(shape: list[int], **more: Any) -> bytes:
    return json.dumps(
        [{"paths": ["w"], "weights": [{"name": "a", "shape": shape, "dtype": "float32", **more}]}]
    ).encode()


@pytest.mark.parametrize(
    "document",
    [
        one_weight([2**62]),
        one_weight([2**20, 2**20, 2**20]),
        one_weight([10**400]),
        one_weight([2**31, 0, 2**31, 2**31]),
        b"[" * 100_000,
        b'{"weightsManifest": ' + b'{"a":' * 1000 + b"1" + b"}" * 1001,
        json.dumps([{"paths": [], "weights": [{}] * 100_001}]).encode(),
        b"[" + b"9" * 5000 + b"]",
    ],
    ids=["huge", "product", "googol", "empty", "brackets", "nested", "many", "digits"],
)
async def test_a_hostile_document_is_refused_before_any_shard(document: bytes) -> None:
    async with MockServer({"/model.json": document, "/w": b""}) as server:
        with bounded(), anyio.fail_after(5), pytest.raises((ManifestError, RefusedError)):
            await fetch(f"{server.url}/model.json")

        assert len(server.requests) == 1


@pytest.mark.parametrize("announced", [None, 2**40], ids=["chunked", "announced"])
async def test_an_endless_document_is_refused(announced: int | None) -> None:
    async with MockServer({"/model.json": b""}) as server, Client(limits=Limits(manifest_bytes=MEBIBYTE)) as client:
        server.misbehave("/model.json", Endless(announced=announced))
        with bounded(), anyio.fail_after(5), pytest.raises(RefusedError):
            await client.fetch(f"{server.url}/model.json")


async def test_a_document_that_inflates_without_end_is_refused() -> None:
    async with MockServer({"/model.json": b""}) as server, Client(limits=Limits(manifest_bytes=MEBIBYTE)) as client:
        server.misbehave("/model.json", GzipBomb(256 * MEBIBYTE))
        with bounded(), anyio.fail_after(5), pytest.raises(RefusedError):
            await client.fetch(f"{server.url}/model.json")


async def test_an_endless_shard_is_cut_off_where_its_group_ends() -> None:
    example = model(group({"a": floats(10)}, name="a"), group({"b": floats(10)}, name="b"))
    async with MockServer(example.hosted()) as server:
        server.misbehave("/m/a0", Endless())
        with bounded(), anyio.fail_after(5), pytest.raises(ExtraBytesError) as caught:
            await fetch(f"{server.url}/m/model.json")

    assert (caught.value.group, caught.value.shard) == (0, "a0")


async def test_an_endless_last_shard_is_cut_off_and_warned_of() -> None:
    example, events = many(2), list[Event]()
    async with MockServer(example.hosted()) as server:
        server.misbehave("/m/s1", Endless())
        with bounded(), anyio.fail_after(5):
            bundle = await fetch(f"{server.url}/m/model.json", progress=events.append)

    assert len(bundle) == 2
    assert len([event for event in events if isinstance(event, Warned)]) == 1


async def test_a_shard_that_inflates_without_end_is_cut_off() -> None:
    example = model(group({"a": floats(10)}, name="a"), group({"b": floats(10)}, name="b"))
    async with MockServer(example.hosted()) as server:
        server.misbehave("/m/a0", GzipBomb(256 * MEBIBYTE))
        with bounded(), anyio.fail_after(5), pytest.raises(ExtraBytesError):
            await fetch(f"{server.url}/m/model.json")


@pytest.mark.parametrize("fault", [Endless(), GzipBomb(64 * MEBIBYTE), Endless(announced=2**40)])
async def test_strings_without_end_are_refused(fault: Any) -> None:
    weights = [{"name": "text", "shape": [1], "dtype": "string"}]
    document = json.dumps([{"paths": ["t"], "weights": weights}]).encode()
    limits = Limits(weight_bytes=MEBIBYTE)
    async with MockServer({"/model.json": document, "/t": b""}) as server, Client(limits=limits) as client:
        server.misbehave("/t", fault)
        with bounded(), anyio.fail_after(5), pytest.raises(RefusedError):
            await client.fetch(f"{server.url}/model.json")


async def test_strings_of_many_groups_are_refused_together() -> None:
    groups = [
        {"paths": [f"t{n}"], "weights": [{"name": f"text{n}", "shape": [1], "dtype": "string"}]} for n in range(8)
    ]
    text = (400_000).to_bytes(4, "little") + bytes(400_000)
    files: dict[str, Any] = {f"/t{n}": text for n in range(8)}
    async with (
        MockServer({"/model.json": json.dumps(groups).encode(), **files}) as server,
        Client(limits=Limits(weight_bytes=MEBIBYTE)) as client,
    ):
        with anyio.fail_after(5), pytest.raises(RefusedError):
            await client.fetch(f"{server.url}/model.json")


async def test_a_length_that_a_string_claims_is_not_allocated() -> None:
    weights = [{"name": "text", "shape": [1], "dtype": "string"}]
    document = json.dumps([{"paths": ["t"], "weights": weights}]).encode()
    async with MockServer({"/model.json": document, "/t": b"\xff\xff\xff\xff" + bytes(100)}) as server:
        with bounded(), pytest.raises(TfjsFetchError):
            await fetch(f"{server.url}/model.json")


async def test_a_model_that_claims_gibibytes_and_sends_nothing_costs_nothing() -> None:
    files = {"/model.json": one_weight([2**30]), "/w": bytes(1000)}
    async with MockServer(files) as server:
        with anyio.fail_after(5), pytest.raises(TfjsFetchError):
            await fetch(f"{server.url}/model.json")


async def test_a_redirect_in_a_circle_is_refused() -> None:
    async with MockServer({"/model.json": Redirect("/again"), "/again": Redirect("/model.json")}) as server:
        with anyio.fail_after(5), pytest.raises(RefusedError):
            await fetch(f"{server.url}/model.json")

        assert len(server.requests) <= 12


async def test_a_flood_of_headers_is_an_error() -> None:
    async with MockServer(many(1).hosted()) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/s0", HeaderFlood())
        with bounded(), anyio.fail_after(5), pytest.raises(TransportError):
            await client.fetch(f"{server.url}/m/model.json")


async def test_a_drip_is_a_stall() -> None:
    retry = Retry(attempts=2, delay=0.0, max_delay=0.0, stall_bytes=100, stall_seconds=0.2)
    async with MockServer(many(1).hosted()) as server, Client(retry=retry) as client:
        server.misbehave("/m/s0", Drip(every=0.05))
        with anyio.fail_after(5), pytest.raises(StalledError):
            await client.fetch(f"{server.url}/m/model.json")


async def test_many_weights_and_shards_take_time_in_proportion() -> None:
    count = 4000
    names = [f"w{index}" for index in range(count)]
    document = [
        {
            "paths": [f"s{index}" for index in range(count)],
            "weights": [{"name": name, "shape": [1], "dtype": "bool"} for name in names],
        }
    ]
    files: dict[str, Any] = {f"/s{index}": File(b"\x01", etag=None) for index in range(count)}
    async with MockServer({"/model.json": json.dumps(document).encode(), **files}) as server, Client() as client:
        started = time.monotonic()
        with anyio.fail_after(60):
            await client.plan(f"{server.url}/model.json", weights=names[::2])

        assert time.monotonic() - started < 2
