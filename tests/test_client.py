"""Fetching over HTTP: every kind of document, every cut into shards, every framing, compared with values by hand."""

import json
import struct
from typing import Any, Literal, TypeAlias

import anyio
import numpy as np
import pytest

from mock_server import File, MockServer, Redirect
from tests.models import Group, assert_equal, cut, f32, floats, group, many, model
from tfjs_fetch import (
    Client,
    ManifestError,
    Retry,
    StatusError,
    UnreachableError,
    WeightBundle,
    WrongContentError,
    fetch,
)

pytestmark = pytest.mark.anyio

Framing: TypeAlias = Literal["length", "chunked", "close"]
FRAMINGS: tuple[Framing, ...] = ("length", "chunked", "close")

LAYERS = {
    "modelTopology": {"class_name": "Sequential", "keras_version": "2.1.4", "backend": "tensorflow", "config": []},
    "weightsManifest": [
        {
            "paths": ["w0", "w1"],
            "weights": [
                {"name": "dense/kernel", "shape": [3, 1], "dtype": "float32"},
                {"name": "dense/bias", "shape": [1], "dtype": "float32"},
            ],
        }
    ],
}
GRAPH = {
    "modelTopology": {"node": [], "library": {}, "versions": {"producer": 440}},
    "weightsManifest": [
        {"paths": ["g.bin"], "weights": [{"name": "w/ReadVariableOp", "shape": [2], "dtype": "float32"}]}
    ],
}
QUANTIZED = {"dtype": "uint8", "min": -1.0, "scale": 0.1, "original_dtype": "float32"}
BARE = [
    {
        "paths": ["group1-shard1of1.bin"],
        "weights": [{"name": "w", "shape": [3], "dtype": "float32", "quantization": QUANTIZED}],
    }
]
ONE_FLOAT = {"weights": [{"name": "a", "shape": [], "dtype": "float32"}]}


async def fetched(
    document: Any, shards: dict[str, bytes], **how: Any
) -> WeightBundle:  # Any: JSON, and what File takes
    files = {f"/m/{path}": File(content, **how) for path, content in shards.items()}
    async with MockServer({"/m/model.json": File(json.dumps(document).encode()), **files}) as server:
        with anyio.fail_after(10):
            return await fetch(f"{server.url}/m/model.json")


async def test_a_layers_model_is_fetched() -> None:
    bundle = await fetched(LAYERS, {"w0": struct.pack("<2f", 1, 2), "w1": struct.pack("<2f", 3, 4)})

    assert_equal(bundle, {"dense/kernel": f32([[1], [2], [3]]), "dense/bias": f32([4])})
    assert bundle.manifest.kind == "layers"


async def test_a_graph_model_is_fetched() -> None:
    bundle = await fetched(GRAPH, {"g.bin": struct.pack("<2f", 2, 3)})

    assert_equal(bundle, {"w/ReadVariableOp": f32([2, 3])})
    assert bundle.manifest.kind == "graph"


async def test_a_bare_manifest_is_fetched() -> None:
    bundle = await fetched(BARE, {"group1-shard1of1.bin": b"\x00\x30\xff"})

    assert_equal(bundle, {"w": f32([-1, 3.8, 24.5])})
    assert bundle.stored("w").tolist() == [0, 48, 255]


async def test_the_older_manifest_of_posenet_is_fetched() -> None:
    document = {
        "MobilenetV1/Conv2d_0/biases": {"filename": "MobilenetV1_Conv2d_0_biases", "shape": [2]},
        "MobilenetV1/Conv2d_0/weights": {"filename": "MobilenetV1_Conv2d_0_weights", "shape": [1, 1]},
    }
    shards = {
        "MobilenetV1_Conv2d_0_biases": struct.pack("<2f", 1, 2),
        "MobilenetV1_Conv2d_0_weights": struct.pack("<f", 3),
    }

    bundle = await fetched(document, shards)

    assert_equal(bundle, {"MobilenetV1/Conv2d_0/biases": f32([1, 2]), "MobilenetV1/Conv2d_0/weights": f32([[3]])})


@pytest.mark.parametrize("topology", [{}, {"modelTopology": None}], ids=["none", "null"])
async def test_weights_without_a_topology_are_fetched(topology: dict[str, Any]) -> None:
    document = {**topology, "weightsManifest": [{"paths": ["w"], **ONE_FLOAT}]}

    bundle = await fetched(document, {"w": struct.pack("<f", 7)})

    assert_equal(bundle, {"a": f32(7)})
    assert bundle.topology is None


