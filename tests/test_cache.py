"""What is kept on disk and used from there: always one generation, and no request more than is needed."""

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import httpx
import numpy as np
import pytest

from mock_server import File, Latency, MockServer, Redirect, Status, Throttle
from mock_server.files import Entry
from tests.models import NO_TLS, QUICK, Model, assert_equal, floats, group, is_one_of, many, model
from tfjs_fetch import (
    Cache,
    CacheError,
    Client,
    IntegrityError,
    ModelChangedError,
    NotCachedError,
    Planned,
    Policy,
    ShardFinished,
    ShardProgress,
    StatusError,
    UnreachableError,
    Warned,
    WeightBundle,
)
from tfjs_fetch.events import Event

pytestmark = pytest.mark.anyio

CACHE = Cache()
# How many requests were looked at.
_LOOKED: WeakKeyDictionary[MockServer, int] = WeakKeyDictionary()


def hosted(example: Model, *headers: tuple[str, str], **more: Any) -> dict[str, Entry]:
    """Return the files of a server, each with these headers."""
    files = example.hosted(**more)
    return {path: replace(file, headers=headers) if isinstance(file, File) else file for path, file in files.items()}


async def fetched(server: MockServer, cache: Cache | None = CACHE, **settings: Any) -> WeightBundle:
    """Return the model at /m/, by a client of its own."""
    more = {name: settings.pop(name) for name in ("weights", "progress", "expected", "shard_url") if name in settings}
    with anyio.fail_after(20):
        async with Client(cache=cache, retry=QUICK, ssl_context=NO_TLS, **settings) as client:
            return await client.fetch(f"{server.url}/m/model.json", **more)


def asked(server: MockServer) -> list[tuple[str, int | None]]:
    """Return the path and the status of each request since the last look."""
    seen, _LOOKED[server] = server.requests[_LOOKED.get(server, 0) :], len(server.requests)
    return [(request.path.removeprefix("/m/"), request.status) for request in seen]


def left_in(directory: Path) -> set[str]:
    """Return the names of all files of models."""
    return {path.name for path in (directory / "v1").rglob("*") if path.is_file()}


def is_mapped(array: np.ndarray[Any, Any]) -> bool:
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return type(base).__name__ == "mmap"


async def test_what_was_fetched_is_mapped_and_only_asked_about_again() -> None:
    example = many(5)
    async with MockServer(example.hosted()) as server:
        first = await fetched(server)
        asked(server)
        events = list[Event]()
        second = await fetched(server, progress=events.append)

        assert sorted(asked(server)) == [("model.json", 304), *((f"s{index}", 304) for index in range(5))]
    for bundle in (first, second):
        assert_equal(bundle, example.arrays)
        assert all(is_mapped(array) for array in bundle.values())
    assert isinstance(events[0], Planned)
    assert events[0].cached_bytes == events[0].total_bytes == 80
    assert {event.origin for event in events if isinstance(event, ShardFinished)} == {"cache"}


async def test_all_aligned_weights_are_views_of_one_mapping_wherever_shards_are_cut() -> None:
    example = model(group({"a": floats(10), "b": floats(7), "c": floats(3)}, [9, 40, 31]))
    async with MockServer(example.hosted()) as server:
        await fetched(server)
        bundle = await fetched(server)

    assert_equal(bundle, example.arrays)
    places = [bundle[name].__array_interface__["data"][0] for name in bundle]
    assert [place - places[0] for place in places] == [0, 40, 68]
    assert all(is_mapped(array) for array in bundle.values())


async def test_weights_that_need_decoding_are_decoded_when_they_are_used() -> None:
    quantization = {"dtype": "uint8", "min": -1.0, "scale": 0.5}
    entry = {"name": "q", "shape": [4], "dtype": "float32", "quantization": quantization}
    odd = {"name": "b", "shape": [3], "dtype": "bool"}
    behind = {"name": "f", "shape": [1], "dtype": "float32"}
    document = json.dumps([{"paths": ["w"], "weights": [entry, odd, behind]}]).encode()
    data = bytes([0, 1, 2, 3, 1, 0, 1]) + np.float32(1.5).tobytes()
    async with MockServer({"/m/model.json": document, "/m/w": data}) as server:
        await fetched(server)
        bundle = await fetched(server)

    assert is_mapped(bundle.stored("q"))
    assert bundle._arrays == {}
    assert bundle["q"].tolist() == [-1.0, -0.5, 0.0, 0.5]
    assert bundle["b"].tolist() == [True, False, True]
    assert bundle["f"].tolist() == [1.5]
    assert bundle["q"] is bundle["q"]


