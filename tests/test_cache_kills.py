"""Downloads that are killed, race and die while the model is republished: what comes next is right, little comes twice.

Real processes on a real server; `TFJS_FETCH_DEPTH=full` kills two hundred times.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
import pytest

from mock_server import MockServer, Throttle
from tests.models import NO_TLS, Model, assert_equal, group, model
from tfjs_fetch import Cache, Client

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

_FULL = os.environ.get("TFJS_FETCH_DEPTH") == "full"
_KILLS = 200 if _FULL else 20
_MEBIBYTE = 2**20

# Fetches one model and says when it begins and when it is done.
_CHILD = """
import sys, anyio, tfjs_fetch
async def main():
    async with tfjs_fetch.Client() as client:
        print("begins", flush=True)
        bundle = await client.fetch(sys.argv[1])
        print(bundle.digest, flush=True)
anyio.run(main)
"""

# Fetches again and again; every bundle must be of one generation, which each value of each weight names.
_RACER = """
import sys, anyio, numpy, fcntl, tfjs_fetch
def lock(*_): raise AssertionError("a lock")
fcntl.flock = fcntl.lockf = lock
async def main():
    while True:
        try:
            async with tfjs_fetch.Client() as client:
                bundle = await client.fetch(sys.argv[1])
        except tfjs_fetch.ModelChangedError:
            print("changed", flush=True)
            continue
        except tfjs_fetch.CacheError as error:
            print("error", error, flush=True)
            continue
        values = {float(value) for array in bundle.values() for value in numpy.unique(array)}
        print("one" if len(values) == 1 else f"mixture {sorted(values)}", flush=True)
anyio.run(main)
"""


def child(program: str, url: str, directory: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, url],
        stdout=subprocess.PIPE,
        env=os.environ | {"TFJS_FETCH_CACHE": str(directory)},
        text=True,
    )


def large() -> Model:
    values = np.random.default_rng(0).random((4, _MEBIBYTE // 2), np.float32)
    cuts = [3 * _MEBIBYTE, 2 * _MEBIBYTE, 3 * _MEBIBYTE]
    return model(group({f"w{index}": row for index, row in enumerate(values)}, cuts))


def killed_after(url: str, directory: Path, seconds: float) -> None:
    """Let a process fetch, and kill it so long after it has begun."""
    with child(_CHILD, url, directory) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()


async def test_what_a_killed_download_wrote_does_not_come_again(tmp_path: Path) -> None:
    example, chance, partly = large(), random.Random(1), 0
    async with MockServer(example.hosted()) as server:
        server.misbehave(None, Throttle(4e6))
        url = f"{server.url}/m/model.json"
        for number in range(_KILLS):
            directory, seen = tmp_path / str(number), len(server.requests)
            # One shard takes about 0.8 seconds.
            await anyio.to_thread.run_sync(killed_after, url, directory, chance.uniform(0, 1.1))
            async with Client(cache=Cache(directory), ssl_context=NO_TLS) as client:
                bundle = await client.fetch(url)

            assert_equal(bundle, example.arrays)
            for path, content in example.shards.items():
                sent = [request for request in server.requests[seen:] if request.path == f"/m/{path}"]
                partly += any(request.status == 206 for request in sent)
                # A whole that was only looked at is hung up on; a little of it may be on its way by then.
                assert sum(request.bytes_sent for request in sent) <= len(content) + _MEBIBYTE
    assert partly > _KILLS / 4


async def test_generations_are_not_mixed_while_processes_race_and_die(tmp_path: Path) -> None:
    versions = [
        model(group({f"w{index}": np.full(8192, number, np.float32) for index in range(4)}, [32768] * 4))
        for number in range(400 if _FULL else 120)
    ]
    said: list[str] = []
    chance = random.Random(2)
    async with MockServer(versions[0].hosted()) as server:
        url = f"{server.url}/m/model.json"

        async def race() -> None:
            while True:
                process = child(_RACER, url, tmp_path)
                try:
                    with anyio.move_on_after(chance.uniform(0.7, 3)):
                        await anyio.sleep_forever()
                finally:
                    process.kill()
                    with anyio.CancelScope(shield=True):
                        out, _ = await anyio.to_thread.run_sync(process.communicate)
                    said.extend(out.splitlines())

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(race)
            for version in versions:
                await anyio.sleep(0.1 if version.arrays["w0"][0] % 20 else 1.5)
                server.files.update(version.hosted())
            tasks.cancel_scope.cancel()

    assert not [line for line in said if line.startswith(("mixture", "error"))]
    assert said.count("one") > 10