async def test_every_type_is_fetched() -> None:
    weights = [
        {"name": "bool", "shape": [3], "dtype": "bool"},
        {"name": "int32", "shape": [2], "dtype": "int32"},
        {"name": "complex64", "shape": [1], "dtype": "complex64"},
        {"name": "float16", "shape": [2], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "uint16", "shape": [2], "dtype": "int32", "quantization": {"dtype": "uint16", "min": 1, "scale": 0.5}},
    ]
    data = b"\x01\x00\x01" + struct.pack("<2i", -1, 2**31 - 1) + struct.pack("<2f", 1, -2)
    data += b"\x00\x3c\x00\xc0" + struct.pack("<2H", 1, 4)

    bundle = await fetched([{"paths": ["w"], "weights": weights}], {"w": data})

    assert bundle["bool"].tolist() == [True, False, True]
    assert_equal(
        {name: bundle[name] for name in ("int32", "complex64", "float16", "uint16")},
        {
            "int32": np.array([-1, 2**31 - 1], np.int32),
            "complex64": np.array([1 - 2j], np.complex64),
            "float16": f32([1, -2]),
            "uint16": np.array([2, 3], np.int32),  # 1.5 is rounded upwards
        },
    )


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_strings_are_fetched_across_shards(framing: Framing) -> None:
    weights = [
        {"name": "text", "shape": [2], "dtype": "string"},
        {"name": "none", "shape": [0], "dtype": "string"},
        {"name": "number", "shape": [], "dtype": "float32"},
    ]
    data = b"\x05\0\0\0hello\x02\0\0\0\xff\xfe" + struct.pack("<f", 1)

    bundle = await fetched([{"paths": ["w0", "w1", "w2"], "weights": weights}], cut(data, [2, 6, 11]), framing=framing)

    assert bundle["text"].tolist() == [b"hello", b"\xff\xfe"]
    assert bundle["none"].tolist() == []
    assert bundle["number"] == 1.0


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("gzip", ["never", "always"])
async def test_a_weight_may_lie_across_three_shards(framing: Framing, gzip: str) -> None:
    example = model(group({"before": floats(3), "across": floats(10), "behind": floats(2)}, [13, 5, 7, 35]))

    bundle = await fetched(example.document, dict(example.shards), framing=framing, gzip=gzip)

    assert_equal(bundle, example.arrays)


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_many_groups_of_many_shards_of_odd_sizes(framing: Framing) -> None:
    groups = [
        group(
            {f"{index}/a": floats(5, index), f"{index}/b": np.array([True, False, True]), f"{index}/c": floats(2)},
            [1, 2, 3, 0, 5, 7, 0, 13, 0],
            name=f"g{index}-",
        )
        for index in range(7)
    ]
    example = model(*groups)

    bundle = await fetched(example.document, dict(example.shards), framing=framing)

    assert_equal(bundle, example.arrays)


async def test_framings_and_encodings_may_be_mixed_in_a_group() -> None:
    example = model(group({"a": floats(50)}, [40, 40, 40, 40, 40]))
    files = example.hosted()
    files["/m/w0"] = File(example.shards["w0"], framing="chunked")
    files["/m/w1"] = File(example.shards["w1"], gzip="always")
    files["/m/w2"] = File(example.shards["w2"], framing="close")
    files["/m/w3"] = File(example.shards["w3"], gzip="always", framing="chunked")

    async with MockServer(files) as server:
        with anyio.fail_after(10):
            bundle = await fetch(f"{server.url}/m/model.json")

    assert_equal(bundle, example.arrays)


async def test_weights_without_values_need_no_bytes() -> None:
    example = model(
        group({"empty": floats(0)}, [0]),
        group({"full": floats(2), "hollow": np.zeros((3, 0, 2), np.float32)}, name="f"),
        group({"last": floats(0)}, [0, 0], name="l"),
    )

    bundle = await fetched(example.document, dict(example.shards))

    assert_equal(bundle, example.arrays)


async def test_a_group_without_weights_is_not_asked_for() -> None:
    groups = [{"paths": ["gone"]}, {"paths": [], "weights": []}, {"paths": ["w"], **ONE_FLOAT}]
    async with MockServer(
        {"/model.json": json.dumps({"weightsManifest": groups}).encode(), "/w": struct.pack("<f", 7)}
    ) as server:
        bundle = await fetch(f"{server.url}/model.json", cache=None)

        assert_equal(bundle, {"a": f32(7)})
        assert [request.path for request in server.requests] == ["/model.json", "/w"]