async def test_strings_are_kept_too() -> None:
    texts = [b"one", b"", b"drei"]
    data = b"".join(len(text).to_bytes(4, "little") + text for text in texts) + floats(2).tobytes()
    weights = [
        {"name": "text", "shape": [3], "dtype": "string"},
        {"name": "f", "shape": [2], "dtype": "float32"},
    ]
    files = {"/m/model.json": json.dumps([{"paths": ["w0", "w1"], "weights": weights}]).encode()}
    async with MockServer(files | {"/m/w0": data[:6], "/m/w1": data[6:]}) as server:
        await fetched(server)
        asked(server)
        bundle = await fetched(server)

        assert {status for _, status in asked(server)} == {304}
    assert bundle["text"].tolist() == texts
    assert bundle["f"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("headers", "again"),
    [
        ([("cache-control", "max-age=60")], 0),
        ([("cache-control", "public, max-age=31536000, immutable")], 0),
        ([("cache-control", "max-age=0")], 4),
        ([("cache-control", "no-cache, max-age=60")], 4),
        ([("cache-control", "max-age=60"), ("age", "61")], 4),
        ([("cache-control", "max-age=60"), ("vary", "accept-encoding")], 0),
        ([("cache-control", "max-age=60"), ("vary", "user-agent")], 4),
        ([("expires", "Tue, 01 Jan 2099 00:00:00 GMT")], 0),
        ([("expires", "0")], 4),
        ([], 4),
    ],
)
async def test_a_server_says_for_how_long_it_need_not_be_asked(headers: list[tuple[str, str]], again: int) -> None:
    example = many(3)
    async with MockServer(hosted(example, *headers)) as server:
        await fetched(server)
        asked(server)

        assert_equal(await fetched(server), example.arrays)
        assert len(asked(server)) == again


async def test_if_one_file_has_to_be_asked_about_all_are() -> None:
    example = many(3)
    files = hosted(example, ("cache-control", "max-age=60"))
    async with MockServer(files | {"/m/s1": example.hosted()["/m/s1"]}) as server:
        await fetched(server)
        asked(server)
        await fetched(server)

        assert len(asked(server)) == 4


@pytest.mark.parametrize("path", ["/m/model.json", "/m/s1"])
async def test_what_must_not_be_stored_is_not(path: str, cache_directory: Path) -> None:
    example = many(3)
    files = example.hosted()
    files[path] = hosted(example, ("cache-control", "no-store"))[path]
    async with MockServer(files) as server:
        assert_equal(await fetched(server), example.arrays)

    assert left_in(cache_directory) <= {".gitignore", "CACHEDIR.TAG"}


async def test_what_is_trusted_is_not_asked_about() -> None:
    example = many(3)
    async with MockServer(example.hosted()) as server:
        await fetched(server, Cache(mode="trust"))
        asked(server)
        assert_equal(await fetched(server, Cache(mode="trust")), example.arrays)

        assert asked(server) == []


async def test_a_refresh_asks_also_about_what_is_fresh() -> None:
    async with MockServer(hosted(many(3), ("cache-control", "max-age=60"))) as server:
        await fetched(server)
        asked(server)
        await fetched(server, Cache(mode="refresh"))

        assert {status for _, status in asked(server)} == {304}


async def test_offline_no_connection_is_made() -> None:
    example = many(3)
    async with MockServer(example.hosted()) as server:
        await fetched(server)
        connections = server.connections
        assert_equal(await fetched(server, Cache(mode="offline")), example.arrays)
        chosen = await fetched(server, Cache(mode="offline"), weights="w1")
        async with Client(cache=Cache(mode="offline")) as client:
            with pytest.raises(NotCachedError) as caught:
                await client.fetch(f"{server.url}/other/model.json?token=secret")

        assert list(chosen) == ["w1"]
        assert server.connections == connections
    assert caught.value.missing == (f"{server.url}/other/model.json?…",)


