"""One load over the network: the shards side by side, their weights decoded while others travel.

The tasks of a load live in one task group. Slots for transfers are asked for in the order of model.json by one task,
so a shard that others wait for always has its slot before them.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Literal, TypeAlias

from tfjs_fetch.assembly import GroupAssembly, Shard
from tfjs_fetch.download import Downloader, Target
from tfjs_fetch.events import Event, ShardFinished, ShardProgress, Warned, WeightReady
from tfjs_fetch.filing import Filing
from tfjs_fetch.format.decoding import is_view, odd_bools
from tfjs_fetch.format.dtypes import Array
from tfjs_fetch.format.layout import GroupLayout, PlacedWeight
from tfjs_fetch.format.manifest import WeightSpec
from tfjs_fetch.gathering import odd_message
from tfjs_fetch.origins import Slot
from tfjs_fetch.pieces import Piece, Window, bytes_before, cut
from tfjs_fetch.planning import Blueprint, needed_shards
from tfjs_fetch.redaction import redact
from tfjs_fetch.representation import Version
from tfjs_fetch.signals import Signal
from tfjs_fetch.streams import bring_shard
from tfjs_fetch.strings import Allowance, TextAssembly, TextBody
from tfjs_fetch.tasks import Turns, in_thread, task_group

# Up to so many bytes are converted on the event loop: a hop to a thread costs more than they do.
_INLINE_BYTES = 64 * 1024
# At most so many weights or bytes a hop, so that a cancelled load need not wait for long.
_BATCH_WEIGHTS = 1024
_BATCH_BYTES = 32 * 2**20
# A stream's memory: how large the pieces are, and how far ahead of the consumer they are filled.
_PIECE_BYTES = 2**20
_AHEAD_BYTES = 32 * 2**20


_Take: TypeAlias = Callable[[Piece, Sequence[PlacedWeight]], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What a load needs to know. `urls` are those of each group's files; `sizes` theirs as far as they are known."""

    blueprint: Blueprint
    urls: Sequence[Sequence[str]]
    sizes: Sequence[Sequence[int] | None]
    downloader: Downloader
    allowance: Allowance
    filing: Filing | None = None  # where the bytes go, if not into memory

    @property
    def notify(self) -> Callable[[Event], None]:
        """Where events go."""
        return self.downloader.notify

    @property
    def source(self) -> str:
        """The model, for events."""
        return self.downloader.source

    def warn(self, message: str) -> None:
        """Report something odd."""
        self.notify(Warned(self.source, message))


@dataclass(frozen=True, slots=True)
class Loaded:
    """The weights of a load: stored bytes and arrays by name."""

    stored: Mapping[str, memoryview]
    arrays: Mapping[str, Array]


async def load_into_files(job: Job) -> None:
    """Bring the files of the whole model into those of `job.filing`, as they become whole."""
    filing, window, checklist = job.filing, Window(), _Checklist(job)
    assert filing is not None
    errands = await _assemble(job, window, checklist.take)
    try:
        async with task_group() as tasks:
            tasks.start_soon(filing.run)
            await _transfer(job, errands, window)
            filing.close()
    finally:
        _close(errands)


async def load(job: Job) -> Loaded:
    """Return all wanted weights, decoded."""
    window = Window()
    kitchen = _Kitchen(job)
    errands = await _assemble(job, window, kitchen.take)
    try:
        async with task_group() as tasks:
            tasks.start_soon(kitchen.run)
            await _transfer(job, errands, window)
            kitchen.close()
    finally:
        _close(errands)
    return Loaded(kitchen.stored, kitchen.arrays)


