"""Every model of the corpus from real servers: all weights are what the real TF.js decodes, however the bytes come."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import pytest

from tests.corpus import CorpusModel, model, on_every_model
from tfjs_fetch import Client, ProgressState, WeightBundle, decode, fetch
from tfjs_fetch.format.dtypes import Array

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

KIBIBYTE = 1024
on_every_server = pytest.mark.parametrize("server", ["nginx", "nginx_with_gzip", "http_server"])
on_every_chunk_size = pytest.mark.parametrize("chunk", [KIBIBYTE, 64 * KIBIBYTE, 1024 * KIBIBYTE])

DECODE_WITH_TFJS = """
const crypto = require('node:crypto');
console.warn = () => {};
const tf = require('@tensorflow/tfjs');
(async () => {
  const {weightSpecs, weightData} = await tf.io.http(process.argv[2]).load();
  const found = {};
  for (const [name, tensor] of Object.entries(tf.io.decodeWeights(weightData, weightSpecs))) {
    const values = tensor.dataSync();
    const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
    const sha256 = crypto.createHash('sha256').update(bytes).digest('hex');
    found[name] = {shape: tensor.shape, dtype: tensor.dtype, sha256};
  }
  console.log(JSON.stringify(found));
})();
"""


class Chunked(httpx.AsyncByteStream):
    """A body in chunks of one size, wherever the network cut it."""

    def __init__(self, stream: httpx.AsyncByteStream, size: int) -> None:
        self._stream, self._size = stream, size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        waiting = bytearray()
        async for piece in self._stream:
            waiting += piece
            whole = len(waiting) - len(waiting) % self._size
            for start in range(0, whole, self._size):
                yield bytes(waiting[start : start + self._size])
            del waiting[:whole]
        if waiting:
            yield bytes(waiting)

    async def aclose(self) -> None:
        await self._stream.aclose()


class Chunking(httpx.AsyncHTTPTransport):
    """The network, in chunks of one size; with `gzip` bodies are asked for compressed."""

    def __init__(self, size: int, *, gzip: bool) -> None:
        super().__init__()
        self._size, self._gzip = size, gzip
        self.encoded = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._gzip:
            request.headers["accept-encoding"] = "gzip"
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = Chunked(response.stream, self._size)
        self.encoded += "content-encoding" in response.headers
        return response


def url(request: pytest.FixtureRequest, server: str, name: str, example: CorpusModel) -> str:
    """Return where `server` has the model; skip if the server is not there."""
    return f"{request.getfixturevalue(server)}/{name}/{example.path.name}"


def decoded_bytes(name: str, array: Array, bundle: WeightBundle | None = None) -> bytes:
    """Return the values as the golden digests are made of them."""
    if array.dtype == object:
        return b"".join(len(value).to_bytes(4, "little") + value for value in array.reshape(-1).tolist())
    values = bundle.stored(name) if bundle is not None and array.dtype == bool else array
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def check(found: Mapping[str, Array], example: CorpusModel, bundle: WeightBundle | None = None) -> None:
    golden = {weight["name"]: weight for weight in example.golden["weights"]}
    assert list(found) == list(golden)
    for name, array in found.items():
        assert list(array.shape) == golden[name]["shape"], name
        if bundle is None and array.dtype == bool:
            continue  # the golden digest is of the stored bytes
        assert hashlib.sha256(decoded_bytes(name, array, bundle)).hexdigest() == golden[name]["sha256"], name


@on_every_model
@on_every_server
@on_every_chunk_size
async def test_every_model_is_fetched(request: pytest.FixtureRequest, name: str, server: str, chunk: int) -> None:
    example, events = model(name), list[Any]()
    transport = Chunking(chunk, gzip=server == "nginx_with_gzip")
    async with httpx.AsyncClient(transport=transport) as http:
        with anyio.fail_after(60):
            bundle = await fetch(url(request, server, name, example), http=http, progress=events.append)

    check(bundle, example, bundle)
    assert (transport.encoded > 1) == (server == "nginx_with_gzip")
    state = ProgressState()
    for number, event in enumerate(events):
        state.fold(event, number)
        assert state.total is None or state.done <= state.total
    assert state.total in (None, state.done)


@on_every_model
@on_every_server
@on_every_chunk_size
async def test_every_model_is_streamed(request: pytest.FixtureRequest, name: str, server: str, chunk: int) -> None:
    example = model(name)
    transport = Chunking(chunk, gzip=server == "nginx_with_gzip")
    async with httpx.AsyncClient(transport=transport) as http, Client(http=http) as client:
        with anyio.fail_after(60):
            async with client.stream(url(request, server, name, example)) as weights:
                found = {spec.name: array async for spec, array in weights}

    check(found, example)


@on_every_model
@on_every_server
async def test_every_model_is_fetched_by_a_client_of_ours(
    request: pytest.FixtureRequest, name: str, server: str
) -> None:
    example = model(name)
    with anyio.fail_after(60):
        bundle = await fetch(url(request, server, name, example))

    check(bundle, example, bundle)


@on_every_model
@on_every_server
async def test_the_last_weight_of_every_model_is_chosen(request: pytest.FixtureRequest, name: str, server: str) -> None:
    example = model(name)
    last = example.golden["weights"][-1]
    with anyio.fail_after(60):
        bundle = await fetch(url(request, server, name, example), weights=[last["name"]])

    assert list(bundle) == [last["name"]]
    assert hashlib.sha256(decoded_bytes(last["name"], bundle[last["name"]], bundle)).hexdigest() == last["sha256"]


async def test_curl_downloads_the_same_bytes(nginx: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    name = "derived.cnnexplainer-uint16-3shards"
    example = model(name)
    bundle = await fetch(f"{nginx}/{name}/{example.path.name}")

    def curl(path: str) -> bytes:
        command = ["curl", "--silent", "--show-error", "--fail", f"{nginx}/{name}/{path}"]
        return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout

    paths = [path for group in example.golden["groups"] for path in group["paths"]]
    downloaded = await anyio.to_thread.run_sync(lambda: {path: curl(path) for path in [example.path.name, *paths]})
    same = decode(downloaded.pop(example.path.name), downloaded)

    assert len(downloaded) == 3
    assert same == bundle
    assert all(np.array_equal(same[key], bundle[key]) for key in bundle)


@pytest.mark.parametrize(
    "name", ["derived.cnnexplainer-uint16-3shards", "derived.tfjs-saved-optimizer", "nsfwjs.mobilenet_v2"]
)
async def test_the_real_tfjs_decodes_the_same_values(nginx: str, node_modules: Path, tmp_path: Path, name: str) -> None:
    example = model(name)
    bundle = await fetch(f"{nginx}/{name}/{example.path.name}")
    script = tmp_path / "decode.cjs"
    script.write_text(DECODE_WITH_TFJS)

    def run() -> Any:
        command = ["node", str(script), f"{nginx}/{name}/{example.path.name}"]
        environment = {**os.environ, "NODE_PATH": str(node_modules)}
        return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120, env=environment).stdout)

    expected = await anyio.to_thread.run_sync(run)

    assert set(expected) == set(bundle)
    for weight, array in bundle.items():
        found = {
            "shape": list(array.shape),
            "dtype": bundle.dtypes[weight],
            "sha256": hashlib.sha256(decoded_bytes(weight, array, bundle)).hexdigest(),
        }
        assert found == expected[weight], weight
