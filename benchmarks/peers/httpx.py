"""Stock httpx: one client, the raw bytes of each body copied to their place as they come."""

from collections.abc import Iterable

import httpx

from benchmarks.peers.clock import report
from benchmarks.peers.places import fill, places
from tfjs_fetch.format.dtypes import Array


async def fetch(url: str) -> Iterable[Array]:
    """Return the arrays of the model at `url`."""
    async with httpx.AsyncClient() as client:
        model = places((await client.get(url)).content)

        async def receive(path: str, memory: memoryview) -> None:
            async with client.stream("GET", url.replace("model.json", path)) as response:
                response.raise_for_status()
                start = 0
                async for chunk in response.aiter_raw():
                    memory[start : start + len(chunk)] = chunk
                    start += len(chunk)

        await fill(model.files, receive)
    return model.arrays


if __name__ == "__main__":
    report(fetch)