async def test_offline_a_damaged_model_is_missed_file_by_file(cache_directory: Path) -> None:
    example = model(group({"a": floats(4)}, name="a"), group({"b": floats(4)}, name="b"))
    async with MockServer(example.hosted()) as server:
        await fetched(server)
        (file,) = cache_directory.rglob("weights-1.bin")
        file.chmod(0o600)
        file.write_bytes(b"short")
        with pytest.raises(NotCachedError) as caught:
            await fetched(server, Cache(mode="offline"))

        assert caught.value.missing == (f"{server.url}/m/b0",)
        asked(server)
        assert_equal(await fetched(server), example.arrays)


async def test_a_model_with_one_other_shard_is_a_new_generation_of_which_only_that_one_travels() -> None:
    old = many(5)
    new = replace(
        old, shards={**old.shards, "s2": floats(4, 100).tobytes()}, arrays={**old.arrays, "w2": floats(4, 100)}
    )
    async with MockServer(old.hosted()) as server:
        before = await fetched(server)
        server.files.update(new.hosted())
        asked(server)
        events = list[Event]()
        after = await fetched(server, progress=events.append)

        assert [path for path, status in asked(server) if status != 304] == ["s2", "s2"]
        assert_equal(after, new.arrays)
        assert_equal(before, old.arrays)
        assert_equal(await fetched(server, Cache(mode="offline")), new.arrays)
    assert isinstance(events[0], Planned)
    assert events[0].cached_bytes == 64
    origins = {event.index: event.origin for event in events if isinstance(event, ShardFinished)}
    assert origins == {0: "cache", 1: "cache", 2: "network", 3: "cache", 4: "cache"}


@pytest.mark.parametrize("requests", range(1, 14))
async def test_files_that_are_replaced_during_a_load_are_never_mixed(requests: int) -> None:
    old, new = many(5), many(5, first=100)
    async with MockServer(old.hosted()) as server:
        # The document is the same, byte for byte.
        server.swap_after(new.hosted(), requests=requests)
        bundle = await fetched(server)

        assert is_one_of(bundle, old, new)
        assert is_one_of(await fetched(server, Cache(mode="offline")), old, new)
        assert is_one_of(await fetched(server), new)


@pytest.mark.parametrize("requests", range(1, 8))
async def test_strings_are_never_mixed_either(requests: int) -> None:
    def texts(letter: bytes) -> Model:
        first, second = [len(letter).to_bytes(4, "little") + letter] * 2
        weights = [{"name": "text", "shape": [2], "dtype": "string"}]
        return Model([{"paths": ["s0", "s1"], "weights": weights}], {"s0": first, "s1": second}, {})

    async with MockServer(texts(b"a").hosted()) as server:
        server.swap_after(texts(b"b").hosted(), requests=requests)
        bundle = await fetched(server)

    assert bundle["text"].tolist() in ([b"a", b"a"], [b"b", b"b"])


async def test_a_model_that_changes_all_the_time_is_an_error_and_the_last_one_still_serves() -> None:
    versions = [many(4, first=100.0 * number) for number in range(40)]
    async with MockServer(versions[0].hosted()) as server:
        await fetched(server)
        for number, version in enumerate(versions[1:], 1):
            server.swap_after(version.hosted(), requests=3 * number)
        with pytest.raises(ModelChangedError):
            await fetched(server)

        assert is_one_of(await fetched(server, Cache(mode="offline")), versions[0])


async def test_without_a_network_what_was_cached_last_serves_and_says_so() -> None:
    example, events = many(3), list[Event]()
    async with MockServer(example.hosted()) as server:
        await fetched(server)
        server.misbehave(None, Status(503))
        assert_equal(await fetched(server, progress=events.append), example.arrays)
        with pytest.raises(StatusError):
            await fetched(server, policy=Policy(stale_if_error=False))
    assert_equal(await fetched(server), example.arrays)
    with pytest.raises(UnreachableError):
        await fetched(server, policy=Policy(stale_if_error=False))

    (warned,) = [event for event in events if isinstance(event, Warned)]
    assert "503" in warned.message


async def test_if_the_network_fails_while_the_new_one_comes_the_old_one_serves() -> None:
    old, new, events = many(3), many(3, first=9), list[Event]()
    async with MockServer(old.hosted()) as server:
        await fetched(server)
        server.files.update(new.hosted())
        server.misbehave_in_turn("/m/s1", (), *[Status(500)] * 20)
        assert_equal(await fetched(server, progress=events.append), old.arrays)
        with pytest.raises(StatusError):
            await fetched(server, policy=Policy(stale_if_error=False))

    assert [event for event in events if isinstance(event, Warned) and "500" in event.message]


