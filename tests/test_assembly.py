"""The sinks of shards, fed by hand: any cut of any order gives the same bytes, and nothing wrong goes unnoticed."""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import pytest

from tfjs_fetch.assembly import GroupAssembly, Shard, StartOver
from tfjs_fetch.bodies import Surplus
from tfjs_fetch.config import Limits, Policy
from tfjs_fetch.errors import (
    ExtraBytesError,
    MissingBytesError,
    TruncatedError,
    WrongContentError,
)
from tfjs_fetch.format.layout import PlacedWeight
from tfjs_fetch.format.manifest import parse
from tfjs_fetch.origins import Origins
from tfjs_fetch.pieces import Piece, Window, cut
from tfjs_fetch.planning import draw
from tfjs_fetch.representation import Version
from tfjs_fetch.shards import ShardBody
from tfjs_fetch.strings import TextBody

Body: TypeAlias = ShardBody | TextBody

DATA = bytes(range(1, 41))
HERE = Version()


class Bench:
    """A group of four weights of ten bytes each, and the sinks for its shards."""

    def __init__(
        self,
        shards: int,
        *,
        guess: Sequence[int] | None = None,
        wanted: Sequence[str] | None = None,
        ahead: int | None = None,
        groups: int = 1,
    ) -> None:
        self.whole: dict[str, bytes] = {}
        self.warnings: list[str] = []
        self.reports: list[tuple[int, int | None]] = []
        specs = ", ".join(f'{{"name": "w{n}", "shape": [10], "dtype": "uint8"}}' for n in range(4))
        paths = ", ".join(f'"s{n}"' for n in range(shards))
        others = ', {"paths": ["z"], "weights": []}' * (groups - 1)
        document = f'[{{"paths": [{paths}], "weights": [{specs}]}}{others}]'
        blueprint = draw(parse(document.encode()), wanted, Policy())
        layout, self.window = blueprint.layouts[0], Window(ahead)
        self.pieces = cut(layout, blueprint.wanted, 0, None if ahead is None else 10)
        self.group = GroupAssembly(layout, blueprint, self.pieces, self.window, self._take, self.warnings.append, guess)
        origins = Origins(Limits())
        self.shards = [
            Shard(self.group, n, f"http://h/s{n}", origins.slot("http://h/"), lambda *told: self.reports.append(told))
            for n in range(shards)
        ]
        self.bodies = [ShardBody(shard) for shard in self.shards]

    def _take(self, piece: Piece, weights: Sequence[PlacedWeight]) -> None:
        for weight in weights:
            assert weight.spec.name not in self.whole, "a weight is whole once"
            self.whole[weight.spec.name] = bytes(piece.decoder.data(weight))


def feed(body: Body, data: bytes, most: int = 1000) -> bytes:
    """Write `data` into `body` in pieces of at most `most` bytes; return what it has no room for now."""
    while data:
        buffer = body.get_buffer()
        if not buffer:
            return data
        count = min(len(buffer), len(data), most)
        buffer[:count] = data[:count]
        body.advance(count)
        data = data[count:]
    return b""


def bring(body: Body, data: bytes, *, announced: bool = True, most: int = 1000) -> None:
    """Bring `data` as the whole body."""
    body.begin(len(data) if announced else None, HERE)
    if body.complete:
        body.end()
        return
    try:
        assert not feed(body, data, most)
    except Surplus:
        body.end(surplus=True)
    else:
        body.end()


WHOLE = {f"w{n}": DATA[10 * n : 10 * n + 10] for n in range(4)}


@pytest.mark.parametrize("sizes", [(40,), (10, 30), (15, 0, 20, 5), (1, 1, 38), (0, 40, 0), (39, 1)], ids=str)
@pytest.mark.parametrize("most", [1, 3, 1000])
@pytest.mark.parametrize("announced", [True, False])
def test_shards_in_their_order_give_the_weights(sizes: tuple[int, ...], most: int, announced: bool) -> None:
    bench, start = Bench(len(sizes)), 0
    for body, size in zip(bench.bodies, sizes, strict=True):
        bring(body, DATA[start : start + size], announced=announced, most=most)
        start += size

    assert bench.whole == WHOLE
    assert [shard.received for shard in bench.shards] == list(sizes)
    assert [shard.size for shard in bench.shards] == list(sizes)


