"""A model that was found: its document is read and checked, its weights can be loaded.

Two kinds with the same methods: `HostedModel`, whose shards come over the network, and `LocalModel`, whose files are
at hand.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeAlias

from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.config import Limits
from tfjs_fetch.download import Downloader
from tfjs_fetch.events import OnEvent, Planned, ShardFinished, Warned, WeightReady
from tfjs_fetch.files import Files
from tfjs_fetch.format.decoding import decode
from tfjs_fetch.format.dtypes import Array
from tfjs_fetch.format.layout import GroupLayout, usual_sizes
from tfjs_fetch.format.manifest import WeightSpec
from tfjs_fetch.gathering import gather
from tfjs_fetch.loading import Job, load, stream
from tfjs_fetch.origins import Slot
from tfjs_fetch.planning import Blueprint, Plan, PlannedShard, plan_shards
from tfjs_fetch.strings import Allowance
from tfjs_fetch.tasks import Turns, in_thread, task_group

Weights: TypeAlias = AsyncIterator[tuple[WeightSpec, Array]]

# Up to so many bytes a local weight is decoded on the event loop.
_INLINE_BYTES = 64 * 1024


class Model(Protocol):
    """A model that can be planned and loaded."""

    @property
    def plan(self) -> Plan:
        """What loading it will bring."""

    @property
    def received(self) -> int:
        """How many bytes came over the network for it."""

    async def load(self, *, careful: bool) -> WeightBundle:
        """Return its wanted weights; `careful` relies on no size that was guessed or asked for in advance.

        Raises StartOver if the model changed, or a guess was wrong.
        """

    def stream(self) -> AbstractAsyncContextManager[Weights]:
        """Give its wanted weights in the order of the document, in bounded memory."""


@dataclass(frozen=True)
class HostedModel:
    """A model on a server. `urls` are those of each group's files."""

    source: str
    blueprint: Blueprint
    urls: Sequence[Sequence[str]]
    downloader: Downloader
    limits: Limits

    @cached_property
    def plan(self) -> Plan:
        """What loading it will bring."""
        return plan_of(self.source, self.blueprint, self.urls)

    @property
    def received(self) -> int:
        """How many bytes came over the network for it."""
        return self.downloader.received

    async def load(self, *, careful: bool) -> WeightBundle:
        """Return its wanted weights."""
        sizes = [None] * len(self.urls) if careful else await self._sizes(guess=True)
        loaded = await load(self.job(sizes))
        return WeightBundle(self.blueprint.wanted_manifest, loaded.stored, loaded.arrays, source=self.source)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Weights]:
        """Give its wanted weights one by one. Nothing is guessed: what was handed out cannot be taken back."""
        async with stream(self.job(await self._sizes(guess=False))) as weights:
            yield weights

    def job(self, sizes: Sequence[Sequence[int] | None]) -> Job:
        """Return what a load of it needs to know."""
        return Job(self.blueprint, self.urls, sizes, self.downloader, Allowance(self.limits.weight_bytes))

    async def _sizes(self, *, guess: bool) -> Sequence[Sequence[int] | None]:
        turns = Turns()
        sizes: list[Sequence[int] | None] = []
        for layout, urls in zip(self.blueprint.layouts, self.urls, strict=True):
            sizes.append(await self._group_sizes(layout, urls, guess))
            await turns.give()
        return sizes

    async def _group_sizes(self, layout: GroupLayout, urls: Sequence[str], guess: bool) -> Sequence[int] | None:
        """Return the sizes of a group's shards as far as they are of use in advance.

        For all weights a guess will do, since all shards are seen. To leave shards out it must be known what they
        have, so the server is asked.
        """
        if len(urls) <= 1 or (guess and self.blueprint.everything):
            return usual_sizes(layout)
        if self.blueprint.everything or layout.size is None or not self.blueprint.is_needed(layout):
            return None
        return await self._asked_sizes(layout, urls)

    async def _asked_sizes(self, layout: GroupLayout, urls: Sequence[str]) -> Sequence[int] | None:
        """Return the sizes that the server states; None if it does not, or if they do not fit the weights.

        Then only the files themselves can tell what is wrong, if anything: a server that compresses what it sends
        states the compressed length, and one that answers with a page instead of a file the length of that.
        """
        found: dict[int, int] = {}

        async def ask(position: int, slot: Slot) -> None:
            try:
                size = await self.downloader.size(urls[position])
            finally:
                slot.release()
            if size is None:
                tasks.cancel_scope.cancel()
            else:
                found[position] = size

        async with task_group() as tasks:
            for position, url in enumerate(urls):
                slot = self.downloader.requester.origins.slot(url)
                await slot.acquire()
                tasks.start_soon(ask, position, slot)
        sizes = [found[position] for position in sorted(found)]
        return sizes if len(sizes) == len(urls) and sum(sizes) == layout.size else None


