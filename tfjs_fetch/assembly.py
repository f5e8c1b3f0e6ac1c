"""What is known of a group and its shards while their bytes arrive, in any order and over any number of streams.

A shard's place in its group is known when all shards before it have told their length. Sizes may be guessed, too: they
are checked as lengths come in.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from tfjs_fetch.cache.journal import Noted
from tfjs_fetch.content import suspicion
from tfjs_fetch.errors import ExtraBytesError, MissingBytesError
from tfjs_fetch.filing import FiledShard
from tfjs_fetch.format.layout import GroupLayout, PlacedWeight
from tfjs_fetch.origins import Slot
from tfjs_fetch.pieces import Piece, Window, bytes_before
from tfjs_fetch.planning import GAP_BYTES, Blueprint, warn_of_surplus
from tfjs_fetch.representation import Version
from tfjs_fetch.signals import Signal
from tfjs_fetch.stretches import Stretch, Stretches, joined

# Bytes after which a body shows what it is: the patterns of `recognise` are shorter.
TELLING_BYTES = 256


class StartOver(Exception):  # noqa: N818 - a turn of events, not an error: nobody outside sees it
    """What is in place cannot be used: sizes were guessed wrongly, or with `changed` a file was replaced meanwhile."""

    def __init__(self, *, changed: bool) -> None:
        super().__init__(changed)
        self.changed = changed


class GroupAssembly:
    """The memory of one group and the sizes of its shards."""

    def __init__(
        self,
        layout: GroupLayout,
        blueprint: Blueprint,
        pieces: Sequence[Piece],
        window: Window,
        whole: Callable[[Piece, Sequence[PlacedWeight]], None],
        warn: Callable[[str], None],
        guess: Sequence[int] | None = None,
    ) -> None:
        self.layout = layout
        self.pieces = pieces
        self.window = window
        self.signal = Signal()
        self.whole = whole
        self.size = layout.size or 0
        self.everything = blueprint.everything
        self._starts, self._stops = [piece.start for piece in pieces], [piece.stop for piece in pieces]
        self.shards: list[Shard] = []
        self._blueprint = blueprint
        self._warn = warn
        self._guess = list(accumulate(guess, initial=0)) if guess is not None and len(layout.paths) > 1 else None
        self._sizes: list[int | None] = [None] * len(layout.paths)
        self._offsets = [0]  # of the shards whose predecessors are all known, and one more
        self._unknown = len(layout.paths)
        self._checked = False

    def piece_at(self, position: int) -> Piece | None:
        """Return the piece with the byte at `position` of the group, or the next one behind it."""
        index = bisect_right(self._stops, position)
        return self.pieces[index] if index < len(self.pieces) else None

    def last_wanted(self, start: int, stop: int | None) -> int:
        """Return where the wanted bytes between `start` and `stop` (None is the end) end; `start` if there are none."""
        index = len(self.pieces) if stop is None else bisect_left(self._starts, stop)
        last = self.pieces[index - 1].stop if index else 0
        return max(start, last if stop is None else min(last, stop))

    def wanted(self, start: int, stop: int) -> Iterator[Stretch]:
        """Yield the stretches of wanted bytes between `start` and `stop`."""
        for index in range(bisect_right(self._stops, start), bisect_left(self._starts, stop)):
            if self._starts[index] < self._stops[index]:
                yield max(start, self._starts[index]), min(stop, self._stops[index])

    def offset(self, position: int) -> int | None:
        """Return where the shard at `position` begins in the group; None while that is unknown."""
        if position < len(self._offsets):
            return self._offsets[position]
        return self._guess[position] if self._guess is not None else None

    def is_certain(self, position: int) -> bool:
        """Whether the offset of the shard at `position` is no guess."""
        return position < len(self._offsets)

    def shard_size(self, position: int) -> int | None:
        """Return the length of a shard as announced; None while unknown."""
        return self._sizes[position]

    def guessed_size(self, position: int) -> int | None:
        """Return the length of a shard by the guess; None without one."""
        return None if self._guess is None else self._guess[position + 1] - self._guess[position]

    @property
    def settled(self) -> bool:
        """Whether bytes may be left out: only while it is known, or was asked for, how long all shards are."""
        return self._guess is not None or self._unknown == 0

    def announce(self, position: int, size: int) -> None:
        """Take note of the length of a shard. Raises StartOver if others are in the wrong place because of it."""
        known = self._sizes[position]
        if known is not None:
            if known != size:
                raise StartOver(changed=True)
            return
        self._sizes[position] = size
        self._unknown -= 1
        if self._guess is not None and self._guess[position + 1] - self._guess[position] != size:
            self._guess = None
            # Not only those behind: where the shards in front of it begin may have been guessed as wrongly.
            misplaced = any(shard.dealt for shard in self.shards if not self.is_certain(shard.position))
            if misplaced or not self.everything:
                raise StartOver(changed=False)
        while len(self._offsets) <= len(self._sizes) and (next_size := self._sizes[len(self._offsets) - 1]) is not None:
            self._offsets.append(self._offsets[-1] + next_size)
        self.signal.send()

    def check(self) -> None:
        """Raise the error if the sizes do not fit the weights, once all are known and all shards show what they are."""
        if self._checked or self._unknown or not all(shard.is_telling for shard in self.shards):
            return
        self._checked = True
        sizes = [size or 0 for size in self._sizes]
        try:
            surplus = self._blueprint.check_total(self.layout, sizes)
        except (MissingBytesError, ExtraBytesError) as error:
            raise suspicion(_heads(self.shards), error) or error from None
        if surplus:
            warn_of_surplus(self.layout, sizes, self.size, _heads(self.shards), self._warn)


class Shard:
    """One shard of a group: what is known of it and what of it is there, whoever brings it."""

    def __init__(
        self, group: GroupAssembly, position: int, url: str, slot: Slot, report: Callable[[int, int | None], None]
    ) -> None:
        self.group, self.position, self.url, self.slot, self.report = group, position, url, slot, report
        self.received = 0  # wanted bytes that are in place
        self.dealt = Stretches()  # bytes, from its beginning, that are in place or not wanted
        self.head = bytearray()  # its first bytes, in the last attempt that began with them
        self.version: Version | None = None
        self.begun = self.ended = self.headless = False  # headless: its beginning was not asked for
        self.reported = 0.0
        self.file: FiledShard | None = None  # where its bytes go, if not into memory
        group.shards.append(self)

    @property
    def is_telling(self) -> bool:
        """Whether enough is there to see what it is, as far as it is asked for."""
        return self.ended or self.headless or len(self.head) >= TELLING_BYTES

    @property
    def size(self) -> int | None:
        """How many wanted bytes it has; None while unknown."""
        offset, size = self.group.offset(self.position), self.group.shard_size(self.position)
        if offset is None or size is None:
            return None
        return bytes_before(self.group.pieces, offset + size) - bytes_before(self.group.pieces, offset)

    @property
    def limit(self) -> int | None:
        """How many bytes from its beginning are to be read at most; None while its place is unknown."""
        group, offset, size = self.group, self.group.offset(self.position), self.group.shard_size(self.position)
        if offset is None:
            return None
        size = group.guessed_size(self.position) if size is None else size
        if group.settled:
            return group.last_wanted(offset, None if size is None else offset + size) - offset
        room = max(0, group.size - offset)
        return room if size is None else min(size, room)

    @property
    def guess(self) -> int | None:
        """Its length as guessed, as long as nothing else is known."""
        known = self.group.shard_size(self.position) is not None
        return None if known else self.group.guessed_size(self.position)

    @property
    def _expected(self) -> int | None:
        """Its length as announced, or else as guessed, or as it follows from there being no other shard."""
        alone = self.group.size if len(self.group.layout.paths) == 1 else None
        return self.group.shard_size(self.position) or self.guess or alone

    def missing(self) -> Sequence[tuple[int, int | None]]:
        """Return the stretches to ask for: from where, and up to where if not to its end."""
        if self.ended:
            return ()
        offset, size = self.group.offset(self.position), self._expected
        if offset is None or size is None or (self.group.everything and not self.begun):
            return ((0, None),)
        if self.group.everything:
            return tuple(self.dealt.gaps(0, self.limit or 0))
        wanted = joined(self.group.wanted(offset, offset + size), GAP_BYTES)
        missing = [gap for start, stop in wanted for gap in self.dealt.gaps(start - offset, stop - offset)]
        return ((0, None),) if missing == [(0, size)] else missing

    def announce(self, size: int) -> None:
        """Take note of its length. Raises StartOver if something else does not fit to that."""
        if size < self.dealt.stop:
            raise StartOver(changed=True)  # An earlier attempt brought more than this version has.
        self.group.announce(self.position, size)

    def adopt(self, noted: Noted) -> None:
        """Take note of the bytes that are there already. Raises StartOver if they are in the wrong place."""
        start = noted.start
        if self.group.offset(self.position) != start:
            raise StartOver(changed=False)
        self.version, self.begun, self.headless = noted.entry.version, True, True
        for first, last in noted.there:
            self.dealt.add(first, last)
            self.received += last - first
            for piece in self.group.pieces:
                self.group.whole(piece, piece.decoder.add(start + first, start + last))
        self.ended = not self.missing()

    def close(self) -> None:
        """Part from the group: they know each other, and memory would stay until Python looks for such circles."""
        self.group.shards.clear()


def _heads(shards: Sequence[Shard]) -> Sequence[tuple[str, bytes]]:
    return [(shard.url, bytes(shard.head)) for shard in shards]
