"""What is known of an origin: who may transfer, and when it may be asked."""

from collections.abc import Sequence

import anyio
import pytest

from tfjs_fetch.config import Limits
from tfjs_fetch.origins import Origin, Origins

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


def test_an_overloaded_origin_gets_fewer_transfers_and_more_again_while_it_answers_well() -> None:
    async def main() -> list[float]:
        found, one = [], Origin(8)
        for _ in range(4):
            one.slow_down()
            found.append(one.transfers.total_tokens)
        for _ in range(1 + 2 + 3):
            one.speed_up()
            found.append(one.transfers.total_tokens)
        for _ in range(100):
            one.speed_up()
        return [*found, one.transfers.total_tokens]

    assert anyio.run(main) == [4, 2, 1, 1, 2, 2, 3, 3, 3, 4, 8]


def test_retries_are_bounded_by_a_number_and_a_share_of_the_requests() -> None:
    async def main() -> tuple[int, int]:
        one = Origin(8)
        free = sum(one.retry() for _ in range(100))
        for _ in range(50):
            one.begin()
            one.end()
        return free, sum(one.retry() for _ in range(100))

    assert anyio.run(main) == (20, 5)


async def test_a_slot_that_somebody_waits_for_is_not_to_be_had_at_once() -> None:
    origins = Origins(Limits(per_origin=1))
    first, second, third = (origins.slot("http://a/") for _ in range(3))
    assert first.try_acquire()
    assert not second.try_acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second.acquire)
        await anyio.sleep(0.05)
        first.release()

        assert not third.try_acquire()
    second.release()
    assert third.try_acquire()


async def test_a_slot_that_is_not_to_be_had_takes_nothing() -> None:
    origins = Origins(Limits(per_origin=2, connections=1))
    first, second = origins.slot("http://a/"), origins.slot("http://b/")
    assert first.try_acquire()
    assert not second.try_acquire()

    assert origins.at("http://b/").transfers.borrowed_tokens == 0


async def test_a_pause_may_grow_while_it_is_waited_for_but_not_shrink() -> None:
    one = Origin(1)
    one.pause(0.1)
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.ready)
        await anyio.sleep(0.05)
        one.pause(0.3)
        one.pause(0.01)

    assert 0.3 <= anyio.current_time() - began < 1
