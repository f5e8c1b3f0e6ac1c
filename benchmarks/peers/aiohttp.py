"""Stock aiohttp: one session, each body copied to its place as it comes."""

from collections.abc import Iterable

import aiohttp

from benchmarks.peers.clock import report
from benchmarks.peers.places import fill, places
from tfjs_fetch.format.dtypes import Array


async def fetch(url: str) -> Iterable[Array]:
    """Return the arrays of the model at `url`."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with session.get(url) as response:
            model = places(await response.read())

        async def receive(path: str, memory: memoryview) -> None:
            async with session.get(url.replace("model.json", path)) as response:
                start = 0
                async for chunk in response.content.iter_any():
                    memory[start : start + len(chunk)] = chunk
                    start += len(chunk)

        await fill(model.files, receive)
    return model.arrays


if __name__ == "__main__":
    report(fetch)
