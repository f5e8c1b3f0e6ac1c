"""What is known of an origin: who may transfer, and when it may be asked."""

from collections.abc import Sequence

import anyio
import pytest

from tfjs_fetch.config import Limits
from tfjs_fetch.origins import Origins

pytestmark = pytest.mark.anyio


# Slots


async def transfer(slots: Origins, url: str, running: dict[str, anyio.Event]) -> None:
    slot = slots.slot(url)
    await slot.acquire()
    running[url] = anyio.Event()
    try:
        await running[url].wait()
    finally:
        slot.release()


async def order(slots: Origins, urls: Sequence[str]) -> list[list[str]]:
    """Start a transfer for each URL and end the oldest again and again; return which were running in between."""
    running: dict[str, anyio.Event] = {}
    seen: list[list[str]] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for url in urls:
                tasks.start_soon(transfer, slots, url, running)
                await anyio.wait_all_tasks_blocked()
            while running:
                seen.append([url.removeprefix("http://") for url in running])
                running.pop(next(iter(running))).set()
                await anyio.wait_all_tasks_blocked()
    return seen


async def test_so_many_transfers_run_side_by_side_as_an_origin_may_have_in_the_order_they_came() -> None:
    urls = [f"http://h/{index}" for index in range(5)]

    assert await order(Origins(Limits(per_origin=2)), urls) == [
        ["h/0", "h/1"],
        ["h/1", "h/2"],
        ["h/2", "h/3"],
        ["h/3", "h/4"],
        ["h/4"],
    ]


async def test_origins_do_not_wait_for_each_other_but_for_the_total() -> None:
    urls = ["http://a/0", "http://a/1", "http://b/0", "http://a:81/0", "http://c/0"]

    assert await order(Origins(Limits(per_origin=1, connections=3)), urls) == [
        ["a/0", "b/0", "a:81/0"],
        ["b/0", "a:81/0", "c/0"],
        ["a:81/0", "c/0", "a/1"],
        ["c/0", "a/1"],
        ["a/1"],
    ]


async def test_a_slot_is_given_back_when_its_holder_or_waiter_is_cancelled() -> None:
    slots, running = Origins(Limits(per_origin=1, connections=1)), dict[str, anyio.Event]()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for url in ("http://a/0", "http://a/1", "http://b/0"):
                tasks.start_soon(transfer, slots, url, running)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    assert len(running) == 1
    assert await order(slots, ["http://a/2", "http://b/1"]) == [["a/2"], ["b/1"]]


async def test_a_slot_may_be_given_back_twice_and_taken_again() -> None:
    slot = Origins(Limits(per_origin=1)).slot("http://h/w")

    with anyio.fail_after(5):
        for _ in range(2):
            await slot.acquire()
            slot.release()
            slot.release()
