import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import Process

from mock_server.__main__ import main

pytestmark = pytest.mark.anyio


async def address(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.receive()).decode().strip()


async def test_a_directory_is_served_until_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "w0").write_bytes(b"0123")
    command = [sys.executable, "-W", "error", "-X", "dev", "-m", "mock_server", str(tmp_path), "--gzip", "always"]

    with anyio.fail_after(20):
        async with await anyio.open_process(command) as process, httpx.AsyncClient() as client:
            url = await address(process)
            served = await client.get(f"{url}/w0")
            process.send_signal(signal.SIGINT)
            code = await process.wait()
            assert process.stderr is not None
            said = [line async for line in process.stderr]

    assert (served.content, served.headers["content-encoding"]) == (b"0123", "gzip")
    assert (code, said) == (0, [])


async def test_options_are_faults(tmp_path: Path) -> None:
    (tmp_path / "w0").write_bytes(b"0123")
    command = [sys.executable, "-m", "mock_server", str(tmp_path), "--cut", "2", "--ignore-range", "--times", "1"]

    with anyio.fail_after(20):
        async with await anyio.open_process(command) as process, httpx.AsyncClient() as client:
            url = await address(process)
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(f"{url}/w0")
            whole = await client.get(f"{url}/w0", headers={"range": "bytes=1-2"})
            process.terminate()

    assert (whole.status_code, whole.content) == (206, b"12")


def test_a_directory_that_is_none_is_misuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "is not a directory" in capsys.readouterr().err


def test_a_port_in_use_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code = main([str(tmp_path), "--port", str(taken.getsockname()[1])])

    assert code == 1
    assert "cannot listen on port" in capsys.readouterr().err


def test_help_is_given() -> None:
    shown = subprocess.run([sys.executable, "-m", "mock_server", "-h"], capture_output=True, text=True, check=True)

    assert "--throttle BYTES_PER_S" in shown.stdout
