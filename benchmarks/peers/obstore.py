"""Stock obstore: its HTTP store, each body copied to its place when it is there.

Its streams were up to a tenth faster, but with them the interpreter now and then aborts at its end (obstore 0.12).
"""

from collections.abc import Iterable

from obstore.store import HTTPStore

from benchmarks.peers.clock import report
from benchmarks.peers.places import fill, places
from tfjs_fetch.format.dtypes import Array


async def fetch(url: str) -> Iterable[Array]:
    """Return the arrays of the model at `url`."""
    store = HTTPStore.from_url(url.removesuffix("model.json"), client_options={"allow_http": True})
    document = await (await store.get_async("model.json")).bytes_async()
    model = places(bytes(document))

    async def receive(path: str, memory: memoryview) -> None:
        memory[:] = await (await store.get_async(path)).bytes_async()

    await fill(model.files, receive)
    return model.arrays


if __name__ == "__main__":
    report(fetch)
