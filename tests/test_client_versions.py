"""Files that are replaced while they are loaded: what comes is one version of all of them, or an error."""

from collections.abc import Sequence
from typing import Any

import anyio
import numpy as np
import pytest

from mock_server import Cut, MockServer
from tests.models import NO_TLS, QUICK, Model, group, model
from tfjs_fetch import Cache, Client, ModelChangedError

pytestmark = pytest.mark.anyio

_COUNT = 2**16
_BYTES = 4 * _COUNT


def large(*changed: float) -> Model:
    """Return a model of one file, other values at these shares of it."""
    values = np.random.default_rng(0).random(_COUNT, np.float32)
    for share in changed:
        values[int(share * _COUNT)] = 7
    return model(group({f"w{index}": part for index, part in enumerate(np.split(values, 8))}))


def cut(share: float) -> Cut:
    return Cut(int(share * _BYTES))


async def take(client: Client, server: MockServer, taken: dict[str, Any], weights: Sequence[str] | None = None) -> None:
    """Put the weights of a stream into `taken`."""
    with anyio.fail_after(10):
        async with client.stream(f"{server.url}/m/model.json", weights=weights) as stream:
            async for spec, array in stream:
                taken[spec.name] = array


@pytest.mark.parametrize("cache", [None, Cache()], ids=["memory", "cache"])
async def test_a_new_version_that_breaks_before_it_differs_is_not_put_behind_the_old_one(cache: Cache | None) -> None:
    old, new = large(), large(0.45, 0.8)
    async with MockServer(old.hosted()) as server, Client(cache=cache, retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave_in_turn("/m/w0", cut(0.6), cut(0.3))
        server.swap_after(new.hosted(), requests=2)
        with anyio.fail_after(10):
            bundle = await client.fetch(f"{server.url}/m/model.json")

    assert all(np.array_equal(bundle[name], values) for name, values in new.arrays.items())


async def test_a_stream_has_no_new_version_behind_the_old_one() -> None:
    old, new, taken = large(), large(0.45, 0.8), dict[str, Any]()
    async with MockServer(old.hosted()) as server, Client(cache=None, retry=QUICK, ssl_context=NO_TLS) as client:
        server.misbehave_in_turn("/m/w0", cut(0.6), cut(0.3))
        server.swap_after(new.hosted(), requests=2)
        with pytest.raises(ModelChangedError):
            await take(client, server, taken)

    assert all(np.array_equal(array, old.arrays[name]) for name, array in taken.items())


async def test_chosen_weights_of_no_known_version_are_not_mixed_once_some_are_handed_out() -> None:
    old, new = large(), large(0.3, 0.7)
    nameless: dict[str, Any] = {"etag": None, "last_modified": None}
    names = [f"w{index}" for index in range(2, 7)]
    async with (
        MockServer(old.hosted(**nameless)) as server,
        Client(cache=None, retry=QUICK, ssl_context=NO_TLS) as client,
    ):
        server.misbehave_in_turn("/m/w0", cut(0.45))
        server.swap_after(new.hosted(**nameless), path="/m/w0")
        taken = dict[str, Any]()
        with anyio.fail_after(10):
            try:
                async with client.stream(f"{server.url}/m/model.json", weights=names) as weights:
                    async for spec, array in weights:
                        taken[spec.name] = array
            except ModelChangedError:
                pass

    versions = [one for one in (old, new) if all(np.array_equal(a, one.arrays[name]) for name, a in taken.items())]
    assert versions