async def test_an_interrupted_fetch_goes_on_where_it_was() -> None:
    values = np.random.default_rng(0).random(2**20, np.float32)
    example, mebibyte = model(group({"w": values}, [2**20, 3 * 2**20])), 2**20
    scope = anyio.CancelScope()

    def interrupt(event: Event) -> None:
        if isinstance(event, ShardProgress) and event.index == 1 and event.received >= 2 * mebibyte:
            scope.cancel()

    async with MockServer(example.hosted()) as server:
        server.misbehave("/m/w1", Throttle(8e6), times=1)
        with scope:
            await fetched(server, progress=interrupt)
        asked(server)
        assert_equal(await fetched(server), example.arrays)

        (part,) = [request for request in server.requests if "range" in request.headers]
        assert int(part.headers["range"].removeprefix("bytes=").partition("-")[0]) >= mebibyte
        assert {status for path, status in asked(server) if path == "w0"} == {304}
    assert scope.cancelled_caught


async def test_a_digest_that_is_not_the_expected_one_leaves_nothing(cache_directory: Path) -> None:
    example = many(3)
    async with MockServer(example.hosted()) as server:
        with pytest.raises(IntegrityError) as caught:
            await fetched(server, expected="0" * 64)
        assert left_in(cache_directory) == set()

        bundle = await fetched(server, expected=caught.value.got)
        assert bundle.digest == caught.value.got
        again = await fetched(server, expected=caught.value.got)
        assert again == bundle
    assert caught.value.expected == "0" * 64


async def test_what_one_credential_gave_is_never_given_to_another() -> None:
    async with MockServer(many(3).hosted()) as server:
        await fetched(server, headers={"Authorization": "Bearer a"})
        for cache, headers in (
            (Cache(mode="offline"), {}),
            (Cache(mode="offline"), {"authorization": "Bearer b"}),
            (Cache(mode="offline", scope="me"), {"authorization": "Bearer a"}),
        ):
            with pytest.raises(NotCachedError):
                await fetched(server, cache, headers=headers)
        await fetched(server, Cache(mode="offline"), headers={"authorization": "Bearer a"})


async def test_through_a_client_of_the_callers_the_cache_needs_a_scope(cache_directory: Path) -> None:
    example, events = many(3), list[Event]()
    async with MockServer(example.hosted()) as server, httpx.AsyncClient() as http:
        await fetched(server, http=http, progress=events.append)
        assert not cache_directory.exists()
        await fetched(server, Cache(scope="me"), http=http)
        assert_equal(await fetched(server, Cache(scope="me", mode="offline"), http=http), example.arrays)

    (warned,) = [event for event in events if isinstance(event, Warned)]
    assert "scope" in warned.message


async def test_no_secret_is_written_down(cache_directory: Path) -> None:
    example = many(2)

    def signed(path: str) -> str:
        return f"{server.url}/m/{path}?X-Signature=SECRET"

    async with MockServer(example.hosted()) as server:
        url = server.url.replace("http://", "http://user:SECRET@")
        async with Client(headers={"X-Key": "SECRET"}) as client:
            await client.fetch(f"{url}/m/model.json?token=SECRET", shard_url=signed)
            await client.fetch(f"{url}/m/model.json?token=SECRET", shard_url=signed)

    written = [path for path in cache_directory.rglob("*") if path.is_file()]
    assert len(written) > 3
    assert not [path for path in written if b"SECRET" in path.read_bytes() or "SECRET" in str(path)]


@pytest.mark.parametrize("mmap", [False, True])
async def test_a_file_system_that_cannot_map_does_too(mmap: bool) -> None:
    example = many(3)
    async with MockServer(example.hosted()) as server:
        assert_equal(await fetched(server, Cache(mmap=mmap)), example.arrays)
        bundle = await fetched(server, Cache(mmap=mmap))

    assert_equal(bundle, example.arrays)
    assert all(is_mapped(array) == mmap for array in bundle.values())


async def test_chosen_weights_come_out_of_what_is_kept_and_are_not_kept_themselves(cache_directory: Path) -> None:
    example = many(4)
    async with MockServer(example.hosted()) as server:
        chosen = await fetched(server, weights="w2")
        assert not cache_directory.exists()
        await fetched(server)
        asked(server)
        again = await fetched(server, weights="w2")

        assert {status for _, status in asked(server)} == {304}
    assert list(chosen) == list(again) == ["w2"]
    assert is_mapped(again["w2"])


