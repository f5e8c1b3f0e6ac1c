"""`tfjs-fetch demo`: a small model that comes with the package, served on loopback slowly enough to watch."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import anyio
import click

from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.cli.get import print_bundle
from tfjs_fetch.cli.options import progress_option, shown
from tfjs_fetch.cli.output import say
from tfjs_fetch.client import Client
from tfjs_fetch.events import OnEvent

# Bytes sent at a time: small enough that the bars move smoothly.
_PIECE = 256


@click.command()
@click.option(
    "--seconds",
    default=4.0,
    show_default=True,
    metavar="SECONDS",
    type=click.FloatRange(0, 60),
    help="About how long it takes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@progress_option
def demo(seconds: float, as_json: bool, progress: str) -> None:
    """Fetch a small model from this machine, to see how that looks."""
    talk = progress == "bar"
    with _served(files("tfjs_fetch") / "demo_model", seconds) as url, _without_proxy():
        if talk:
            say(f"Fetching {url}, which this command serves itself")
        with shown(progress) as show:
            bundle = anyio.run(_fetched, url, show)
    print_bundle(bundle, as_json=as_json, talk=talk)
    if talk:
        say("Now one of yours: tfjs-fetch get https://…/model.json")


async def _fetched(url: str, show: OnEvent) -> WeightBundle:
    async with Client(cache=None) as client:
        return await client.fetch(url, progress=show)


@contextmanager
def _served(folder: Traversable, seconds: float) -> Iterator[str]:
    """Serve the files of `folder` and give the URL of its model.json; the slowest of them takes `seconds`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, folder, seconds))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/model.json"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _without_proxy() -> Iterator[None]:
    """Keep requests to this machine from proxies that the environment names: they do not know it."""
    before = os.environ.get("no_proxy")
    known = os.environ.get("NO_PROXY", "") if before is None else before
    os.environ["no_proxy"] = f"{known},127.0.0.1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Traversable, seconds: float, *args: Any) -> None:  # the rest is socketserver's business
        self._folder, self._seconds = folder, seconds
        super().__init__(*args)

    def do_GET(self) -> None:
        """Send one of the files, by its bare name."""
        name = self.path.lstrip("/").split("?")[0]
        known = {file.name: file for file in self._folder.iterdir()}
        if name not in known:
            self.send_error(404)
            return
        content = known[name].read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self._send_slowly(content, 0.0 if name.endswith(".json") else self._seconds * _share(name))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Keep quiet: the bars are on the same terminal."""

    def _send_slowly(self, content: bytes, seconds: float) -> None:
        pause = seconds * _PIECE / max(len(content), 1)
        for start in range(0, len(content), _PIECE):
            time.sleep(pause)
            self.wfile.write(content[start : start + _PIECE])


def _share(name: str) -> float:
    """Return which part of the whole time a shard takes: they should not all end at the same moment."""
    digits = [int(letter) for letter in name if letter.isdigit()]
    return 0.4 + 0.6 * (sum(digits) * 7 % 10) / 9