@asynccontextmanager
async def stream(job: Job) -> AsyncIterator[AsyncIterator[tuple[WeightSpec, Array]]]:
    """Give the wanted weights one by one, in the order of model.json, in bounded memory."""
    window = Window(_AHEAD_BYTES)
    counter = _Counter(job, window)
    errands = await _assemble(job, window, counter.take)

    async def transfer() -> None:
        await _transfer(job, errands, window)
        counter.close()

    failure: Exception | None = None
    async with task_group() as tasks:
        tasks.start_soon(transfer)
        try:
            yield counter
        except Exception as error:  # noqa: BLE001 - raised again below: a task group would make a copy of an ExceptionGroup
            failure = error
        finally:
            counter.abandon()
            tasks.cancel_scope.cancel()
    _close(errands)
    if failure is not None:
        raise failure


class _Checklist:
    """Reports the weights that become whole, as they do."""

    def __init__(self, job: Job) -> None:
        self._job, self._total, self._done = job, len(job.blueprint.wanted), 0

    def take(self, piece: Piece, weights: Sequence[PlacedWeight]) -> None:
        """Take weights that are whole."""
        for weight in weights:
            self._done += 1
            self._job.notify(WeightReady(self._job.source, weight.spec.name, self._done, self._total))


class _Kitchen:
    """Decodes the weights that become whole, as they do."""

    def __init__(self, job: Job) -> None:
        self.stored: dict[str, memoryview] = {}
        self.arrays: dict[str, Array] = {}
        self._job = job
        self._total = len(job.blueprint.wanted)
        self._orders: list[tuple[Piece, PlacedWeight]] = []
        self._signal = Signal()
        self._closed = False

    def take(self, piece: Piece, weights: Sequence[PlacedWeight]) -> None:
        """Take weights that are whole."""
        self._orders += [(piece, weight) for weight in weights]
        self._signal.send()

    def close(self) -> None:
        """Take note that no more will come."""
        self._closed = True
        self._signal.send()

    async def run(self) -> None:
        """Decode until all that came is decoded and no more will come."""
        while self._orders or not self._closed:
            if not self._orders:
                await self._signal.wait()
                continue
            batch = list(_batch(self._orders))
            del self._orders[: len(batch)]
            arrays = await decoded(batch, self._job)
            self._serve(batch, arrays)

    def _serve(self, batch: Sequence[tuple[Piece, PlacedWeight]], arrays: Sequence[Array]) -> None:
        for (piece, weight), array in zip(batch, arrays, strict=True):
            name = weight.spec.name
            self.stored[name] = piece.decoder.data(weight)
            self.arrays[name] = array
            self._job.notify(WeightReady(self._job.source, name, len(self.arrays), self._total))


class _Counter:
    """Hands the weights out in order, as an async iterator, and lets the memory of those handed out go."""

    def __init__(self, job: Job, window: Window) -> None:
        self._job, self._window = job, window
        self._specs = job.blueprint.wanted_specs
        self._ready: dict[str, tuple[Piece, PlacedWeight]] = {}
        self._signal = Signal()
        self._done = 0
        self._closed = self._abandoned = self._taking = False

    def close(self) -> None:
        """Take note that all files are there, and no more weights will come."""
        self._closed = True
        self._signal.send()

    def abandon(self) -> None:
        """Take note that the load is over, however it ended."""
        self._abandoned = True
        self._signal.send()

    def take(self, piece: Piece, weights: Sequence[PlacedWeight]) -> None:
        """Take weights that are whole."""
        for weight in weights:
            self._ready[weight.spec.name] = (piece, weight)
        self._signal.send()

    def __aiter__(self) -> AsyncIterator[tuple[WeightSpec, Array]]:
        return self

    async def __anext__(self) -> tuple[WeightSpec, Array]:
        if self._taking:
            raise RuntimeError("a weight is being taken from this stream already, by another task")
        self._taking = True
        try:
            return await self._next()
        finally:
            self._taking = False

    async def _next(self) -> tuple[WeightSpec, Array]:
        # Nothing is taken out before all waiting is done: a cancelled call can be made again.
        spec = self._specs[self._done] if self._done < len(self._specs) else None
        # What comes behind the last weight may still be an error.
        while not self._closed if spec is None else spec.name not in self._ready:
            self._check()
            await self._signal.wait()
        self._check()
        if spec is None:
            raise StopAsyncIteration
        piece, weight = self._ready[spec.name]
        (array,) = await decoded([(piece, weight)], self._job)
        del self._ready[spec.name]
        piece.left -= 1
        if piece.left == 0:
            self._window.release(piece)
        self._done += 1
        self._job.notify(WeightReady(self._job.source, spec.name, self._done, len(self._job.blueprint.wanted)))
        return spec, array

    def _check(self) -> None:
        if self._abandoned:
            raise RuntimeError("the weights of a stream are taken inside its `async with`")


