"""Counts the awaits of a piece of work, in all its tasks, and interrupts it at one of them.

An await counts when it makes its task wait. Work is told from all else on the loop, such as a server, by a context
variable, which its tasks inherit. On asyncio a task factory wraps the coroutines of the work; trio has instruments.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import anyio
import trio

Work: TypeAlias = Callable[[], Awaitable[None]]
# When an await is interrupted: as soon as its task waits or, on asyncio, when what it waits for has come, but its task
# has not been told yet. What came is lost then, unless someone takes care of it.
Moment: TypeAlias = Literal["waiting", "waking"]
# Does the work, with a way to interrupt it; returns whether that is how it ended.
Means: TypeAlias = Callable[["Steps", Work], Awaitable[bool]]

_STEPS: ContextVar["Steps | None"] = ContextVar("_STEPS", default=None)


@dataclass
class Steps:
    """The awaits of some work: the one numbered `last`, from 1 on, is interrupted.

    `interrupt` is None before and after the work. `tasks` are those that have not ended.
    """

    last: int
    moment: Moment = "waiting"
    count: int = 0
    interrupt: Callable[[], object] | None = None
    tasks: set[object] = field(default_factory=set)

    @property
    def reached(self) -> bool:
        """Whether there were so many awaits."""
        return self.count >= self.last

    def wait(self, awaited: object = None) -> None:
        """Take note that a task begins to wait for `awaited`."""
        if self.interrupt is None:
            return
        self.count += 1
        if self.count != self.last:
            return
        if self.moment == "waking" and isinstance(awaited, asyncio.Future):
            # The task itself adds its callback after this one, so it is called later.
            awaited.add_done_callback(self._wake)
        else:
            self.interrupt()

    def _wake(self, awaited: object) -> None:
        if self.interrupt is not None:
            self.interrupt()


async def interrupted(work: Work, steps: Steps, means: Means) -> bool:
    """Do `work`, interrupted as `steps` says; return whether that is how it ended. What it raises comes in a group."""
    found = False

    async def run() -> None:
        nonlocal found
        try:
            found = await means(steps, work)
        finally:
            steps.interrupt = None

    with _counting():
        async with anyio.create_task_group() as tasks:
            token = _STEPS.set(steps)
            tasks.start_soon(run)
            _STEPS.reset(token)
    return found


async def by_scope(steps: Steps, work: Work) -> bool:
    """Cancel a scope around the work."""
    with anyio.CancelScope() as scope:
        steps.interrupt = scope.cancel
        await work()
    return scope.cancelled_caught


async def by_deadline(steps: Steps, work: Work) -> bool:
    """Let the deadline of anyio's `fail_after` pass."""
    try:
        with anyio.fail_after(3600) as scope:
            steps.interrupt = lambda: setattr(scope, "deadline", anyio.current_time())
            await work()
    except TimeoutError:
        return scope.cancelled_caught
    return False


async def by_timeout(steps: Steps, work: Work) -> bool:
    """Let the deadline of asyncio's `timeout` pass."""
    try:
        async with asyncio.timeout(3600) as timeout:
            steps.interrupt = lambda: timeout.reschedule(0)
            await work()
    except TimeoutError:
        return timeout.expired()
    return False


async def by_task(steps: Steps, work: Work) -> bool:
    """Cancel the task that does the work, as asyncio does: no shield of anyio holds that off."""
    task = asyncio.current_task()
    assert task is not None
    steps.interrupt = task.cancel
    try:
        await work()
    except asyncio.CancelledError:
        return task.uncancel() == 0
    assert not task.cancelling(), "the cancellation was swallowed"
    return False


@contextmanager
def _counting() -> Iterator[None]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        instrument = _Instrument()
        trio.lowlevel.add_instrument(instrument)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(instrument)
        return
    before = loop.get_task_factory()
    loop.set_task_factory(_task)
    try:
        yield
    finally:
        loop.set_task_factory(before)


class _Instrument(trio.abc.Instrument):
    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if (steps := task.context.get(_STEPS)) is not None:
            steps.tasks.add(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if (steps := task.context.get(_STEPS)) is not None and task in steps.tasks:
            steps.wait()

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        if (steps := task.context.get(_STEPS)) is not None:
            steps.tasks.discard(task)


def _task(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
    steps = _STEPS.get()
    return asyncio.Task(coroutine if steps is None else _Counted(coroutine, steps), loop=loop, **more)


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine whose awaits are counted."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], steps: Steps) -> None:
        self._coroutine, self._steps = coroutine, steps
        steps.tasks.add(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # anyio looks at the state of coroutines

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._step(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._coroutine.throw, *error)

    def close(self) -> None:
        self._steps.tasks.discard(self)
        self._coroutine.close()

    def _step(self, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            awaited = step(*arguments)
        except BaseException:
            self._steps.tasks.discard(self)
            raise
        self._steps.wait(awaited)
        return awaited
