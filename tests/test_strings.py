"""The sinks of shards of a group with strings, which is read when all of it is there."""

from collections.abc import Callable, Sequence

import pytest

from tests.format.groups import layout_of, spec
from tests.test_assembly import HERE, bring, feed
from tfjs_fetch.config import Policy
from tfjs_fetch.errors import ExtraBytesError, MissingBytesError, RefusedError, TfjsFetchError, WrongContentError
from tfjs_fetch.format.layout import PlacedWeight
from tfjs_fetch.format.manifest import parse
from tfjs_fetch.pieces import Piece
from tfjs_fetch.planning import draw
from tfjs_fetch.strings import Allowance, TextAssembly, TextBody

pytestmark = pytest.mark.anyio


class TextBench:
    """A group of a string and a number, and the sinks for its shards."""

    def __init__(self, shards: int, *, limit: int = 1000, groups: int = 1) -> None:
        self.whole: list[str] = []
        self.warnings: list[str] = []
        layout = layout_of(
            spec("text", [1], "string"), spec("n", [], "uint8"), paths=tuple(f"s{n}" for n in range(shards))
        )
        others = '{"paths": ["z"], "weights": []}'
        paths = ", ".join(f'"s{n}"' for n in range(shards))
        weights = '{"name": "text", "shape": [1], "dtype": "string"}, {"name": "n", "shape": [], "dtype": "uint8"}'
        document = f'[{{"paths": [{paths}], "weights": [{weights}]}}{f", {others}" * (groups - 1)}]'
        blueprint = draw(parse(document.encode()), None, Policy())
        take: Callable[[Piece, Sequence[PlacedWeight]], None] = lambda _, weights: self.whole.extend(  # noqa: E731
            weight.spec.name for weight in weights
        )
        self.allowance = Allowance(limit)
        group = TextAssembly(layout, blueprint, Piece(layout, 0), take, self.warnings.append, self.allowance)
        self.bodies = [TextBody(group, f"http://h/s{n}", lambda *told: None) for n in range(shards)]


TEXT = b"\x05\0\0\0hello\x07"


async def give(body: TextBody, data: bytes, *, announced: bool = True) -> None:
    """Let `data` be the whole body of a shard."""
    bring(body, data, announced=announced)
    await body.read_group()


async def test_strings_are_read_when_all_their_shards_are_there_in_any_order() -> None:
    bench = TextBench(3)
    await give(bench.bodies[2], TEXT[8:])
    await give(bench.bodies[0], TEXT[:2], announced=False)
    assert bench.whole == []
    await give(bench.bodies[1], TEXT[2:8])

    assert bench.whole == ["text", "n"]


async def test_strings_that_come_again_count_once() -> None:
    bench = TextBench(1, limit=15)
    bench.bodies[0].begin(None, HERE)
    feed(bench.bodies[0], TEXT[:9])
    await give(bench.bodies[0], TEXT)

    assert bench.whole == ["text", "n"]
    assert bench.allowance.used == 10


async def test_too_many_bytes_of_strings_are_refused() -> None:
    bench = TextBench(2, limit=15)
    await give(bench.bodies[0], TEXT, announced=False)

    with pytest.raises(RefusedError) as caught:
        await give(bench.bodies[1], TEXT, announced=False)
    assert caught.value.url == "http://h/s1"


@pytest.mark.parametrize(
    ("data", "kind", "groups"),
    [
        (TEXT[:-1], MissingBytesError, 1),
        (TEXT[:3], MissingBytesError, 1),
        (TEXT + b"x", ExtraBytesError, 2),
        (b"<!DOCTYPE html>", WrongContentError, 1),
    ],
)
async def test_strings_that_do_not_fit_are_errors(data: bytes, kind: type[TfjsFetchError], groups: int) -> None:
    with pytest.raises(kind):
        await give(TextBench(1, groups=groups).bodies[0], data)


async def test_surplus_behind_strings_of_the_last_group_is_a_warning() -> None:
    bench = TextBench(1)
    await give(bench.bodies[0], TEXT + b"x")

    assert bench.whole == ["text", "n"]
    assert len(bench.warnings) == 1


async def test_a_page_behind_strings_is_no_surplus() -> None:
    bench = TextBench(2)
    await give(bench.bodies[0], TEXT)

    with pytest.raises(WrongContentError):
        await give(bench.bodies[1], b"<!DOCTYPE html>")