@pytest.mark.parametrize("seed", range(30))
def test_announced_shards_give_the_weights_in_any_order_and_cut(seed: int) -> None:
    chance = random.Random(seed)
    cuts = [0, *sorted(chance.choices(range(41), k=5)), 40]
    bench = Bench(6)
    for body, (start, stop) in zip(bench.bodies, pairwise(cuts), strict=True):
        body.begin(stop - start, HERE)
    rests = [DATA[start:stop] for start, stop in pairwise(cuts)]
    while any(rests):
        index = chance.randrange(6)
        count = chance.randint(0, 7)
        assert not feed(bench.bodies[index], rests[index][:count])
        rests[index] = rests[index][count:]
    for body in bench.bodies:
        body.end()

    assert bench.whole == WHOLE


def test_a_shard_has_no_room_before_those_in_front_of_it_told_their_length() -> None:
    bench = Bench(3)
    bench.bodies[1].begin(10, HERE)

    assert feed(bench.bodies[1], DATA[10:20]) == DATA[10:20]
    bring(bench.bodies[0], DATA[:10], announced=False)
    assert feed(bench.bodies[1], DATA[10:20]) == b""
    assert bench.whole == {"w0": DATA[:10], "w1": DATA[10:20]}


def test_a_guess_gives_room_at_once() -> None:
    bench = Bench(3, guess=[16, 16, 8])
    for index in (2, 0, 1):
        bring(bench.bodies[index], DATA[16 * index : 16 * index + 16])

    assert bench.whole == WHOLE


@pytest.mark.parametrize("announced", [True, False])
def test_a_guess_that_is_contradicted_behind_placed_bytes_starts_over(announced: bool) -> None:
    bench = Bench(3, guess=[16, 16, 8])
    bring(bench.bodies[1], DATA[16:32], announced=announced)

    with pytest.raises(StartOver) as caught:
        bring(bench.bodies[0], DATA[:12], announced=announced)
    assert not caught.value.changed


def test_a_guess_that_is_contradicted_in_front_of_placed_bytes_starts_over() -> None:
    bench = Bench(3, guess=[16, 16, 8])
    bring(bench.bodies[1], DATA[12:28])

    # The second one was placed by the guess that the first has 16 bytes, which nobody said.
    with pytest.raises(StartOver):
        bench.bodies[2].begin(12, HERE)


def test_a_guess_that_is_contradicted_by_the_end_of_a_body_itself_placed_by_it_starts_over() -> None:
    bench = Bench(3, guess=[16, 16, 8])

    with pytest.raises(StartOver):
        bring(bench.bodies[1], DATA[12:32], announced=False)


def test_what_seems_surplus_by_a_guess_starts_over() -> None:
    bench = Bench(3, guess=[16, 16, 8])

    with pytest.raises(StartOver):
        bring(bench.bodies[2], DATA[20:] * 20, announced=False)


def test_a_guess_that_is_contradicted_before_anything_was_placed_is_dropped() -> None:
    bench = Bench(3, guess=[16, 16, 8])
    bench.bodies[0].begin(10, HERE)
    bench.bodies[1].begin(10, HERE)
    bench.bodies[2].begin(20, HERE)
    for body, start, stop in zip(bench.bodies, (0, 10, 20), (10, 20, 40), strict=True):
        assert not feed(body, DATA[start:stop])
        body.end()

    assert bench.whole == WHOLE


def test_a_length_that_changes_between_attempts_starts_over() -> None:
    bench = Bench(2)
    bench.bodies[0].begin(10, HERE)

    with pytest.raises(StartOver) as caught:
        bench.bodies[0].begin(11, HERE)
    assert caught.value.changed


@pytest.mark.parametrize("ahead", [None, 100])
def test_what_comes_again_is_not_written_again(ahead: int | None) -> None:
    bench = Bench(1, ahead=ahead)
    bench.bodies[0].begin(40, HERE)
    feed(bench.bodies[0], DATA[:25])
    bring(bench.bodies[0], DATA, most=7)

    assert bench.whole == WHOLE
    assert bench.shards[0].received == 40


