"""A model that is in the cache: its weights are views of the files of one generation, mapped."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property

from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.cache.shelf import Generation
from tfjs_fetch.errors import StalledError, StatusError, TransportError, TruncatedError, UnreachableError
from tfjs_fetch.events import OnEvent, ShardFinished, Warned, WeightReady
from tfjs_fetch.format.decoding import odd_bools
from tfjs_fetch.format.layout import scan
from tfjs_fetch.gathering import odd_message
from tfjs_fetch.models import Weights, one_by_one, plan_of
from tfjs_fetch.planning import Blueprint, Plan
from tfjs_fetch.redaction import redact
from tfjs_fetch.tasks import in_thread


@dataclass(frozen=True)
class KeptModel:
    """The model of `generation`."""

    source: str
    blueprint: Blueprint
    generation: Generation
    notify: OnEvent
    received: int = 0

    @cached_property
    def plan(self) -> Plan:
        """What loading it will bring: nothing has to travel."""
        groups = zip(self.generation.record.shards, self.blueprint.layouts, strict=True)
        urls = [[entry.url for entry in entries] or layout.paths for entries, layout in groups]
        plan = plan_of(self.source, self.blueprint, urls)
        known = self.blueprint.total_bytes
        return replace(plan, cached_bytes=sum(self.generation.record.groups) if known is None else known)

    async def load(self, *, careful: bool) -> WeightBundle:
        """Return its wanted weights; they are decoded on first use."""
        stored = await self._reported()
        for index, spec in enumerate(self.blueprint.wanted_specs):
            self.notify(WeightReady(self.source, spec.name, index + 1, len(stored)))
        return WeightBundle(self.blueprint.wanted_manifest, stored, source=self.source)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Weights]:
        """Give its wanted weights one by one."""
        stored = await self._reported()
        async with aclosing(one_by_one(self.source, self.blueprint.wanted_specs, stored, self.notify)) as weights:
            yield weights

    async def _reported(self) -> Mapping[str, memoryview]:
        warnings: list[str] = []

        def read() -> Mapping[str, memoryview]:
            return stored_bytes(self.blueprint, self.generation, warnings.append)

        stored = await in_thread(read, abandon=True)
        for message in warnings:
            self.notify(Warned(self.source, message))
        for shard in self.plan.shards:
            self.notify(ShardFinished(self.source, redact(shard.url), shard.index, shard.size or 0, "cache"))
        return stored


def stored_bytes(
    blueprint: Blueprint, generation: Generation, warn: Callable[[str], None] = lambda message: None
) -> Mapping[str, memoryview]:
    """Return the stored bytes of the wanted weights, as views of the files of a generation; `warn` of odd bools."""
    stored: dict[str, memoryview] = {}
    for layout, content in zip(blueprint.layouts, generation.groups, strict=True):
        if not blueprint.holds_wanted(layout):
            continue
        weights = layout.weights if layout.size is not None else scan(layout.index, layout.specs, layout.paths, content)
        for weight in weights:
            if weight.spec.name in blueprint.wanted:
                stored[weight.spec.name] = data = content[weight.start : weight.stop]
                if odd := odd_bools(weight.spec, data):
                    warn(odd_message(weight.spec, odd))
    return stored


def is_of_the_network(error: TransportError) -> bool:
    """Whether it is not the answer that is wrong, but that there is none."""
    match error:
        case UnreachableError() | StalledError() | TruncatedError():
            return True
        case StatusError():
            return error.status >= 500 or error.status in (408, 425, 429)
        case _:
            return False


def instead_of(error: Exception, generation: Generation) -> str:
    """Return what to tell where `generation` serves because of `error`."""
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(generation.record.made))
    return f"{error}; what was cached on {made} is used"
