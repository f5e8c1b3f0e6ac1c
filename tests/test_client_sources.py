"""Where a model may be: URLs, paths, archives, bytes at hand; and who is told what."""

import io
import json
import socket
import struct
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import numpy as np
import pytest

from mock_server import Cut, File, Latency, MockServer, Redirect, Status
from tests.models import QUICK, Model, assert_equal, f32, floats, group, many, model, written
from tfjs_fetch import (
    Client,
    DecodeError,
    Event,
    Finished,
    IntegrityError,
    ManifestError,
    Planned,
    Policy,
    RefusedError,
    ShardFinished,
    StatusError,
    UnreachableError,
    decode,
    fetch,
    plan,
    requesting,
)
from tfjs_fetch.direct import is_on_asyncio

pytestmark = pytest.mark.anyio


def example() -> Model:
    return model(group({"a": floats(3), "b": floats(10)}, [30, 22], name="group1-shard"))


def zipped(files: Mapping[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return memory.getvalue()


@pytest.mark.parametrize("path", ["/m/model.json", "/m/", "/m/model.json?v=1#fragment"])
async def test_a_model_may_be_named_by_its_document_or_its_directory(path: str) -> None:
    async with MockServer(example().hosted()) as server:
        assert_equal(await fetch(server.url + path), example().arrays)


@pytest.mark.parametrize("kind", ["path", "string", "directory", "file url", "file url of directory"])
async def test_a_model_may_be_on_this_machine(kind: str, tmp_path: Path) -> None:
    directory = written(tmp_path / "ein Modell", example().files)
    sources: dict[str, str | Path] = {
        "path": directory / "model.json",
        "string": str(directory / "model.json"),
        "directory": directory,
        "file url": (directory / "model.json").as_uri(),
        "file url of directory": directory.as_uri() + "/",
    }

    assert_equal(await fetch(sources[kind]), example().arrays)


@pytest.mark.parametrize(("suffix", "packed"), [(".zip", zipped), (".tar.gz", tarred), (".tgz", tarred)])
async def test_a_model_may_be_in_an_archive_here_or_there(
    suffix: str, packed: Callable[[Mapping[str, bytes]], bytes], tmp_path: Path
) -> None:
    content = packed(example().files)
    (tmp_path / f"model{suffix}").write_bytes(content)
    async with MockServer({f"/model{suffix}": content}) as server:
        here = await fetch(tmp_path / f"model{suffix}")
        there = await fetch(f"{server.url}/model{suffix}?token=1")

        assert_equal(here, example().arrays)
        assert_equal(there, example().arrays)
        assert len(server.requests) == 1


async def test_a_remote_archive_may_be_streamed_and_chosen_from() -> None:
    async with MockServer({"/model.zip": zipped(example().files)}) as server, Client() as client:
        async with client.stream(f"{server.url}/model.zip") as weights:
            found = {spec.name: array async for spec, array in weights}
        chosen = await client.fetch(f"{server.url}/model.zip", weights="b")

    assert_equal(found, example().arrays)
    assert list(chosen) == ["b"]


async def test_local_files_are_told_as_such(tmp_path: Path) -> None:
    events = list[Event]()
    await fetch(written(tmp_path, example().files), progress=events.append)

    assert isinstance(events[0], Planned)
    assert isinstance(events[-1], Finished)
    finished = [(event.url, event.size, event.origin) for event in events if isinstance(event, ShardFinished)]
    assert finished == [("group1-shard0", 30, "file"), ("group1-shard1", 22, "file")]
    assert events[-1].received_bytes == 0


@pytest.mark.parametrize("name", ["gone.json", "gone.zip", "gone"])
async def test_a_file_that_is_not_there_is_unreachable(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError) as caught:
        await fetch(tmp_path / name)

    assert caught.value.final


async def test_a_shard_that_is_not_beside_the_document_is_unreachable(tmp_path: Path) -> None:
    directory = written(tmp_path, {"model.json": example().files["model.json"]})

    with pytest.raises(UnreachableError) as caught:
        await fetch(directory)

    assert caught.value.url.endswith("group1-shard0")


@pytest.mark.parametrize("source", ["ftp://h/model.json", "http:///model.json", "s3://bucket/model.json"])
async def test_other_schemes_are_refused(source: str) -> None:
    with pytest.raises(RefusedError):
        await fetch(source)


async def test_a_protobuf_says_what_to_do_instead() -> None:
    with pytest.raises(ManifestError):
        await fetch("http://127.0.0.1:9/tensorflowjs_model.pb")


ML5 = {
    "model.json": json.dumps(
        {
            "modelTopology": {"class_name": "Sequential", "config": {"name": "s", "layers": []}},
            "weightsManifest": [
                {
                    "paths": ["./model.weights.bin"],
                    "weights": [{"name": "dense/kernel", "shape": [2, 1], "dtype": "float32"}],
                }
            ],
        }
    ).encode(),
    "model.weights.bin": struct.pack("<2f", 1, 2),
    "model_meta.json": b'{"inputUnits": [2], "outputUnits": 1, "isNormalized": true}',
}


async def test_the_three_files_of_ml5_are_read_from_their_folder_and_from_bytes(tmp_path: Path) -> None:
    expected = {"dense/kernel": f32([[1], [2]])}

    assert_equal(await fetch(written(tmp_path, ML5)), expected)
    assert_equal(
        decode(ML5["model.json"], {name: data for name, data in ML5.items() if name != "model.json"}), expected
    )


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
def test_bytes_at_hand_may_be_of_any_kind(kind: Callable[[bytes], Any]) -> None:
    files = example().files
    shards = {name: kind(data) for name, data in files.items() if name != "model.json"}

    assert_equal(decode(kind(files["model.json"]), shards), example().arrays)


def test_arrays_of_other_types_lend_their_bytes() -> None:
    files = model(group({"a": floats(4)})).files
    lent: Any = floats(4).reshape(2, 2)

    assert_equal(decode(files["model.json"], {"w0": memoryview(lent)}), {"a": floats(4)})


def test_files_at_hand_are_found_by_their_name_alone() -> None:
    files = many(2).files
    shards = {f"upload/{name}": data for name, data in files.items()}

    assert_equal(decode(files["model.json"], shards), many(2).arrays)


def test_a_file_that_is_not_at_hand_is_unreachable() -> None:
    with pytest.raises(UnreachableError) as caught:
        decode(many(2).files["model.json"], {"s0": bytes(16)})

    assert caught.value.url == "s1"


def test_bytes_at_hand_that_do_not_fit_are_a_decode_error() -> None:
    with pytest.raises(DecodeError):
        decode(many(2).files["model.json"], {"s0": bytes(16), "s1": bytes(15)})


def test_what_is_odd_about_bytes_at_hand_is_a_python_warning() -> None:
    with pytest.warns(UserWarning, match="1 bytes"):
        decode(many(2).files["model.json"], {"s0": bytes(16), "s1": bytes(17)})


async def test_a_prefix_says_where_the_shards_are() -> None:
    files = example().hosted()
    elsewhere = {path.replace("/m/", "/w/"): data for path, data in files.items() if "shard" in path}
    async with MockServer({"/m/model.json": files["/m/model.json"], **elsewhere}) as server, Client() as client:
        for prefix in (f"{server.url}/w/", f"{server.url}/w", "../w/", "/w"):
            assert_equal(await client.fetch(f"{server.url}/m/model.json", shard_url=prefix), example().arrays)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_says_where_each_shard_is_and_is_asked_once_in_order(is_async: bool) -> None:
    asked: list[str] = []
    files = many(5).hosted()

    async with MockServer(files) as server, Client(cache=None, retry=QUICK) as client:

        def address(path: str) -> str:
            asked.append(path)
            return f"{server.url}/m/{path}?signature=1"

        async def address_later(path: str) -> str:
            await anyio.lowlevel.checkpoint()
            return address(path)

        shard_url = address_later if is_async else address
        assert_equal(await client.fetch(f"{server.url}/m/model.json", shard_url=shard_url), many(5).arrays)

        assert asked == [f"s{index}" for index in range(5)]
        targets = sorted(request.target for request in server.requests[1:])
        assert targets == [f"/m/s{index}?signature=1" for index in range(5)]


async def test_what_a_function_of_the_caller_raises_comes_out_unchanged() -> None:
    trouble = LookupError("no such shard")

    def address(path: str) -> str:
        raise trouble

    async with MockServer(many(2).hosted()) as server, Client() as client:
        with pytest.raises(LookupError) as caught:
            await client.fetch(f"{server.url}/m/model.json", shard_url=address)

    assert caught.value is trouble


@pytest.mark.parametrize("weights", [None, "w1"])
async def test_a_plan_makes_one_request_and_tells_all(weights: str | None) -> None:
    async with MockServer(many(3).hosted()) as server:
        drawn = await plan(f"{server.url}/m/model.json?token=secret", weights=weights)

        assert len(server.requests) == 1
        assert (drawn.total_bytes, drawn.cached_bytes, len(drawn.weights)) == (
            (48, 0, 3) if weights is None else (16, 0, 1)
        )
        assert [shard.path for shard in drawn.shards] == ["s0", "s1", "s2"]
        assert drawn.shards[0].url == f"{server.url}/m/s0?token=secret"
        assert "secret" not in json.dumps(drawn.as_json()) + repr(drawn)


async def test_an_expected_digest_is_checked() -> None:
    async with MockServer(many(3).hosted()) as server:
        url = f"{server.url}/m/model.json"
        digest = (await fetch(url)).digest

        assert len(await fetch(url, expected=digest.upper())) == 3
        with pytest.raises(IntegrityError) as caught:
            await fetch(url, expected="0" * 64)

        assert (caught.value.source, caught.value.expected, caught.value.got) == (url, "0" * 64, digest)


async def test_hazard_12_headers_go_to_the_models_own_origin_and_nowhere_else() -> None:
    files = many(2).hosted()
    async with MockServer({"/m/s1": files["/m/s1"]}) as other:
        moved = {**files, "/m/s1": Redirect(f"{other.url}/m/s1")}
        async with MockServer(moved) as server:
            await fetch(f"{server.url}/m/model.json", cache=None, headers={"authorization": "Bearer 1", "x-key": "2"})

            assert all(request.headers.get("authorization") == "Bearer 1" for request in server.requests)
            assert all(request.headers.get("x-key") == "2" for request in server.requests)
            assert len(server.requests) == 3
        (request,) = other.requests
        assert not {"authorization", "x-key", "cookie", "referer"} & set(request.headers)


async def test_a_client_of_the_caller_stays_open_and_keeps_its_headers() -> None:
    async with MockServer(many(2).hosted()) as server, httpx.AsyncClient(headers={"x-mine": "1"}) as http:
        await fetch(f"{server.url}/m/model.json", http=http)

        assert not http.is_closed
        assert (await http.get(f"{server.url}/m/s0")).status_code == 200
        assert {request.headers["x-mine"] for request in server.requests} == {"1"}


async def test_errors_of_a_client_of_the_caller_are_ours() -> None:
    class Broken(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("no route")

    async with httpx.AsyncClient(transport=Broken()) as http, Client(http=http, retry=QUICK) as client:
        with pytest.raises(UnreachableError) as caught:
            await client.fetch("http://h.example/model.json")

    assert caught.value.url == "http://h.example/model.json"


class Content(httpx.AsyncByteStream):
    """A body that has not been read yet."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


class Hub(httpx.AsyncBaseTransport):
    """A host that has the files of one model, each behind a signed link."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.asked: list[str] = []
        self._files = files

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        name = request.url.path.rpartition("/")[2]
        if request.url.host == "tfhub.dev":
            return httpx.Response(302, headers={"location": f"https://storage.example/x/{name}?X-Goog-Signature=1"})
        return httpx.Response(200, stream=Content(self._files[name]))


@pytest.mark.parametrize("handle", ["https://tfhub.dev/x/y/1", "https://tfhub.dev/x/y/1/"])
async def test_a_handle_of_the_hub_is_a_model(handle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def public(*_: object) -> list[Any]:
        return [(None, None, None, "", ("93.184.216.34", 0))]

    monkeypatch.setattr(anyio, "getaddrinfo", public)
    hub = Hub(many(2).files)
    async with httpx.AsyncClient(transport=hub) as http:
        bundle = await fetch(handle, http=http)

    assert_equal(bundle, many(2).arrays)
    first = [url for url in hub.asked if "tfhub.dev" in url]
    assert sorted(first) == [f"https://tfhub.dev/x/y/1/{name}?tfjs-format=file" for name in ("model.json", "s0", "s1")]


@pytest.fixture
def lying_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let names in .example look public when they are asked about, and be this machine when they are connected to.

    Of its addresses 127.0.0.1 counts as public here, and 127.0.0.2 as private: that is where inner.example is.
    """
    ask = socket.getaddrinfo

    async def public(host: str) -> Sequence[str]:
        return ["93.184.216.34"]

    def connect(host: Any, *more: Any, **others: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        places = {"models.example": "127.0.0.1", "inner.example": "127.0.0.2"}
        return ask(places.get(name or "", host), *more, **others)

    monkeypatch.setattr(requesting, "_addresses", public)
    monkeypatch.setattr(requesting, "_is_private", lambda address: address == "127.0.0.2")
    monkeypatch.setattr(socket, "getaddrinfo", connect)


@pytest.mark.usefixtures("lying_names")
@pytest.mark.parametrize("allowed", [False, True])
async def test_a_name_that_turns_out_to_be_a_private_host_when_it_is_connected_is_refused(allowed: bool) -> None:
    example = many(1)
    secret = {"/secret": File(example.shards["s0"])}
    async with MockServer(example.hosted()) as server, MockServer(secret, host="127.0.0.2") as inner:
        port, inner_port = (one.url.rpartition(":")[2] for one in (server, inner))
        server.files["/m/s0"] = Redirect(f"http://inner.example:{inner_port}/secret")
        async with Client(retry=QUICK, policy=Policy(private_hosts=allowed)) as client:
            with anyio.fail_after(5), nullcontext() if allowed else pytest.raises(RefusedError):
                await client.fetch(f"http://models.example:{port}/m/model.json")

        assert len(inner.requests) == allowed


@pytest.mark.usefixtures("lying_names")
async def test_hosts_that_the_user_names_may_be_private() -> None:
    files = many(2).hosted()
    async with MockServer(files) as server, MockServer(files, host="127.0.0.2") as inner, Client(retry=QUICK) as client:
        port, inner_port = (one.url.rpartition(":")[2] for one in (server, inner))
        url, prefix = f"http://models.example:{port}/m/model.json", f"http://inner.example:{inner_port}/m/"
        with anyio.fail_after(5):
            assert_equal(await client.fetch(url, shard_url=prefix), many(2).arrays)


@pytest.mark.parametrize("lane", ["ours", "theirs"])
async def test_each_shard_is_resolved_on_its_own_and_no_signature_is_shown(
    lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    example, events = many(4), list[Event]()
    async with MockServer(example.hosted("/cdn/")) as server:
        server.files["/m/model.json"] = server.files["/cdn/model.json"]
        for index in range(4):
            server.files[f"/m/s{index}"] = Redirect(f"/cdn/s{index}?sig=SECRET{index}")
        # Each link works only once, and the first one not even that.
        server.misbehave_in_turn("/cdn/s0", Status(403), Cut(5), ())
        server.misbehave_in_turn("/cdn/s1", Status(503), ())
        server.misbehave("/cdn/s3", Latency(0.3), Status(404))
        http = httpx.AsyncClient() if lane == "theirs" else None
        async with Client(retry=QUICK, http=http) as client:
            with pytest.raises(StatusError) as caught:
                await client.fetch(f"{server.url}/m/model.json", progress=events.append)
        if http is not None:
            await http.aclose()

        assert len(server.requests_to("/m/s0")) == 3
        assert {request.target for request in server.requests if "/cdn/s" in request.path} == {
            f"/cdn/s{index}?sig=SECRET{index}" for index in range(4)
        }
    # What httpx and httpcore write to their logs, where they are what sends, is not ours.
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert "SECRET" not in f"{caught.value} {caught.value!r} {events} {logged}"
    if lane == "ours" and is_on_asyncio():
        assert "SECRET" not in caplog.text