@pytest.mark.parametrize("manifest", [{}, {"weightsManifest": []}, {"weightsManifest": None}])
async def test_a_topology_without_weights_is_an_empty_bundle(manifest: dict[str, Any]) -> None:
    bundle = await fetched({"modelTopology": {"class_name": "Sequential"}, **manifest}, {})

    assert len(bundle) == 0


async def test_a_shard_may_be_listed_in_two_groups() -> None:
    shared = struct.pack("<f", 7)
    document = [
        {"paths": ["w"], **ONE_FLOAT},
        {"paths": ["w"], "weights": [{"name": "b", "shape": [], "dtype": "int32"}]},
    ]

    bundle = await fetched(document, {"w": shared})

    assert_equal(bundle, {"a": f32(7), "b": np.int32(0x40E00000)})


async def test_a_query_goes_along_and_redirects_are_followed_for_each_file() -> None:
    example = many(2)
    hosted = example.hosted("/signed/")
    moved = {path.replace("signed", "m"): Redirect(path + "?signature=1") for path in hosted}
    async with MockServer({**hosted, **moved}) as server:
        bundle = await fetch(f"{server.url}/m/model.json?tfjs-format=file", cache=None)

        assert_equal(bundle, example.arrays)
        asked = sorted(request.target for request in server.requests if request.path.startswith("/m/"))
        assert asked == [f"/m/{name}?tfjs-format=file" for name in ("model.json", "s0", "s1")]


async def test_a_real_model_of_nine_mebibytes_in_shards_of_four() -> None:
    example = model(group({"a": floats(1_000_000), "b": floats(1_359_296, 3)}, [4 * 2**20, 4 * 2**20, 2**20]))
    async with MockServer(example.hosted()) as server:
        with anyio.fail_after(20):
            bundle = await fetch(f"{server.url}/m/model.json")

    assert_equal(bundle, example.arrays)


async def test_a_model_of_nine_mebibytes_whose_shards_are_not_as_usual() -> None:
    example = model(group({"a": floats(1_000_000), "b": floats(1_359_296, 3)}, [3 * 2**20, 5 * 2**20, 2**20]))
    async with MockServer(example.hosted()) as server:
        with anyio.fail_after(20):
            bundle = await fetch(f"{server.url}/m/model.json")

    assert_equal(bundle, example.arrays)


async def test_an_html_page_instead_of_the_document_is_named() -> None:
    page = b"<!DOCTYPE html><html><body>Sign in</body></html>"
    async with MockServer({"/model.json": File(page)}) as server:
        with pytest.raises(WrongContentError) as caught:
            await fetch(f"{server.url}/model.json")

    assert (caught.value.url, caught.value.content) == (f"{server.url}/model.json", "an HTML page")


async def test_a_document_that_is_no_model_is_an_error_before_any_shard() -> None:
    document = [{"paths": ["w"], "weights": [{"name": "a", "shape": [-1], "dtype": "float32"}]}]
    async with MockServer({"/model.json": json.dumps(document).encode(), "/w": b"0123"}) as server:
        with pytest.raises(ManifestError) as caught:
            await fetch(f"{server.url}/model.json")

        assert caught.value.place == "[0].weights[0].shape[0]"
        assert [request.path for request in server.requests] == ["/model.json"]


async def test_a_missing_document_is_a_status_error() -> None:
    async with MockServer({}) as server:
        with pytest.raises(StatusError) as caught:
            await fetch(f"{server.url}/model.json")

    assert (caught.value.url, caught.value.status) == (f"{server.url}/model.json", 404)


async def test_hazard_2_a_missing_shard_is_a_status_error_that_names_it() -> None:
    example = many(3)
    async with MockServer(example.hosted()) as server:
        del server.files["/m/s1"]
        with pytest.raises(StatusError) as caught:
            await fetch(f"{server.url}/m/model.json")

    assert (caught.value.url, caught.value.status) == (f"{server.url}/m/s1", 404)


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async with MockServer({}) as server:
        url = f"{server.url}/model.json"

    async with Client(retry=Retry(attempts=1)) as client:
        with pytest.raises(UnreachableError) as caught:
            await client.fetch(url)
    assert caught.value.url == url


def test_the_example_groups_are_what_they_say() -> None:
    example = group({"a": f32([1, 2])}, [3, 5])

    assert isinstance(example, Group)
    assert example.shards == {"w0": b"\x00\x00\x80", "w1": b"\x3f\x00\x00\x00\x40"}
    assert example.entry["weights"] == [{"name": "a", "shape": [2], "dtype": "float32"}]
