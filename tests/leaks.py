"""What a piece of work has left behind: open descriptors, and whatever others have to clean up."""

import asyncio
import gc
import os
import stat
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

_DESCRIPTORS = Path("/dev/fd")


def descriptors() -> int:
    """Return how many sockets and files this process has open; 0 on systems that do not tell."""
    found = 0
    for path in _DESCRIPTORS.iterdir() if _DESCRIPTORS.is_dir() else ():
        with suppress(OSError):  # the listing had a descriptor of its own
            mode = os.fstat(int(path.name)).st_mode
            found += stat.S_ISSOCK(mode) or stat.S_ISREG(mode)
    return found


@contextmanager
def nothing_for_others() -> Iterator[list[str]]:
    """Give a list of what is left to the event loop or to Python to clean up, which is told as it is found.

    The garbage collector is off meanwhile, so that it hides nothing.
    """
    left: list[str] = []
    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch, _generators_to(left), _complaints_to(left):
            patch.setattr(sys, "unraisablehook", lambda event: left.append(f"{event.exc_value!r} in {event.object!r}"))
            yield left
            gc.collect()
    finally:
        gc.enable()


@contextmanager
def swift_collection() -> Iterator[None]:
    """Keep all there is now from the garbage collector, which then takes no time to speak of."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _generators_to(left: list[str]) -> Iterator[None]:
    """Tell of asynchronous generators that were neither closed nor run to their end."""
    hooks = sys.get_asyncgen_hooks()

    def finalize(generator: AsyncGenerator[Any, Any]) -> None:
        left.append(f"abandoned: {generator!r}")
        if hooks.finalizer is not None:
            hooks.finalizer(generator)

    sys.set_asyncgen_hooks(hooks.firstiter, finalize)
    try:
        yield
    finally:
        sys.set_asyncgen_hooks(*hooks)


@contextmanager
def _complaints_to(left: list[str]) -> Iterator[None]:
    """Tell what asyncio would log, as of tasks whose error nobody saw."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        yield
        return
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: left.append(str(context)))
    try:
        yield
    finally:
        loop.set_exception_handler(before)