@pytest.mark.parametrize("ahead", [None, 100])
@pytest.mark.parametrize("differs", [0, 12, 24])
@pytest.mark.parametrize("most", [1, 7, 1000])
def test_what_comes_again_otherwise_starts_over(ahead: int | None, differs: int, most: int) -> None:
    bench, other = Bench(1, ahead=ahead), bytearray(DATA)
    other[differs] ^= 1
    bench.bodies[0].begin(40, HERE)
    feed(bench.bodies[0], DATA[:25])

    with pytest.raises(StartOver) as caught:
        bring(bench.bodies[0], bytes(other), most=most)
    assert caught.value.changed


@pytest.mark.parametrize("differs", [0, 9, 12, 19])
def test_what_comes_again_otherwise_starts_over_also_when_it_was_handed_out_and_forgotten(differs: int) -> None:
    bench, other = Bench(1, ahead=100), bytearray(DATA)
    other[differs] ^= 1
    bench.bodies[0].begin(40, HERE)
    feed(bench.bodies[0], DATA[:20])
    for piece in bench.pieces[:2]:
        bench.window.release(piece)

    with pytest.raises(StartOver):
        bring(bench.bodies[0], bytes(other))
    assert set(bench.whole) == {"w0", "w1"}


def test_what_was_handed_out_may_come_again() -> None:
    bench = Bench(1, ahead=100)
    bench.bodies[0].begin(40, HERE)
    feed(bench.bodies[0], DATA[:25])
    for piece in bench.pieces[:2]:
        bench.window.release(piece)
    bring(bench.bodies[0], DATA, most=3)

    assert bench.whole == WHOLE


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_comes_again_shorter_than_it_was_starts_over(announced: bool) -> None:
    bench = Bench(2)
    bench.bodies[0].begin(None, HERE)
    feed(bench.bodies[0], DATA[:25])

    with pytest.raises(StartOver) as caught:
        bring(bench.bodies[0], DATA[:12], announced=announced)
    assert caught.value.changed


def test_a_window_that_is_full_leaves_no_room() -> None:
    bench = Bench(1, ahead=15)
    bench.bodies[0].begin(40, HERE)

    assert feed(bench.bodies[0], DATA) == DATA[20:]
    bench.window.release(bench.pieces[0])
    assert feed(bench.bodies[0], DATA[20:]) == DATA[30:]


def test_a_body_that_is_shorter_than_it_said_is_truncated() -> None:
    bench = Bench(1)
    bench.bodies[0].begin(40, HERE)
    feed(bench.bodies[0], DATA[:30])

    with pytest.raises(TruncatedError) as caught:
        bench.bodies[0].end()
    assert (caught.value.url, caught.value.received, caught.value.expected) == ("http://h/s0", 30, 40)


@pytest.mark.parametrize("announced", [True, False])
def test_shards_that_are_too_short_together_name_the_weight(announced: bool) -> None:
    bench = Bench(2)
    bring(bench.bodies[0], DATA[:20], announced=announced)

    with pytest.raises(MissingBytesError) as caught:
        bring(bench.bodies[1], DATA[20:35], announced=announced)
    error = caught.value
    assert (error.group, error.weight, error.shard, error.expected, error.got) == (0, "w3", "s1", 40, 35)


@pytest.mark.parametrize("surplus", [1, 300, 100_000])
@pytest.mark.parametrize("announced", [True, False])
def test_surplus_in_front_of_other_groups_is_an_error(surplus: int, announced: bool) -> None:
    bench = Bench(2, groups=2)
    bring(bench.bodies[0], DATA[:20], announced=announced)

    with pytest.raises(ExtraBytesError) as caught:
        bring(bench.bodies[1], DATA[20:] + b"x" * surplus, announced=announced)
    error = caught.value
    assert (error.group, error.shard, error.expected) == (0, "s1", 40)
    assert 40 < error.got <= 40 + surplus


