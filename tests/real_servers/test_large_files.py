"""One large file from real servers: over several streams where that helps, and only the bytes that are wanted."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import anyio
import numpy as np
import pytest

from tests.real_servers.conftest import StartNginx, free_port, running
from tfjs_fetch import Client, Event, Finished, Retry, Retrying, fetch
from tfjs_fetch.format.dtypes import Array

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

_RATE = 20_000_000
LIMITED = f"limit_rate {_RATE};"


def check(found: Mapping[str, Array], names: list[str] | None = None) -> None:
    assert list(found) == (names or [f"w{index}" for index in range(25)])
    for name, array in found.items():
        assert array.shape == (1_000_000,)
        assert np.all(array == float(name[1:]))


async def test_a_server_that_limits_each_connection_gives_a_large_file_several_times_as_fast(
    start_nginx: StartNginx,
) -> None:
    if (curl := shutil.which("curl")) is None:
        pytest.skip("curl is not installed")
    with start_nginx(LIMITED) as url:
        began = time.monotonic()
        command = [curl, "--silent", "--fail", "--output", os.devnull, f"{url}/w.bin"]
        await anyio.to_thread.run_sync(lambda: subprocess.run(command, check=True))
        one_connection = time.monotonic() - began

        seconds = []
        for _ in range(3):
            began = time.monotonic()
            check(await fetch(f"{url}/model.json"))
            seconds.append(time.monotonic() - began)

    assert one_connection > 4.5
    assert one_connection / sorted(seconds)[1] >= 3.5


@pytest.mark.parametrize("settings", ["max_ranges 0;", "etag off;"])
async def test_a_server_without_ranges_or_etags_gives_it_all_the_same(start_nginx: StartNginx, settings: str) -> None:
    with start_nginx(f"{LIMITED} {settings}") as url:
        check(await fetch(f"{url}/model.json"))


async def test_the_server_of_python_which_has_no_ranges_gives_it_all_the_same(large: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(large)]
    with running(command, port) as url:
        check(await fetch(f"{url}/model.json"))
        check(await fetch(f"{url}/model.json", weights=["w3", "w20"]), ["w3", "w20"])


@pytest.mark.parametrize("settings", ["", LIMITED])
@pytest.mark.parametrize("names", [["w7"], ["w0", "w1", "w2"], ["w2", "w9", "w24"]], ids=" ".join)
async def test_only_the_bytes_of_chosen_weights_travel(
    start_nginx: StartNginx, large: Path, settings: str, names: list[str]
) -> None:
    events: list[Event] = []
    with start_nginx(settings) as server:
        url = f"{server}/model.json"
        async with Client() as client:
            plan = await client.plan(url, weights=names)
            check(await client.fetch(url, weights=names, progress=events.append), names)

    (finished,) = (event for event in events if isinstance(event, Finished))
    assert plan.asked_bytes == len(names) * 4_000_000
    assert finished.received_bytes == plan.asked_bytes + (large / "model.json").stat().st_size


async def test_a_server_that_is_killed_and_comes_again_gives_the_rest(start_nginx: StartNginx, large: Path) -> None:
    events: list[Event] = []
    port = free_port()

    async def get() -> None:
        async with Client(retry=Retry(attempts=20, delay=0.1, max_delay=0.2)) as client:
            check(await client.fetch(f"http://127.0.0.1:{port}/model.json", progress=events.append))

    async with anyio.create_task_group() as tasks:
        with start_nginx(LIMITED, port=port):
            tasks.start_soon(get)
            await anyio.sleep(0.7)
        with start_nginx(LIMITED, port=port):
            while not events or not isinstance(events[-1], Finished):  # noqa: ASYNC110 - it is the other task's
                await anyio.sleep(0.05)

    assert any(isinstance(event, Retrying) for event in events)
    # What had come before did not come again, but for what was on its way.
    (finished,) = (event for event in events if isinstance(event, Finished))
    assert finished.received_bytes < 100_000_000 + (large / "model.json").stat().st_size + 8 * 2**20
