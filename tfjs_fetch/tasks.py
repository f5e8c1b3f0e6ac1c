"""Task groups that fail like a function does, work in threads, and long work that lets others have their turn."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

Result = TypeVar("Result")

# Other tasks have to wait no longer than about this.
_TURN_SECONDS = 0.004


class Turns:
    """Lets other tasks run now and then during work that has nothing to wait for."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def give(self) -> None:
        """Let others run if it has been long since they did."""
        if time.perf_counter() - self._since > _TURN_SECONDS:
            await anyio.lowlevel.checkpoint()
            self._since = time.perf_counter()


async def in_thread(function: Callable[..., Result], *arguments: object, abandon: bool = False) -> Result:
    """Return what `function` does, in a worker thread, which does not keep the result alive when it idles.

    A cancelled task does not wait for it if it may `abandon` it.
    """
    results: list[Result] = []

    def work() -> None:
        results.append(function(*arguments))

    await anyio.to_thread.run_sync(work, abandon_on_cancel=abandon)
    return results.pop()


@asynccontextmanager
async def task_group() -> AsyncIterator[anyio.abc.TaskGroup]:
    """Give a task group whose failure surfaces as one plain exception, as it was raised."""
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        failure = _first_failure(group)
    if failure is not None:
        context = failure.__context__
        try:
            raise failure
        finally:
            failure.__context__ = context  # which the cancellation under way would replace


def _first_failure(group: BaseExceptionGroup[BaseException]) -> BaseException:
    cancelled = anyio.get_cancelled_exc_class()
    return next((error for error in group.exceptions if not isinstance(error, cancelled)), group.exceptions[0])
