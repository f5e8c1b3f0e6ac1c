"""Models on disk, and nginx to serve them on loopback, over HTTP and HTTPS."""

import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trustme

from benchmarks.hosting import Synthetic

_CONFIGURATION = """
daemon off;
master_process off;
pid {work}/nginx.pid;
error_log {work}/error.log warn;
events {{}}
http {{
  access_log off;
  sendfile on;
  keepalive_requests 1000000;
  client_body_temp_path {work}/body;
  proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi;
  scgi_temp_path {work}/scgi;
  default_type application/octet-stream;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_certificate {work}/certificate.pem;
  ssl_certificate_key {work}/certificate.pem;
  server {{
    listen 127.0.0.1:{http};
    listen 127.0.0.1:{https} ssl;
    root {work}/models;
    location /slow/ {{
      alias {work}/models/;
      limit_rate {slow};
    }}
  }}
}}
"""
_SECONDS_TO_START = 10.0
# What each connection gets at most where the server is a slow one, in bytes per second.
SLOW_RATE = 20_000_000


@dataclass(frozen=True, slots=True)
class Server:
    """Where the models are; `authority` is the file of the certificate that vouches for `https`."""

    http: str
    https: str
    authority: Path
    digests: Mapping[str, str]


@contextmanager
def served(models: Iterable[Synthetic]) -> Iterator[Server]:
    """Serve `models` meanwhile; `ORIGIN/NAME/model.json` is a model, `digests[NAME]` the SHA-256 of all its bytes.

    `ORIGIN/slow/NAME/model.json` is the same one with no more than `SLOW_RATE` for a connection.
    """
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        digests = {model.name: _write(model, work / "models" / model.name) for model in models}
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(work / "authority.pem"))
        authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            str(work / "certificate.pem")
        )
        http, https = _free_port(), _free_port()
        (work / "nginx.conf").write_text(_CONFIGURATION.format(work=work, http=http, https=https, slow=SLOW_RATE))
        with _running(work, https):
            yield Server(f"http://127.0.0.1:{http}", f"https://127.0.0.1:{https}", work / "authority.pem", digests)


def program() -> str | None:
    """Return where nginx is, None if it is not installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")


def _write(model: Synthetic, directory: Path) -> str:
    directory.mkdir(parents=True)
    (directory / "model.json").write_bytes(b'{"weightsManifest": %b}' % model.document)
    numbers, digest = np.random.default_rng(0), hashlib.sha256()
    for path, size in zip(model.paths, model.shards, strict=True):
        data = numbers.bytes(size)
        digest.update(data)
        (directory / path).write_bytes(data)
    return digest.hexdigest()


@contextmanager
def _running(work: Path, port: int) -> Iterator[None]:
    command = [str(program()), "-p", str(work), "-c", str(work / "nginx.conf"), "-e", str(work / "start.log")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(process, port)
            yield
        finally:
            process.terminate()


def _wait_for(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError("nginx does not answer")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