@dataclass(frozen=True)
class LocalModel:
    """A model whose files are on this machine."""

    source: str
    blueprint: Blueprint
    files: Files
    notify: OnEvent
    limits: Limits
    received: int = 0

    @property
    def plan(self) -> Plan:
        """What loading it will bring, with the sizes of the files where they are there."""
        plan = plan_of(self.source, self.blueprint, [layout.paths for layout in self.blueprint.layouts])
        return replace(plan, shards=tuple(self._sized(shard) for shard in plan.shards))

    def _sized(self, shard: PlannedShard) -> PlannedShard:
        size = self.files.size(shard.path)
        return replace(shard, size=shard.size if size is None else size, ranges=())

    async def load(self, *, careful: bool) -> WeightBundle:
        """Return its wanted weights; they are decoded on first use."""
        stored = await self._gathered()
        for index, spec in enumerate(self.blueprint.wanted_specs):
            self.notify(WeightReady(self.source, spec.name, index + 1, len(stored)))
        return WeightBundle(self.blueprint.wanted_manifest, stored, source=self.source)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Weights]:
        """Give its wanted weights one by one."""
        stored = await self._gathered()
        async with aclosing(one_by_one(self.source, self.blueprint.wanted_specs, stored, self.notify)) as weights:
            yield weights

    async def _gathered(self) -> Mapping[str, memoryview]:
        warnings: list[str] = []
        shards, stored = await in_thread(self._read, warnings, abandon=True)
        for message in warnings:
            self.notify(Warned(self.source, message))
        for shard in self.plan.shards:
            size = len(shards[shard.path])
            self.notify(ShardFinished(self.source, shard.path, shard.index, size, "file"))
        return stored

    def _read(self, warnings: list[str]) -> tuple[Mapping[str, memoryview], Mapping[str, memoryview]]:
        needed = [layout for layout in self.blueprint.layouts if self.blueprint.is_needed(layout)]
        paths = [path for layout in needed for path in layout.paths]
        shards = self.files.shards(dict.fromkeys(paths), self.blueprint.room(self.limits))
        return shards, gather(self.blueprint, shards, warnings.append)


async def one_by_one(
    source: str, specs: Sequence[WeightSpec], stored: Mapping[str, memoryview], notify: OnEvent
) -> AsyncGenerator[tuple[WeightSpec, Array], None]:
    """Yield the weights `specs` whose bytes are `stored`, decoded as they are taken."""
    for index, spec in enumerate(specs):
        data = stored[spec.name]
        if len(data) > _INLINE_BYTES:
            array = await in_thread(decode, spec, data, abandon=True)
        else:
            array = decode(spec, data)
        notify(WeightReady(source, spec.name, index + 1, len(specs)))
        yield spec, array


def planned(plan: Plan) -> Planned:
    """Return the first event of a load."""
    return Planned(plan.source, len(plan.shards), len(plan.weights), plan.total_bytes, plan.cached_bytes)


def plan_of(source: str, blueprint: Blueprint, urls: Sequence[Sequence[str]]) -> Plan:
    """Return what loading a model brings; `urls` are those of each group's files."""
    shards = plan_shards(blueprint, urls)
    return Plan(source, blueprint.manifest, blueprint.wanted_specs, shards, blueprint.total_bytes)
