import threading
from typing import Any

import anyio
import numpy as np
import pytest

from tests.format.groups import layout_of, spec
from tests.memory_transport import MemoryTransport, Reply
from tests.models import Model, assert_equal, floats, group, model
from tfjs_fetch.config import Limits, Policy, Retry
from tfjs_fetch.download import Downloader
from tfjs_fetch.errors import StatusError
from tfjs_fetch.events import Event, WeightReady
from tfjs_fetch.format.manifest import parse
from tfjs_fetch.loading import Job, decoded, load, stream
from tfjs_fetch.origins import Origins
from tfjs_fetch.pieces import Piece
from tfjs_fetch.planning import draw
from tfjs_fetch.requesting import Requester
from tfjs_fetch.strings import Allowance
from tfjs_fetch.tasks import task_group

pytestmark = pytest.mark.anyio

HOST = "http://h.example/"


def job(example: Model, events: list[Event], replies: dict[str, Reply] | None = None, names: Any = None) -> Job:
    """Return the load of `example` from memory."""
    transport = MemoryTransport({HOST + path: Reply(data) for path, data in example.shards.items()} | (replies or {}))
    home = ("http", "h.example", 80)
    requester = Requester(transport, Origins(Limits()), Policy(), home)
    downloader = Downloader(requester, Retry(attempts=1), "m", events.append)
    blueprint = draw(parse(example.files["model.json"]), names, Policy())
    urls = [[HOST + path for path in layout.paths] for layout in blueprint.layouts]
    return Job(blueprint, urls, [None] * len(urls), downloader, Allowance(1000))


def example() -> Model:
    return model(group({"a": floats(3), "b": floats(10)}, [30, 22], name="x"), group({"c": floats(2)}, name="y"))


async def test_a_load_gives_stored_bytes_and_arrays() -> None:
    events = list[Event]()
    with anyio.fail_after(1):
        loaded = await load(job(example(), events))

    assert_equal({name: loaded.arrays[name] for name in "abc"}, example().arrays)
    assert bytes(loaded.stored["c"]) == floats(2).tobytes()
    assert [(event.done, event.total) for event in events if isinstance(event, WeightReady)] == [(1, 3), (2, 3), (3, 3)]


async def test_arrays_that_need_no_conversion_are_views_of_the_memory_they_arrived_in() -> None:
    loaded = await load(job(example(), []))

    assert np.shares_memory(loaded.arrays["a"], np.frombuffer(loaded.stored["a"], np.uint8))
    assert not loaded.arrays["a"].flags.writeable


async def test_the_first_failure_of_a_load_comes_out_alone() -> None:
    replies = {f"{HOST}x1": Reply(status=404), f"{HOST}y0": Reply(status=403)}
    with anyio.fail_after(1), pytest.raises(StatusError) as caught:
        await load(job(example(), [], replies))

    assert caught.value.status in (403, 404)


async def test_hazard_3_a_stream_gives_the_weights_in_order() -> None:
    with anyio.fail_after(1):
        async with stream(job(example(), [])) as weights:
            found = {given.name: array async for given, array in weights}

    assert_equal(found, example().arrays)


async def test_large_conversions_leave_the_event_loop_alone() -> None:
    seen: list[int] = []

    class Watched(Piece):
        @property
        def decoder(self) -> Any:
            seen.append(threading.get_ident())
            return super().decoder

    quantized = spec("q", [100_000], quantization={"dtype": "uint8", "min": 0, "scale": 1})
    for described in (quantized, spec("f", [100_000])):
        layout = layout_of(described)
        piece = Watched(layout, 0)
        piece.memory[:] = bytes(len(piece.memory))
        seen.clear()
        await decoded([(piece, layout.weights[0])], job(example(), []))
        # One that is only a view is not worth the way.
        assert (threading.get_ident() in seen) == (described["name"] == "f")


class Trouble(Exception):  # noqa: N818 - no error of anybody, only something to raise
    """What a task raises."""


async def fail(error: BaseException) -> None:
    raise error


async def test_one_failure_of_a_group_of_tasks_comes_out_plain() -> None:
    trouble = Trouble()
    with anyio.fail_after(1), pytest.raises(Trouble) as caught:  # noqa: PT012 - it comes out of the group
        async with task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            tasks.start_soon(fail, trouble)
            await anyio.sleep_forever()

    assert caught.value is trouble
    assert trouble.__cause__ is None
    assert not isinstance(trouble.__context__, BaseExceptionGroup)


async def test_of_several_failures_one_comes_out() -> None:
    with anyio.fail_after(1), pytest.raises(Trouble):  # noqa: PT012 - it comes out of the group
        async with task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(fail, Trouble())


async def test_the_cause_of_a_failure_is_kept() -> None:
    trouble, cause = Trouble(), ValueError()
    trouble.__cause__ = cause
    with pytest.raises(Trouble) as caught:
        async with task_group() as tasks:
            tasks.start_soon(fail, trouble)

    assert caught.value.__cause__ is cause


async def test_a_group_of_tasks_that_is_cancelled_is_no_failure() -> None:
    with anyio.move_on_after(0.01) as scope:
        async with task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)

    assert scope.cancelled_caught
