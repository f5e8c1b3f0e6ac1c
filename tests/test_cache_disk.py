"""Disks that are full, slow or odd: a clear error, what was there before still serves, and the loop stays free."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from mock_server import Latency, MockServer, Status
from tests.models import NO_TLS, QUICK, assert_equal, floats, group, many, model
from tfjs_fetch import Cache, CacheError, Client, StatusError
from tfjs_fetch.cache.folder import Folder

pytestmark = pytest.mark.anyio

_LIMITED = """
import resource, signal, sys, tfjs_fetch
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    tfjs_fetch.fetch_sync(sys.argv[1])
except tfjs_fetch.CacheError as error:
    print(error.needed, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits are those of POSIX")
async def test_a_limit_to_the_size_of_files_is_a_full_disk(cache_directory: Path) -> None:
    old, new = many(4), model(group({"w": floats(100_000)}))
    async with MockServer(old.hosted()) as server:
        url = f"{server.url}/m/model.json"
        async with Client(ssl_context=NO_TLS) as client:
            await client.fetch(url)
        server.files.clear()
        server.files.update(new.hosted())
        limited = await anyio.to_thread.run_sync(
            lambda: subprocess.run([sys.executable, "-c", _LIMITED, url], capture_output=True, text=True, timeout=60)
        )
        async with Client(cache=Cache(mode="offline"), ssl_context=NO_TLS) as client:
            kept = await client.fetch(url)
        async with Client(ssl_context=NO_TLS) as client:
            assert_equal(await client.fetch(url), new.arrays)

    assert limited.stdout.startswith("400000 "), limited.stderr
    assert_equal(kept, old.arrays)


async def test_a_disk_that_fails_while_bytes_arrive_is_an_error_and_what_came_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example, write, count = model(group({"w": floats(500_000)})), os.pwrite, 0

    def failing(descriptor: int, data: bytes, position: int) -> int:
        nonlocal count
        count += 1
        if count > 3:
            raise OSError(28, "No space left on device")
        return write(descriptor, data, position)

    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        url = f"{server.url}/m/model.json"
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", failing)
            with pytest.raises(CacheError) as caught, anyio.fail_after(5):
                await client.fetch(url)
        seen = len(server.requests)
        assert_equal(await client.fetch(url), example.arrays)

        assert any(request.status == 206 for request in server.requests[seen:])
    assert caught.value.needed == 2_000_000


async def test_a_journal_that_cannot_be_written_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    example, write = model(group({"w": floats(500_000)}, [1_000_000, 1_000_000])), os.write

    def failing(descriptor: int, data: bytes) -> int:
        if data.startswith(b'["shard"'):
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        url = f"{server.url}/m/model.json"
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", failing)
            with pytest.raises(CacheError), anyio.fail_after(5):
                await client.fetch(url)
        assert_equal(await client.fetch(url), example.arrays)


async def test_downloads_that_fail_do_not_fill_the_disk(cache_directory: Path) -> None:
    example = model(group({"w": floats(500_000)}, [1_000_000, 1_000_000]))
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave("/m/w1", Latency(0.1), Status(404))
        for _ in range(4):
            with pytest.raises(StatusError):
                await client.fetch(f"{server.url}/m/model.json")
        left = [path for path in cache_directory.rglob("partial-*") if path.is_dir()]
        assert len(left) == 1
        server.behave("/m/w1")

        seen = len(server.requests)
        assert_equal(await client.fetch(f"{server.url}/m/model.json"), example.arrays)
        assert [r.status for r in server.requests[seen:] if r.path == "/m/w0"] == [304, 304]
    assert not [path for path in cache_directory.rglob("partial-*") if path.is_dir()]


async def test_a_slow_disk_does_not_hold_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    example, lags = model(group({"w": floats(1_000_000)})), list[float]()

    def slowed(name: str) -> None:
        quick = getattr(os, name)

        def slow(*arguments: object) -> object:
            time.sleep(0.05)
            return quick(*arguments)

        monkeypatch.setattr(os, name, slow)

    async def tick() -> None:
        while True:
            began = time.perf_counter()
            await anyio.sleep(0.001)
            lags.append(time.perf_counter() - began - 0.001)

    for name in ("pwrite", "write", "fdatasync", "fsync", "posix_fallocate", "truncate", "read", "fstat"):
        slowed(name)
    async with (
        MockServer(example.hosted()) as server,
        Client(retry=QUICK, ssl_context=NO_TLS) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(tick)
        for _ in range(2):
            assert_equal(await client.fetch(f"{server.url}/m/model.json"), example.arrays)
        tasks.cancel_scope.cancel()

    assert len(lags) > 100
    assert sorted(lags)[int(len(lags) * 0.99)] < 0.02


async def test_a_file_system_without_reservation_does_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown, raising=False)
    async with MockServer(many(3).hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        for _ in range(2):
            assert_equal(await client.fetch(f"{server.url}/m/model.json"), many(3).arrays)


async def test_a_thousand_openings_leave_nothing_open(cache_directory: Path) -> None:
    example = model(group({f"w{index}": floats(1000) for index in range(10)}))
    async with MockServer(example.hosted()) as server:
        url = f"{server.url}/m/model.json"
        async with Client(cache=Cache(mode="trust"), ssl_context=NO_TLS) as client:
            await client.fetch(url)
            before = _open_things(cache_directory)
            for _ in range(1000):
                bundle = await client.fetch(url)
                assert bundle["w3"][999] == 999
            del bundle
            after = _open_things(cache_directory)

    assert after <= before


def _open_things(directory: Path) -> int:
    """Return how many descriptors there are, and maps of files in `directory`."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux lists them")
    gc.collect()
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(directory) in line]
    return len(list(Path("/proc/self/fd").iterdir())) + len(maps)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root becomes somebody else")
async def test_where_the_home_is_not_ones_own_nothing_is_kept_and_all_the_same_fetched(tmp_path: Path) -> None:
    program = (
        "import os, sys, tfjs_fetch\n"
        "tfjs_fetch.fetch_sync(sys.argv[1], cache=None)\n"  # so that Python has all that it may not read any more
        "os.setgid(65534); os.setuid(65534)\n"
        "print(tfjs_fetch.fetch_sync(sys.argv[1], progress=lambda event: print(type(event).__name__)).nbytes)\n"
    )
    (tmp_path / "home").mkdir(mode=0o700)
    environment = {**os.environ, "TFJS_FETCH_CACHE": str(tmp_path / "home" / "cache" / "below")}
    async with MockServer(many(3).hosted()) as server:
        ran = await anyio.to_thread.run_sync(
            lambda: subprocess.run(
                [sys.executable, "-c", program, f"{server.url}/m/model.json"],
                capture_output=True,
                text=True,
                timeout=60,
                env=environment,
                cwd="/",
            )
        )

    assert ran.stdout.splitlines()[-1:] == ["48"], ran.stderr
    assert "Warned" in ran.stdout


def test_what_cannot_be_written_at_all_is_a_cache_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(CacheError):
        Folder(tmp_path / "file" / "cache").prepare()


async def test_a_model_of_very_many_groups_needs_few_descriptors() -> None:
    groups = [group({f"w{index}": floats(4, index)}, name=f"g{index}-") for index in range(1200)]
    example, before = model(*groups), _open_things(Path("/nowhere"))
    async with MockServer(example.hosted()) as server, Client(retry=QUICK, ssl_context=NO_TLS) as client:
        for _ in range(2):
            bundle = await client.fetch(f"{server.url}/m/model.json")
            assert_equal(bundle, example.arrays)

        assert _open_things(Path("/nowhere")) < before + 200