async def decoded(batch: Sequence[tuple[Piece, PlacedWeight]], job: Job) -> Sequence[Array]:
    """Return the weights as arrays, made in a worker thread if they are large; warn of odd bools."""

    def work() -> list[tuple[Array, int]]:
        return [
            (piece.decoder.decode(weight), odd_bools(weight.spec, piece.decoder.data(weight)))
            for piece, weight in batch
        ]

    dear = sum(_work_bytes(piece, weight) for piece, weight in batch) > _INLINE_BYTES
    done = await in_thread(work, abandon=True) if dear or len(batch) > 64 else work()
    for (_, weight), (_, odd) in zip(batch, done, strict=True):
        if odd:
            job.warn(odd_message(weight.spec, odd))
    return [array for array, _ in done]


def _work_bytes(piece: Piece, weight: PlacedWeight) -> int:
    return 0 if is_view(weight.spec, weight.start - piece.start) else weight.stop - weight.start


def _batch(orders: Sequence[tuple[Piece, PlacedWeight]]) -> Iterator[tuple[Piece, PlacedWeight]]:
    size = 0
    for piece, weight in orders[:_BATCH_WEIGHTS]:
        size += weight.stop - weight.start
        yield piece, weight
        if size >= _BATCH_BYTES:
            return


@dataclass(frozen=True, slots=True)
class _Errand:
    """A shard to load: its index in the model, what becomes of it, leave to load it, and the bytes in front of it."""

    index: int
    body: Shard | TextBody
    slot: Slot
    before: int


async def _assemble(job: Job, window: Window, take: _Take) -> Sequence[_Errand]:
    """Return what has to be loaded, with memory and sinks; `take` is given the weights as they become whole."""
    errands: list[_Errand] = []
    first = before = 0
    turns = Turns()
    for layout, urls, sizes in zip(job.blueprint.layouts, job.urls, job.sizes, strict=True):
        pieces = _pieces(job, layout, before, window)
        for piece in pieces:
            take(piece, piece.empty)
        for errand in _group_errands(job, layout, urls, sizes, pieces, window, take, first):
            errands.append(errand)
            await turns.give()
        before += sum(piece.stop - piece.start for piece in pieces)
        first += len(layout.paths)
    return errands


def _pieces(job: Job, layout: GroupLayout, before: int, window: Window) -> Sequence[Piece]:
    if layout.size is None:
        return [Piece(layout, before)] if job.blueprint.holds_wanted(layout) else []
    if job.filing is not None:
        return [Piece(layout, before, filed=True)] if layout.weights else []
    return cut(layout, job.blueprint.wanted, before, None if window.ahead is None else _PIECE_BYTES)


def _group_errands(
    job: Job,
    layout: GroupLayout,
    urls: Sequence[str],
    sizes: Sequence[int] | None,
    pieces: Sequence[Piece],
    window: Window,
    take: _Take,
    first: int,
) -> Iterator[_Errand]:
    needed = needed_shards(job.blueprint, layout, sizes)
    if not needed:
        return
    offsets = _expected_offsets(layout, sizes)
    text = (
        TextAssembly(layout, job.blueprint, pieces[0], take, job.warn, job.allowance, job.filing)
        if layout.size is None
        else None
    )
    group = GroupAssembly(layout, job.blueprint, pieces, window, take, job.warn, sizes)
    found: list[_Errand] = []
    for position in needed:
        url, index, slot = urls[position], first + position, job.downloader.requester.origins.slot(urls[position])
        report = partial(_report, job, url, index)
        body = Shard(group, position, url, slot, report) if text is None else TextBody(text, url, report)
        if job.filing is not None and isinstance(body, Shard):
            body.file = job.filing.shard(index, layout.index, url, layout.paths[position])
        found.append(_Errand(index, body, slot, bytes_before(pieces, offsets[position])))
    if job.filing is not None:
        found = _adopt(job, group, found)
    yield from found


