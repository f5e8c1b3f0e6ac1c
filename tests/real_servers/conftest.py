"""Real servers that serve the corpus: nginx, with and without gzip, and Python's own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from tests.corpus import directory

_NGINX = """
daemon off;
master_process off;
pid {work}/nginx.pid;
error_log {work}/error.log warn;
events {{}}
http {{
  access_log off;
  client_body_temp_path {work}/body;
  proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi;
  scgi_temp_path {work}/scgi;
  default_type application/octet-stream;
  gzip_types *;
  gzip_min_length 1;
  {settings}
  server {{
    listen 127.0.0.1:{port};
    root {root};
  }}
}}
"""
_SECONDS_TO_START = 10


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The directory of the corpus; the test is skipped without it."""
    if not directory().is_dir():
        pytest.skip(f"there is no corpus at {directory()}, see TFJS_FETCH_CORPUS")
    return directory().resolve()


@pytest.fixture(scope="session")
def nginx(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of nginx as it comes."""
    with _nginx(corpus, tmp_path_factory.mktemp("nginx")) as url:
        yield url


@pytest.fixture(scope="session")
def nginx_with_gzip(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of nginx that compresses what it sends, for clients that accept it."""
    with _nginx(corpus, tmp_path_factory.mktemp("nginx"), "gzip on;") as url:
        yield url


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model of 25 weights of 4 MB each in one file, each filled with its own number."""
    place = tmp_path_factory.mktemp("large")
    weights = [{"name": f"w{index}", "shape": [1_000_000], "dtype": "float32"} for index in range(25)]
    (place / "model.json").write_text(json.dumps([{"paths": ["w.bin"], "weights": weights}]))
    with (place / "w.bin").open("wb") as file:
        for index in range(25):
            file.write(np.full(1_000_000, index, np.float32).tobytes())
    return place


StartNginx: TypeAlias = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def start_nginx(large: Path, tmp_path: Path) -> StartNginx:
    """Start nginx with these settings to serve `large`, at a given port or a free one; it gives its URL."""
    return partial(_nginx, large, tmp_path)


@pytest.fixture(scope="session")
def http_server(corpus: Path) -> Iterator[str]:
    """The URL of `python -m http.server`."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(corpus)]
    with running(command, port) as url:
        yield url


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node_modules with the real TF.js: the one that TFJS_FETCH_NODE_MODULES names, else a new one."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if given := os.environ.get("TFJS_FETCH_NODE_MODULES"):
        return Path(given)
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, and TFJS_FETCH_NODE_MODULES names no node_modules")
    place = tmp_path_factory.mktemp("node")
    (place / "package.json").write_text('{"private": true, "dependencies": {"@tensorflow/tfjs": "4.22.0"}}')
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    if subprocess.run(command, cwd=place, capture_output=True, timeout=300, check=False).returncode:
        pytest.skip("npm could not install @tensorflow/tfjs 4.22.0")
    return place / "node_modules"


@contextmanager
def _nginx(root: Path, work: Path, settings: str = "", port: int | None = None) -> Iterator[str]:
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    port = port or free_port()
    (work / "nginx.conf").write_text(_NGINX.format(work=work, root=root, port=port, settings=settings))
    with running(
        [program, "-p", str(work), "-c", str(work / "nginx.conf"), "-e", str(work / "start.log")], port
    ) as url:
        yield url


@contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _wait_for(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not answer")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
