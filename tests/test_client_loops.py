"""Clients, event loops and threads: where a client may be used, and fetching without a loop of one's own."""

import asyncio
import threading
from contextvars import ContextVar
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from mock_server import MockServer
from tests.models import Model, assert_equal, floats, group, many, model, written
from tfjs_fetch import Client, Event, Finished, StatusError, UnreachableError, WeightBundle, fetch_sync

pytestmark = pytest.mark.anyio

_WHO = ContextVar[str]("_WHO")


def example() -> Model:
    return model(group({"a": floats(3), "b": floats(10)}, [30, 22], name="group1-shard"))


async def test_a_client_outside_of_its_async_with_is_a_runtime_error() -> None:
    client = Client()
    with pytest.raises(RuntimeError):
        await client.fetch("http://127.0.0.1:9/model.json")
    with pytest.raises(RuntimeError):
        await client.plan("http://127.0.0.1:9/model.json")
    with pytest.raises(RuntimeError):
        async with client.stream("http://127.0.0.1:9/model.json"):
            pass
    async with client:
        pass
    with pytest.raises(RuntimeError):
        await client.fetch("http://127.0.0.1:9/model.json")


async def test_a_client_on_another_loop_is_a_runtime_error() -> None:
    async with Client() as client:

        def elsewhere() -> WeightBundle:
            return anyio.run(client.fetch, "http://127.0.0.1:9/model.json")

        with pytest.raises(RuntimeError):
            await anyio.to_thread.run_sync(elsewhere)


async def test_clients_side_by_side_do_not_close_each_other() -> None:
    async with MockServer(many(2).hosted()) as server, Client() as first:
        async with Client():
            pass
        assert len(await first.fetch(f"{server.url}/m/model.json")) == 2
        with pytest.raises(RuntimeError):
            await Client().plan(f"{server.url}/m/model.json")


async def test_a_client_can_be_entered_again() -> None:
    client = Client()
    async with MockServer(many(2).hosted()) as server:
        for _ in range(2):
            async with client:
                assert len(await client.fetch(f"{server.url}/m/model.json")) == 2


def test_fetch_sync_needs_no_event_loop(tmp_path: Path) -> None:
    assert_equal(fetch_sync(written(tmp_path, example().files), weights="*"), example().arrays)


async def test_fetch_sync_works_under_a_running_loop(tmp_path: Path) -> None:
    events = list[Event]()

    bundle = fetch_sync(written(tmp_path, example().files), progress=events.append)

    assert_equal(bundle, example().arrays)
    assert isinstance(events[-1], Finished)


async def test_fetch_sync_works_in_a_worker_thread_over_http() -> None:
    async with MockServer(many(5).hosted()) as server:
        with anyio.fail_after(5):
            bundle = await anyio.to_thread.run_sync(fetch_sync, f"{server.url}/m/model.json")

    assert_equal(bundle, many(5).arrays)


def test_fetch_sync_works_in_a_thread_of_its_own(tmp_path: Path) -> None:
    found: list[WeightBundle] = []
    source = written(tmp_path, example().files)
    thread = threading.Thread(target=lambda: found.append(fetch_sync(source)))
    thread.start()
    thread.join()

    assert_equal(found[0], example().arrays)


async def test_what_goes_wrong_comes_out_of_fetch_sync() -> None:
    async with MockServer({}) as server:
        with anyio.fail_after(5), pytest.raises(StatusError) as caught:
            await anyio.to_thread.run_sync(fetch_sync, f"{server.url}/model.json")

        assert caught.value.status == 404


async def test_what_goes_wrong_comes_out_of_fetch_sync_under_a_running_loop(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        fetch_sync(tmp_path / "gone.json")


def test_what_a_listener_raises_comes_out_of_fetch_sync(tmp_path: Path) -> None:
    trouble = LookupError()

    def listener(event: Event) -> None:
        raise trouble

    with pytest.raises(LookupError) as caught:
        fetch_sync(written(tmp_path, example().files), progress=listener)
    assert caught.value is trouble


def test_plain_asyncio_is_enough_and_listeners_find_the_variables_of_the_caller() -> None:
    told = set[str]()

    async def main() -> None:
        _WHO.set("caller")
        async with MockServer(many(20).hosted()) as server, Client() as client:
            url = f"{server.url}/m/model.json"
            bundle = await client.fetch(url, progress=lambda _: told.add(_WHO.get("nobody")))
            assert_equal(bundle, many(20).arrays)
            async with client.stream(url, progress=lambda _: told.add(_WHO.get("nobody"))) as weights:
                assert_equal({spec.name: array async for spec, array in weights}, many(20).arrays)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert told == {"caller"}
