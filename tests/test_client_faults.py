"""What a hosted model can have wrong with it: a clear error that names the culprit, and no bundle."""

import json
from typing import Any, Literal, TypeAlias

import anyio
import numpy as np
import pytest

from mock_server import HTML_PAGE, LFS_POINTER, S3_ERROR, File, Instead, MockServer, TrailingGarbage, TruncatedGzip
from mock_server.files import compress
from tests.models import NO_TLS, QUICK, Model, assert_equal, cut, floats, group, model
from tfjs_fetch import (
    Client,
    Event,
    ExtraBytesError,
    MissingBytesError,
    Policy,
    ShardOrderError,
    TruncatedError,
    Warned,
    WeightBundle,
    WrongContentError,
)

pytestmark = pytest.mark.anyio

Framing: TypeAlias = Literal["length", "chunked", "close"]
on_every_framing = pytest.mark.parametrize("framing", ["length", "chunked", "close"])

IGNORE_EXTRA = Policy(extra_bytes="ignore")


def three_groups() -> Model:
    """Return a model of three groups of 40 bytes, in two shards each."""
    return model(*(group({f"{name}": floats(10)}, [24, 16], name=name) for name in "abc"))


async def fetched(files: dict[str, Any], events: list[Event] | None = None, policy: Policy = Policy()) -> WeightBundle:  # noqa: B008 - frozen
    seen = [] if events is None else events
    async with MockServer(files) as server, Client(retry=QUICK, policy=policy, ssl_context=NO_TLS) as client:
        with anyio.fail_after(10):
            return await client.fetch(f"{server.url}/m/model.json", progress=seen.append)