async def test_a_stream_comes_out_of_what_is_kept() -> None:
    example = many(4)
    async with MockServer(example.hosted()) as server:
        await fetched(server)
        asked(server)
        async with Client() as client, client.stream(f"{server.url}/m/model.json") as weights:
            taken = {spec.name: array async for spec, array in weights}

        assert {status for _, status in asked(server)} == {304}
    assert_equal(taken, example.arrays)


async def test_a_plan_knows_what_is_kept() -> None:
    async with MockServer(many(4).hosted()) as server, Client() as client:
        url = f"{server.url}/m/model.json"
        assert (await client.plan(url)).cached_bytes == 0
        await client.fetch(url)
        asked(server)

        assert (await client.plan(url)).cached_bytes == 64
        assert asked(server) == [("model.json", 304)]


@pytest.mark.skipif(os.name != "posix", reason="rights are those of POSIX")
@pytest.mark.parametrize("problem", ["link", "everybody", "another", "file"])
async def test_a_directory_that_is_not_to_be_trusted_is_refused(problem: str, tmp_path: Path) -> None:
    real, directory = tmp_path / "real", tmp_path / "given"
    real.mkdir(mode=0o700)
    if problem == "link":
        directory.symlink_to(real)
    elif problem == "file":
        directory.write_bytes(b"")
    else:
        directory.mkdir(mode=0o700)
        if problem == "everybody":
            directory.chmod(0o777)
        elif os.geteuid() == 0:
            os.chown(directory, 1234, 1234)
        else:
            pytest.skip("only root gives directories away")
    async with MockServer(many(2).hosted()) as server:
        with pytest.raises(CacheError) as caught:
            await fetched(server, Cache(directory))

    assert caught.value.place == str(directory)


async def test_the_directory_is_for_its_user_alone(cache_directory: Path) -> None:
    async with MockServer(many(2).hosted()) as server:
        await fetched(server)

    assert cache_directory.stat().st_mode & 0o777 == 0o700
    assert not [
        path
        for path in cache_directory.rglob("*")
        if path.stat().st_mode & 0o077 and path.parent.name != cache_directory.name
    ]


async def test_two_tasks_share_one_download_each_with_its_own_progress() -> None:
    example = many(6)
    heard: Mapping[int, list[Event]] = {number: [] for number in range(3)}
    bundles = dict[int, WeightBundle]()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:

        async def fetch(number: int) -> None:
            bundles[number] = await client.fetch(f"{server.url}/m/model.json", progress=heard[number].append)

        async with anyio.create_task_group() as tasks:
            for number in heard:
                tasks.start_soon(fetch, number)

        assert len(server.requests_to("/m/s3")) <= 2
    for number, events in heard.items():
        assert_equal(bundles[number], example.arrays)
        assert isinstance(events[0], Planned)
        assert type(events[-1]).__name__ == "Finished"
        assert len([event for event in events if isinstance(event, ShardFinished)]) == 6


@pytest.mark.parametrize("how", ["cancelled", "raises"])
async def test_when_the_one_that_downloads_goes_another_goes_on(how: str) -> None:
    example = many(6)
    scope, found = anyio.CancelScope(), list[WeightBundle]()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        url = f"{server.url}/m/model.json"
        server.misbehave("/m/s5", Latency(0.2))

        def listener(event: Event) -> None:
            if isinstance(event, ShardFinished):
                if how == "raises":
                    raise LookupError
                scope.cancel()

        async def lead() -> None:
            with scope:
                try:
                    await client.fetch(url, progress=listener)
                except LookupError:
                    scope.cancel()

        async def follow() -> None:
            found.append(await client.fetch(url))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lead)
                await anyio.lowlevel.checkpoint()
                for _ in range(3):
                    tasks.start_soon(follow)

    assert scope.cancel_called
    for bundle in found:
        assert_equal(bundle, example.arrays)
    assert len(found) == 3


async def test_a_full_disk_says_how_much_was_needed_and_what_was_kept_still_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = many(4), many(4, first=9)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with MockServer(old.hosted()) as server:
        await fetched(server)
        server.files.update(new.hosted())
        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full)
            with pytest.raises(CacheError) as caught:
                await fetched(server)
        assert_equal(await fetched(server, Cache(mode="offline")), old.arrays)
        assert_equal(await fetched(server), new.arrays)

    assert caught.value.needed == 64


