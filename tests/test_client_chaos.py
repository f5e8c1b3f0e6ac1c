"""Random models under random faults: the model comes, or one error of ours; and what is told of it is never wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mock_server import (
    HTML_PAGE,
    Close,
    Cut,
    Drip,
    Fault,
    HangUp,
    IgnoreRange,
    Latency,
    MockServer,
    Reset,
    Status,
    TruncatedGzip,
    WrongLength,
    WrongRange,
)
from tests.models import NO_TLS, Group, Model, assert_equal, cut, f32, model
from tfjs_fetch import Client, Event, Finished, Planned, ProgressState, Retry, ShardProgress, TfjsFetchError

PATIENT = Retry(attempts=4, delay=0.0, max_delay=0.0, stall_seconds=5)

# Whole answers come in the end, whatever happens before; the last ones never let the right bytes through.
PASSING = st.one_of(
    st.builds(Cut, st.integers(0, 60)),
    st.builds(Reset, st.integers(0, 60)),
    st.builds(HangUp, st.booleans()),
    st.builds(Status, st.sampled_from([408, 429, 500, 502, 503, 504])),
    st.builds(Latency, st.sampled_from([0.0, 0.01])),
    st.builds(Close, st.booleans()),
    st.builds(Drip, st.just(0.0), st.integers(0, 60)),
    st.just(IgnoreRange()),
    st.builds(WrongRange, st.integers(-20, 20).filter(bool)),
    st.tuples(st.just(IgnoreRange()), st.builds(Cut, st.integers(0, 60))),
    st.just(()),
)
FINAL = st.one_of(
    st.builds(WrongLength, st.integers(-5, 5).filter(bool)),
    st.just(HTML_PAGE),
    st.builds(TruncatedGzip, st.integers(1, 9)),
    st.builds(Status, st.sampled_from([403, 404, 410, 418])),
)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Models of a few groups whose weights are quantized, so that each is copied when it is whole."""
    groups = []
    for index in range(draw(st.integers(1, 3))):
        counts = draw(st.lists(st.integers(0, 40), min_size=1, max_size=5))
        # What begins like an error document would be taken for one.
        data = draw(st.binary(min_size=sum(counts), max_size=sum(counts))).replace(b"<", b"=")
        cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
        sizes = [stop - start for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        groups.append(_group(f"g{index}", counts, data, sizes))
    return model(*groups)


def _group(name: str, counts: list[int], data: bytes, sizes: list[int]) -> Group:
    specs, arrays, start = [], {}, 0
    quantization = {"dtype": "uint8", "min": 0, "scale": 1}
    for index, count in enumerate(counts):
        specs.append({"name": f"{name}/{index}", "shape": [count], "dtype": "float32", "quantization": quantization})
        arrays[f"{name}/{index}"] = f32(list(data[start : start + count]))
        start += count
    shards = cut(data, sizes, name)
    return Group({"paths": list(shards), "weights": specs}, shards, arrays)


@st.composite
def schedules(draw: st.DrawFn, turns: st.SearchStrategy[Any]) -> list[list[Any]]:
    """What befalls the first few requests to each of the first files."""
    return draw(st.lists(st.lists(turns, max_size=3), max_size=8))


async def loaded(
    example: Model,
    hosting: Mapping[str, Any],
    faults: list[list[Fault]],
    events: list[Event],
    *,
    streams: bool,
    weights: Sequence[str] | None = None,
    swap: tuple[Model, int] | None = None,
) -> dict[str, Any]:
    async with (
        MockServer(example.hosted(**hosting)) as server,
        Client(retry=PATIENT, ssl_context=NO_TLS) as client,
    ):
        for name, turns in zip(example.files, faults, strict=False):
            server.misbehave_in_turn(f"/m/{name}", *turns)
        if swap is not None:
            server.swap_after(swap[0].hosted(**(dict(hosting) | NEWER)), requests=swap[1])
        url, more = f"{server.url}/m/model.json", dict[str, Any](weights=weights, progress=events.append)
        with anyio.fail_after(20):
            if not streams:
                return dict(await client.fetch(url, **more))
            async with client.stream(url, **more) as stream:
                return {spec.name: array async for spec, array in stream}


def check_progress(events: list[Event], total: int) -> None:
    """Check that a listener is right at any time, also one that misses events."""
    state, sparse, received = ProgressState(), ProgressState(), dict[int, int]()
    for number, event in enumerate(events):
        state.fold(event, number / 100)
        if number % 3 == 0 or isinstance(event, Planned | Finished):
            sparse.fold(event, number / 100)
        assert 0 <= sparse.done <= total
        assert 0 <= state.done <= total
        if isinstance(event, ShardProgress):
            received[event.index] = event.received
            assert event.size is None or event.received <= event.size
    if events and isinstance(events[-1], Finished):
        assert (state.done, sparse.done) == (total, total)
        assert sum(received.values()) == total


quickly = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
# How the files are served: with a strong name for the version, a weak one, or none.
NEWER: dict[str, Any] = {"last_modified": datetime(2024, 6, 1, tzinfo=UTC)}
NAMES: list[dict[str, Any]] = [{}, {"etag": None}, {"etag": 'W/"1"'}, {"etag": None, "last_modified": None}]
hostings = st.builds(
    lambda framing, gzip, names: {"framing": framing, "gzip": gzip, **names},
    st.sampled_from(["length", "chunked"]),
    st.sampled_from(["never", "always"]),
    st.sampled_from(NAMES),
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("streams", [False, True], ids=["fetch", "stream"])
@quickly
@given(models(), hostings, schedules(PASSING))
def test_passing_faults_never_change_a_model(
    backend: str, streams: bool, example: Model, hosting: Mapping[str, Any], faults: list[list[Fault]]
) -> None:
    events: list[Event] = []

    async def main() -> dict[str, Any]:
        return await loaded(example, hosting, faults, events, streams=streams)

    assert_equal(anyio.run(main, backend=backend), example.arrays)
    check_progress(events, sum(array.size for array in example.arrays.values()))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("streams", [False, True], ids=["fetch", "stream"])
@quickly
@given(models(), hostings, schedules(PASSING), st.data())
def test_passing_faults_never_change_chosen_weights(
    backend: str,
    streams: bool,
    example: Model,
    hosting: Mapping[str, Any],
    faults: list[list[Fault]],
    data: st.DataObject,
) -> None:
    wanted = data.draw(st.sets(st.sampled_from(sorted(example.arrays)), min_size=1))

    async def main() -> dict[str, Any]:
        return await loaded(example, hosting, faults, [], streams=streams, weights=sorted(wanted))

    # Gaps are not brought along, however small.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfjs_fetch.assembly.GAP_BYTES", 0)
        found = anyio.run(main, backend=backend)
    assert_equal(found, {name: array for name, array in example.arrays.items() if name in wanted})


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("streams", [False, True], ids=["fetch", "stream"])
@quickly
@given(models(), hostings, schedules(st.one_of(FINAL, PASSING)))
def test_the_model_comes_or_one_error_of_ours(
    backend: str, streams: bool, example: Model, hosting: Mapping[str, Any], faults: list[list[Fault]]
) -> None:
    events: list[Event] = []

    async def main() -> dict[str, Any]:
        return await loaded(example, hosting, faults, events, streams=streams)

    try:
        found = anyio.run(main, backend=backend)
    except TfjsFetchError:
        return
    assert_equal(found, example.arrays)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("streams", [False, True], ids=["fetch", "stream"])
@quickly
@given(models(), hostings, schedules(PASSING), st.integers(1, 8))
def test_no_file_is_ever_a_mixture_of_two_versions(
    backend: str, streams: bool, example: Model, hosting: Mapping[str, Any], faults: list[list[Fault]], requests: int
) -> None:
    newer = replace(example, shards={path: bytes(255 - byte for byte in data) for path, data in example.shards.items()})

    async def main() -> dict[str, Any]:
        return await loaded(example, hosting, faults, [], streams=streams, swap=(newer, requests))

    try:
        found = anyio.run(main, backend=backend)
    except TfjsFetchError:
        return
    # Which files are whose cannot be known from the outside, but the bytes of one file are all of one version.
    for entry in example.document["weightsManifest"]:
        _check_unmixed(entry, example, found)


def _check_unmixed(entry: Mapping[str, Any], example: Model, found: Mapping[str, Any]) -> None:
    old = np.concatenate([example.arrays[spec["name"]] for spec in entry["weights"]] or [np.empty(0)])
    new = np.concatenate([found[spec["name"]] for spec in entry["weights"]] or [np.empty(0)])
    start = 0
    for path in entry["paths"]:
        size = len(example.shards[path])
        old_part, new_part = old[start : start + size], new[start : start + size]
        assert np.array_equal(new_part, old_part) or np.array_equal(new_part, 255 - old_part)
        start += size
