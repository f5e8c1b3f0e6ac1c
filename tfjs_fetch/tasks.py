"""Task groups that fail like a function does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc


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
