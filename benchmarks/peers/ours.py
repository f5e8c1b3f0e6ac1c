"""tfjs_fetch as it comes."""

from collections.abc import Iterable

import tfjs_fetch
from benchmarks.peers.clock import report
from tfjs_fetch.format.dtypes import Array


async def fetch(url: str) -> Iterable[Array]:
    """Return the arrays of the model at `url`."""
    return (await tfjs_fetch.fetch(url, cache=None)).values()


if __name__ == "__main__":
    report(fetch)