@pytest.mark.parametrize("surplus", [1, 300, 100_000])
@pytest.mark.parametrize("announced", [True, False])
def test_surplus_in_the_last_group_is_a_warning(surplus: int, announced: bool) -> None:
    bench = Bench(2)
    bring(bench.bodies[0], DATA[:20], announced=announced)
    bring(bench.bodies[1], DATA[20:] + b"x" * surplus, announced=announced)

    assert bench.whole == WHOLE
    assert len(bench.warnings) == 1


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>", b"<!doctype html>" + b"x" * 500])
def test_a_page_is_no_surplus_in_the_last_group_either(announced: bool, page: bytes) -> None:
    bench = Bench(2)
    bring(bench.bodies[0], DATA[:35], announced=announced)

    with pytest.raises(WrongContentError) as caught:
        bring(bench.bodies[1], page, announced=announced)
    assert (caught.value.url, caught.value.content) == ("http://h/s1", "an HTML page")


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("wanted", [["w0"], ["w1"], ["w0", "w2"], ["w3"]], ids="".join)
def test_chosen_weights_come_without_what_lies_behind_them(announced: bool, wanted: list[str]) -> None:
    bench = Bench(5, wanted=wanted)
    for body, start in zip(bench.bodies, range(0, 40, 8), strict=True):
        bring(body, DATA[start : start + 8], announced=announced)

    assert bench.whole == {name: WHOLE[name] for name in wanted}


def test_with_unknown_lengths_all_is_read_for_a_few_weights_and_a_lack_is_noticed() -> None:
    bench = Bench(4, wanted=["w0"])
    for body in bench.bodies[:3]:
        body.begin(None, HERE)
        feed(body, DATA[:9])
        body.end()
    bench.bodies[3].begin(None, HERE)
    feed(bench.bodies[3], DATA[:10])

    with pytest.raises(MissingBytesError) as caught:
        bench.bodies[3].end()

    assert (caught.value.expected, caught.value.got) == (40, 37)


def test_a_body_of_the_right_length_that_is_a_page_is_refused() -> None:
    bench = Bench(1)
    page = b"<!doctype html>".ljust(40)
    bench.bodies[0].begin(40, HERE)
    feed(bench.bodies[0], page)

    with pytest.raises(WrongContentError) as caught:
        bench.bodies[0].end()

    assert caught.value.content == "an HTML page"


def test_a_retry_that_brings_more_than_was_announced_starts_over() -> None:
    bench = Bench(1)
    bench.bodies[0].begin(40, HERE)
    feed(bench.bodies[0], DATA[:20])
    bench.bodies[0].begin(None, HERE)
    feed(bench.bodies[0], DATA + b"more")

    with pytest.raises(StartOver) as caught:
        bench.bodies[0].end()

    assert caught.value.changed


def test_reports_are_few_and_the_last_one_is_complete() -> None:
    bench = Bench(1)
    bring(bench.bodies[0], DATA, most=1)

    assert len(bench.reports) <= 3
    assert bench.reports[-1] == (40, 40)


def test_a_stream_that_has_met_a_piece_and_is_given_it_back_too_late_leaves_it_missing() -> None:
    bench = Bench(1)
    body, shard = bench.bodies[0], bench.shards[0]
    body.begin(40, HERE)
    body.stop = 25
    with pytest.raises(Surplus):
        feed(body, DATA[:25])

    body.extend(40)
    body.end(surplus=True)

    assert not shard.ended
    assert list(shard.missing()) == [(25, 40)]


def test_a_stretch_is_brought_by_a_part_and_what_is_there_is_left() -> None:
    bench = Bench(1)
    shard = bench.shards[0]
    for start, stop in ((20, 30), (0, 20), (30, 40)):
        part = ShardBody(shard, start, stop)
        part.begin(40, HERE, (start, stop))
        feed(part, DATA[start:stop])
        part.end()

    assert bench.whole == WHOLE
    assert shard.ended


def test_a_whole_that_comes_over_parts_is_compared_with_them() -> None:
    bench = Bench(1)
    part = ShardBody(bench.shards[0], 20, 30)
    part.begin(40, HERE, (20, 30))
    feed(part, DATA[20:30])
    part.end()

    other = bytearray(DATA)
    other[25] ^= 1
    whole = ShardBody(bench.shards[0])
    whole.begin(40, HERE)
    with pytest.raises(StartOver):
        feed(whole, bytes(other))
