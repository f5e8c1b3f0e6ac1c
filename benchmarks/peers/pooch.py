"""Stock pooch: each file to disk by its HTTP downloader, eight at a time in threads, with its checksum."""

import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import anyio.to_thread
import numpy as np
import pooch

from benchmarks.peers.clock import report
from benchmarks.peers.places import places
from tfjs_fetch.format.dtypes import Array


def _fetch(url: str) -> Iterable[Array]:
    with urlopen(url) as answer:
        paths = [name for name, _ in places(answer.read()).files]

    def retrieve(path: str) -> Path:
        return Path(pooch.retrieve(url.replace("model.json", path), None, fname=path, path=_directory))

    with ThreadPoolExecutor(8) as threads:
        files = list(threads.map(retrieve, paths))
    return (np.memmap(file, np.uint8, "r") for file in files)


async def fetch(url: str) -> Iterable[Array]:
    """Return the files of the model at `url`, mapped."""
    return await anyio.to_thread.run_sync(_fetch, url)


if __name__ == "__main__":
    pooch.get_logger().setLevel("ERROR")
    with tempfile.TemporaryDirectory() as _directory:
        report(fetch)