async def test_what_may_not_be_written_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    old, other, events = many(3), many(2), list[Event]()

    def forbidden(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    async with MockServer({**old.hosted(), **other.hosted("/other/")}) as server:
        await fetched(server)
        for name in ("mkdir", "utime", "rename", "replace"):
            monkeypatch.setattr(os, name, forbidden)
        assert_equal(await fetched(server), old.arrays)
        async with Client() as client:
            bundle = await client.fetch(f"{server.url}/other/model.json", progress=events.append)

    assert_equal(bundle, other.arrays)
    assert [event for event in events if isinstance(event, Warned) and "not kept" in event.message]


async def test_the_models_unused_for_longest_make_room(cache_directory: Path) -> None:
    async with MockServer(
        {path: file for name in "abc" for path, file in many(20).hosted(f"/{name}/").items()}
    ) as server:
        cache = Cache(max_bytes=12_000)
        async with Client(cache=cache) as client:
            kept = await client.fetch(f"{server.url}/a/model.json")
            for name in "bc":
                for record in cache_directory.rglob("record.json"):
                    os.utime(record, (record.stat().st_atime, record.stat().st_mtime - 7200))
                await client.fetch(f"{server.url}/{name}/model.json")
        gone = [name for name in "abc" if not await is_kept(f"{server.url}/{name}/model.json")]

    assert gone[:1] == ["a"]
    assert "c" not in gone
    assert_equal(kept, many(20).arrays)


async def is_kept(url: str) -> bool:
    """Whether a model is in the cache."""
    try:
        async with Client(cache=Cache(mode="offline")) as client:
            await client.fetch(url)
    except NotCachedError:
        return False
    return True


async def test_a_function_that_leads_to_other_shards_is_heeded_also_where_nobody_is_asked() -> None:
    one, other = many(3), many(3, first=50)
    files = {**hosted(one, ("cache-control", "max-age=60")), **hosted(other, ("cache-control", "max-age=60"), at="/n/")}
    async with MockServer(files) as server, Client() as client:
        url = f"{server.url}/m/model.json"
        for directory, example in (("m", one), ("n", other), ("n", other)):
            bundle = await client.fetch(url, shard_url=lambda path, at=directory: f"{server.url}/{at}/{path}")
            assert_equal(bundle, example.arrays)


async def test_shards_that_differ_in_their_query_alone_are_not_mistaken_for_each_other() -> None:
    weights = [[{"name": name, "shape": [4], "dtype": "float32"}] for name in "ab"]
    document = [{"paths": [f"dl?file={index}"], "weights": weights[index]} for index in range(2)]

    def shard(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("model.json"):
            return httpx.Response(200, json=document, headers={"etag": '"1"'})
        if request.headers.get("if-none-match") == '"1"':
            return httpx.Response(304, headers={"etag": '"1"'})
        value = int(request.url.params["file"])
        return httpx.Response(200, content=np.full(4, value, np.float32).tobytes(), headers={"etag": '"1"'})

    async with httpx.AsyncClient(transport=httpx.MockTransport(shard)) as http:
        for _ in range(3):
            async with Client(http=http, cache=Cache(scope="")) as client:
                bundle = await client.fetch("http://h/m/model.json")
            assert [bundle[name][0] for name in "ab"] == [0, 1]


async def test_how_long_an_answer_holds_says_nothing_of_where_a_redirect_leads_next() -> None:
    old, new = many(2), many(2, first=7)
    files = {**hosted(old, ("cache-control", "max-age=60"), at="/1/"), **new.hosted("/2/")}
    names = ["model.json", "s0", "s1"]
    async with MockServer(files | {f"/m/{name}": Redirect(f"/1/{name}") for name in names}) as server:
        assert_equal(await fetched(server), old.arrays)
        server.files.update({f"/m/{name}": Redirect(f"/2/{name}") for name in names})
        assert_equal(await fetched(server), new.arrays)


async def test_followers_that_leave_do_not_disturb_others() -> None:
    example = many(3)
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave(None, Latency(0.2))
        url, bundles = f"{server.url}/m/model.json", list[WeightBundle]()

        async def follow(seconds: float) -> None:
            with anyio.move_on_after(seconds):
                bundles.append(await client.fetch(url))

        async with anyio.create_task_group() as tasks:
            for seconds in (9, 9, 0.1, 0.15, 9):
                tasks.start_soon(follow, seconds)

    assert len(bundles) == 3
