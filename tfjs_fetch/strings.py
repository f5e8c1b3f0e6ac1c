"""Groups with strings: they carry their lengths with them, so a group can be read only when all of it is there."""

from collections.abc import Callable, Sequence

import anyio

from tfjs_fetch.bodies import DocumentBody
from tfjs_fetch.content import HEAD_BYTES, suspicion, unmistakable
from tfjs_fetch.errors import MissingBytesError, RefusedError, WrongContentError
from tfjs_fetch.filing import Filing, Seen, Text, Unstorable
from tfjs_fetch.format.layout import GroupLayout, PlacedWeight
from tfjs_fetch.pieces import Piece
from tfjs_fetch.planning import Blueprint, extra_bytes, warn_of_surplus
from tfjs_fetch.representation import Version
from tfjs_fetch.tasks import in_thread


class Allowance:
    """How many bytes may come in groups with strings: model.json does not tell, so it could not be checked before."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def use(self, count: int, url: str) -> None:
        """Take note of so many bytes more. Raises RefusedError if there are too many."""
        self.used += count
        if self.used > self.limit:
            raise RefusedError(url, f"there are over {self.limit:,} bytes of strings, which is Limits.weight_bytes")


class TextBody:
    """The sink for one shard of a group with strings: keeps it."""

    def __init__(self, group: "TextAssembly", url: str, report: Callable[[int, int | None], None]) -> None:
        self.position = len(group.bodies)
        self.url = url
        self.size: int | None = None
        self.seen: Seen | None = None
        self._group, self._report = group, report
        self._document = DocumentBody(url, group.allowance.limit, "Limits.weight_bytes")
        group.bodies.append(self)

    @property
    def data(self) -> bytearray:
        """What has arrived."""
        return self._document.data

    @property
    def head(self) -> bytes:
        """The first bytes."""
        return bytes(self.data[:HEAD_BYTES])

    @property
    def received(self) -> int:
        """How many bytes are there."""
        return len(self.data)

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return self._document.complete

    @property
    def missing(self) -> tuple[int, int | None]:
        """The bytes to ask for."""
        return self._document.missing

    @property
    def progress(self) -> int:
        """How many bytes have arrived in the best attempt."""
        return self._document.progress

    def begin(self, length: int | None, version: Version, part: tuple[int, int] | None = None) -> None:
        if self._group.filing is not None and not version.lifetime.storable:
            raise Unstorable
        now = anyio.current_time()
        first = self.seen.first if self.seen is not None and self.seen.version == version else now
        self.size, self.seen = (
            length,
            Seen(self.url, version, first, version.asked, path=self._group.paths[self.position]),
        )
        self._group.allowance.used -= self.received
        self._document.begin(length, version, part)
        self._group.allowance.used += self.received

    def get_buffer(self) -> memoryview:
        return self._document.get_buffer()

    def advance(self, count: int) -> None:
        self._group.allowance.use(count, self.url)
        self._document.advance(count)

    async def wait(self) -> None:
        await self._document.wait()

    def end(self, *, surplus: bool = False) -> None:
        self._document.end(surplus=surplus)
        if (content := unmistakable(self.head)) is not None:
            raise WrongContentError(self.url, content)
        self.size = self.received
        self._report(self.received, self.size)

    async def read_group(self) -> None:
        """Read the group if this was the last of its shards; raise the error if they do not fit its weights."""
        await self._group.read()

    def close(self) -> None:
        """Part from the group."""
        self._group.bodies.clear()


class TextAssembly:
    """A group with strings: its size is known when it is there, so its shards are kept until it can be read."""

    def __init__(
        self,
        layout: GroupLayout,
        blueprint: Blueprint,
        piece: Piece,
        whole: Callable[[Piece, Sequence[PlacedWeight]], None],
        warn: Callable[[str], None],
        allowance: "Allowance",
        filing: Filing | None = None,
    ) -> None:
        self.bodies: list[TextBody] = []
        self.allowance, self.filing = allowance, filing
        self._is_read = False
        self._layout, self._blueprint, self._piece, self._whole, self._warn = layout, blueprint, piece, whole, warn

    @property
    def paths(self) -> Sequence[str]:
        """What model.json calls the shards."""
        return self._layout.paths

    async def read(self) -> None:
        """Read the group if all its shards are there; raise the error if they do not fit its weights."""
        if (
            self._is_read
            or len(self.bodies) < len(self._layout.paths)
            or not all(body.complete for body in self.bodies)
        ):
            return
        self._is_read = True
        heads, sizes = [(body.url, body.head) for body in self.bodies], [body.received for body in self.bodies]
        try:
            # Where each string ends can only be found one after the other.
            data, weights = await in_thread(self._scan, abandon=True)
        except MissingBytesError as error:
            raise suspicion(heads, error) or error from None
        if self.filing is not None:
            shards = [(body.seen, body.received) for body in self.bodies if body.seen is not None]
            self.filing.texts[self._layout.index] = Text(data, shards)
        used = weights[-1].stop if weights else 0
        if used < len(data):
            if not self._blueprint.tolerates_extra(self._layout):
                extra = extra_bytes(self._layout, sizes, used)
                raise suspicion(heads, extra) or extra
            warn_of_surplus(self._layout, sizes, used, heads, self._warn)
        self._whole(self._piece, [weight for weight in weights if weight.spec.name in self._blueprint.wanted])

    def _scan(self) -> tuple[bytes, Sequence[PlacedWeight]]:
        data = b"".join(body.data for body in self.bodies)
        self._piece.fill(data)
        return data, self._piece.decoder.add(0, len(data))