def _adopt(job: Job, group: GroupAssembly, errands: Sequence[_Errand]) -> list[_Errand]:
    """Take note of the bytes that are in the files already; return the errands that are left."""
    adopted = [(shard, shard.file.adopted) for shard in group.shards if shard.file is not None and shard.file.adopted]
    for shard, noted in adopted:
        size = noted.entry.whole if noted.entry.whole is not None else noted.there.stop
        group.announce(shard.position, size)
    for shard, noted in adopted:
        shard.adopt(noted)
    group.check()
    done = {id(shard) for shard in group.shards if shard.ended}
    for errand in errands:
        if id(errand.body) in done:
            job.notify(_finished(job, errand, "cache"))
    return [errand for errand in errands if id(errand.body) not in done]


def _expected_offsets(layout: GroupLayout, sizes: Sequence[int] | None) -> Sequence[int]:
    """Return about where each shard begins: only when to start is decided by that."""
    if sizes is not None:
        return list(accumulate(sizes, initial=0))
    count = max(len(layout.paths), 1)
    return [(layout.size or 0) * position // count for position in range(count)]


async def _transfer(job: Job, errands: Sequence[_Errand], window: Window) -> None:
    """Run the errands side by side, each as soon as it has its slot and, in a stream, the consumer is near."""
    under_way: set[int] = set()
    async with task_group() as tasks:
        for errand in errands:
            await _acquire(errand, under_way, window)
            under_way.add(errand.index)
            tasks.start_soon(_run, job, errand, under_way, window)
    if under_way:
        raise RuntimeError("a transfer was cancelled by something else than this load")


def _close(errands: Sequence[_Errand]) -> None:
    for errand in errands:
        errand.body.close()


async def _acquire(errand: _Errand, under_way: Collection[int], window: Window) -> None:
    """Wait for the slot, and in a stream until the consumer is near."""
    while True:
        # With nothing under way the consumer may be waiting for this very shard, wherever it was expected.
        while under_way and (window.paused or not window.admits(errand.before)):
            await window.signal.wait()
        await errand.slot.acquire()
        if not window.paused:
            return
        # The slot is that of an earlier shard that waits for the consumer and will need it again. This one could keep
        # it for ever: it may have to wait until the end of that one tells where its own bytes belong.
        errand.slot.release()


async def _run(job: Job, errand: _Errand, under_way: set[int], window: Window) -> None:
    target = Target(errand.body.url, errand.index, version=_known(errand.body))
    try:
        if isinstance(errand.body, Shard):
            await bring_shard(job.downloader, target, errand.body)
        else:
            await job.downloader.download(target, errand.body)
    finally:
        errand.slot.release()
    if isinstance(errand.body, TextBody):
        await errand.body.read_group()
    under_way.discard(errand.index)
    window.signal.send()
    job.notify(_finished(job, errand, "network"))


def _known(body: Shard | TextBody) -> Version | None:
    """Return the version of the bytes that are there already."""
    return body.version if isinstance(body, Shard) and body.dealt else None


def _finished(job: Job, errand: _Errand, origin: Literal["network", "cache"]) -> ShardFinished:
    return ShardFinished(job.source, redact(errand.body.url), errand.index, errand.body.received, origin)


def _report(job: Job, url: str, index: int, received: int, size: int | None) -> None:
    job.notify(ShardProgress(job.source, redact(url), index, received, size))
