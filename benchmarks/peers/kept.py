"""tfjs_fetch into an empty cache of its own: hashed, written, on the disk and mapped."""

import tempfile
from collections.abc import Iterable

import tfjs_fetch
from benchmarks.peers.clock import report
from tfjs_fetch.format.dtypes import Array


async def fetch(url: str) -> Iterable[Array]:
    """Return the arrays of the model at `url`."""
    return (await tfjs_fetch.fetch(url, cache=tfjs_fetch.Cache(_directory))).values()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as _directory:
        report(fetch)