def warnings(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


@on_every_framing
@pytest.mark.parametrize(("shard", "index"), [("a0", 0), ("a1", 0), ("b1", 1)])
async def test_extra_bytes_in_front_of_other_groups_are_an_error(framing: Framing, shard: str, index: int) -> None:
    example = three_groups()
    files = example.hosted(framing=framing)
    files[f"/m/{shard}"] = File(example.shards[shard] + b"extra", framing=framing)

    with pytest.raises(ExtraBytesError) as caught:
        await fetched(files)

    assert (caught.value.group, caught.value.shard, caught.value.expected) == (index, f"{shard[0]}1", 40)
    assert 41 <= caught.value.got <= 45


@on_every_framing
async def test_a_whole_extra_shard_in_front_of_other_groups_is_an_error(framing: Framing) -> None:
    example = model(group({"a": floats(2)}, [8, 0], name="a"), group({"b": floats(2)}, name="b"))
    files = example.hosted(framing=framing)
    files["/m/a1"] = File(b"more", framing=framing)

    with pytest.raises(ExtraBytesError) as caught:
        await fetched(files)

    assert (caught.value.group, caught.value.shard, caught.value.expected) == (0, "a1", 8)


@on_every_framing
@pytest.mark.parametrize("shard", ["a1", "b1"])
async def test_extra_bytes_are_left_out_where_the_policy_says_so(framing: Framing, shard: str) -> None:
    example, events = three_groups(), list[Event]()
    files = example.hosted(framing=framing)
    files[f"/m/{shard}"] = File(example.shards[shard] + b"extra", framing=framing)

    bundle = await fetched(files, events, IGNORE_EXTRA)

    assert_equal(bundle, example.arrays)
    assert len(warnings(events)) == 1


@on_every_framing
async def test_extra_bytes_behind_everything_are_a_warning(framing: Framing) -> None:
    example, events = three_groups(), list[Event]()
    files = example.hosted(framing=framing)
    files["/m/c1"] = File(example.shards["c1"] + b"extra", framing=framing)

    bundle = await fetched(files, events)

    assert_equal(bundle, example.arrays)
    assert len(warnings(events)) == 1


async def test_extra_bytes_behind_empty_weights_are_an_error() -> None:
    example = model(group({"a": floats(0)}, [0], name="a"), group({"b": floats(2)}, name="b"))

    with pytest.raises(ExtraBytesError) as caught:
        await fetched({**example.hosted(), "/m/a0": b"extra"})

    assert (caught.value.group, caught.value.expected, caught.value.got) == (0, 0, 5)


@on_every_framing
async def test_extra_bytes_behind_strings_are_an_error_but_in_the_last_group(framing: Framing) -> None:
    weights = [{"name": "text", "shape": [1], "dtype": "string"}]
    strings = {"paths": ["t"], "weights": weights}
    number = {"paths": ["n"], "weights": [{"name": "n", "shape": [], "dtype": "bool"}]}
    files = {"/m/t": File(b"\x02\0\0\0hi" + b"extra", framing=framing), "/m/n": File(b"\x01", framing=framing)}

    with pytest.raises(ExtraBytesError) as caught:
        await fetched({**files, "/m/model.json": json.dumps([strings, number]).encode()})
    bundle = await fetched({**files, "/m/model.json": json.dumps([number, strings]).encode()})

    assert (caught.value.group, caught.value.shard, caught.value.expected, caught.value.got) == (0, "t", 6, 11)
    assert bundle["text"].tolist() == [b"hi"]


@on_every_framing
@pytest.mark.parametrize(("shard", "weight"), [("w0", "first"), ("w1", "second"), ("w2", "third")])
async def test_missing_bytes_name_weight_shard_and_counts(framing: Framing, shard: str, weight: str) -> None:
    example = model(group({"first": floats(4), "second": floats(4), "third": floats(4)}, [16, 16, 16]))
    short = example.shards[shard][:-3]
    files = {**example.hosted(framing=framing), f"/m/{shard}": File(short, framing=framing)}

    with pytest.raises(MissingBytesError) as caught:
        await fetched(files)

    error = caught.value
    assert (error.group, error.weight, error.shard, error.expected, error.got) == (0, "third", shard, 48, 45)
    assert weight in example.arrays


@on_every_framing
async def test_an_empty_shard_where_bytes_belong_is_an_error(framing: Framing) -> None:
    example = three_groups()

    with pytest.raises(MissingBytesError) as caught:
        await fetched({**example.hosted(framing=framing), "/m/b0": File(b"", framing=framing)})

    assert (caught.value.group, caught.value.weight, caught.value.shard, caught.value.got) == (1, "b", "b0", 16)


async def test_cut_strings_are_missing_bytes() -> None:
    weights = [{"name": "text", "shape": [2], "dtype": "string"}]
    document = json.dumps([{"paths": ["t"], "weights": weights}]).encode()

    with pytest.raises(MissingBytesError) as caught:
        await fetched({"/m/model.json": document, "/m/t": b"\x02\0\0\0hi\x03\0\0\0yo"})

    assert (caught.value.weight, caught.value.shard, caught.value.expected, caught.value.got) == ("text", "t", 13, 12)


@pytest.mark.parametrize(
    "paths",
    [("m-2of2", "m-1of2"), ("m-1of2", "m-1of2"), ("m-1of3", "m-2of3"), ("m-1of2.bin", "m-3of2.bin")],
    ids="-".join,
)
async def test_shard_names_that_contradict_their_order_are_an_error_unless_ignored(paths: tuple[str, str]) -> None:
    data = floats(2).tobytes()
    document = [{"paths": paths, "weights": [{"name": "a", "shape": [2], "dtype": "float32"}]}]
    shards = dict(zip(paths, cut(data, [4, 4]).values(), strict=True))
    files = {"/m/model.json": json.dumps(document).encode(), **{f"/m/{path}": data for path, data in shards.items()}}

    with pytest.raises(ShardOrderError) as caught:
        await fetched(files)
    bundle = await fetched(files, policy=Policy(shard_order="ignore"))

    assert (caught.value.group, caught.value.paths) == (0, paths)
    assert bundle["a"].tobytes() == b"".join(shards[path] for path in paths)


IMPOSTORS = {
    "an HTML page": HTML_PAGE.content,
    "a Git LFS pointer": LFS_POINTER.content,
    "a bucket's error document (AccessDenied)": S3_ERROR.content,
    "a JSON document": b'{"error": "no such file"}',
    "gzip-compressed data": compress(bytes(range(256)) * 2),
    "a zip archive": b"PK\x03\x04" + bytes(200),
}


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("content", IMPOSTORS)
@pytest.mark.parametrize("shard_bytes", [10, 400], ids=["longer", "shorter"])
async def test_something_else_instead_of_a_shard_is_named_at_every_position(
    framing: Framing, content: str, shard_bytes: int
) -> None:
    sizes = [shard_bytes - 2, shard_bytes, shard_bytes + 2]
    example = model(*(group({name: floats(3 * shard_bytes // 4)}, _fitted(sizes), name=name) for name in "ab"))

    for shard in example.shards:
        files = {**example.hosted(framing=framing), f"/m/{shard}": File(IMPOSTORS[content], framing=framing)}
        with pytest.raises(WrongContentError) as caught:
            await fetched(files)

        assert (caught.value.url.rpartition("/")[2], caught.value.content) == (shard, content)


def _fitted(sizes: list[int]) -> list[int]:
    """Return `sizes` with the last one such that all are a whole number of float32 values."""
    return [*sizes[:-1], sum(sizes) // 4 * 4 - sum(sizes[:-1])]


async def test_an_error_page_behind_strings_is_named() -> None:
    weights = [{"name": "text", "shape": [2], "dtype": "string"}]
    document = json.dumps([{"paths": ["t"], "weights": weights}]).encode()

    with pytest.raises(WrongContentError) as caught:
        await fetched({"/m/model.json": document, "/m/t": HTML_PAGE.content})

    assert caught.value.content == "an HTML page"


async def test_an_error_page_with_an_error_status_is_told_apart_from_others() -> None:
    example = three_groups()
    async with MockServer(example.hosted()) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/b0", Instead(HTML_PAGE.content, "text/html", status=404))
        with anyio.fail_after(5), pytest.raises(Exception) as caught:  # noqa: PT011 - its fields say which
            await client.fetch(f"{server.url}/m/model.json")

    assert getattr(caught.value, "status", None) == 404
    assert getattr(caught.value, "content", None) == "an HTML page"


async def test_a_gzip_body_that_ends_early_is_tried_again_and_is_an_error_in_the_end() -> None:
    example = three_groups()
    async with MockServer(example.hosted(gzip="always")) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/b0", TruncatedGzip(missing=9))
        with anyio.fail_after(5), pytest.raises(TruncatedError) as caught:
            await client.fetch(f"{server.url}/m/model.json")

        assert caught.value.url == f"{server.url}/m/b0"
        assert len(server.requests_to("/m/b0")) == QUICK.attempts


async def test_garbage_behind_a_gzip_body_is_an_error() -> None:
    example = three_groups()
    async with MockServer(example.hosted(gzip="always")) as server, Client(retry=QUICK) as client:
        server.misbehave("/m/b0", TrailingGarbage())
        with anyio.fail_after(5), pytest.raises(WrongContentError) as caught:
            await client.fetch(f"{server.url}/m/model.json")

    assert caught.value.url == f"{server.url}/m/b0"


@on_every_framing
async def test_extra_bytes_in_front_of_the_last_shard_are_an_error_in_the_last_group_too(framing: Framing) -> None:
    example = model(group({"a": floats(6), "b": floats(4)}, [24, 16]))
    files = example.hosted(framing=framing)
    files["/m/w0"] = File(example.shards["w0"] + example.shards["w1"] + b"more", framing=framing)

    with pytest.raises(ExtraBytesError) as caught:
        await fetched(files)

    assert (caught.value.group, caught.value.shard, caught.value.expected) == (0, "w0", 40)


async def test_a_shard_of_another_than_the_usual_size_in_front_of_others_is_an_error() -> None:
    size = 4 * 2**20
    example = model(group({"a": np.zeros(size // 4 + 10, np.float32)}, [size, 40]))
    files = {**example.hosted(), "/m/w0": File(example.shards["w0"] + bytes(8))}

    with pytest.raises(ExtraBytesError) as caught:
        await fetched(files)

    assert (caught.value.shard, caught.value.got) == ("w0", size + 48)
