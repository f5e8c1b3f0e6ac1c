"""Sinks: whole documents, first bytes, and what undoes a content encoding in front of another sink."""

import gzip
import io
import tracemalloc
import zlib

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory_transport import MemoryTransport, Reply
from tfjs_fetch.bodies import DocumentBody, HeadBody, Inflating, Surplus
from tfjs_fetch.content import HEAD_BYTES
from tfjs_fetch.errors import RefusedError, TransportError, TruncatedError, WrongContentError
from tfjs_fetch.representation import Version
from tfjs_fetch.sinks import NO_ROOM, Sink

pytestmark = pytest.mark.anyio

_MIB = 2**20
_URL = "https://h/w0?sig=secret"
_TEXT = b"to be or not to be, " * 100


class Cell:
    """A sink with room for so many bytes at a time, which opens only while someone waits for it."""

    def __init__(self, room: int, *, shut: bool = False) -> None:
        self.data = b""
        self.largest = self.waits = 0
        self._buffer = memoryview(bytearray(room))
        self._shut, self._open = shut, not shut

    def get_buffer(self) -> memoryview:
        return self._buffer if self._open else NO_ROOM

    def advance(self, count: int) -> None:
        self.data += self._buffer[:count]
        self.largest = max(self.largest, count)
        self._open = not self._shut

    async def wait(self) -> None:
        self.waits += 1
        self._open = True


async def pour(data: bytes, sink: Sink, piece: int = 65536) -> None:
    async with MemoryTransport({_URL: Reply(data)}, piece).request("GET", _URL, {}, personal=True) as answer:
        await answer.receive(sink)


async def inflate(data: bytes, encoding: str, sink: Sink, piece: int = 65536) -> None:
    inflating = Inflating(_URL, encoding, sink)
    with anyio.fail_after(20):
        await pour(data, inflating, piece)
        await inflating.finish(inflating.wait)


def raw_deflate(data: bytes, level: int = 6) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def document(limit: int = 100) -> DocumentBody:
    return DocumentBody(_URL, limit, "Limits.manifest_bytes")


async def test_a_document_is_collected_in_memory() -> None:
    body = document()

    body.begin(10, Version())
    await pour(b"0123456789", body, piece=3)
    body.end()

    assert body.complete
    assert body.data == b"0123456789"


async def test_a_document_that_starts_over_forgets_what_came_before() -> None:
    file = io.BytesIO()
    bodies = [document(), DocumentBody(_URL, 100, "Limits.weight_bytes", file)]

    for body in bodies:
        for data in (b"first attempt", b"second"):
            body.begin(None, Version())
            await pour(data, body)
        body.end()

    assert bodies[0].data == file.getvalue() == b"second"
    assert bodies[1].data == b""


def test_a_document_that_announces_too_much_is_refused_before_its_first_byte() -> None:
    document(100).begin(100, Version())

    with pytest.raises(RefusedError) as caught:
        document(100).begin(101, Version())

    assert caught.value.url == "https://h/w0?…"


async def test_a_document_without_a_length_is_refused_where_it_goes_too_far() -> None:
    body = document(100)
    body.begin(None, Version())

    with pytest.raises(RefusedError):
        await pour(bytes(1000), body, piece=10)

    assert len(body.data) == 100


async def test_a_document_that_is_shorter_than_announced_is_truncated() -> None:
    body = document()
    body.begin(10, Version())
    await pour(b"0123", body)

    with pytest.raises(TruncatedError) as caught:
        body.end()

    assert (caught.value.received, caught.value.expected, body.complete) == (4, 10, False)


@pytest.mark.parametrize("piece", [1, 1000, 65536])
async def test_of_a_head_no_more_is_taken_than_tells_what_it_is(piece: int) -> None:
    head = HeadBody()

    with pytest.raises(Surplus):
        await pour(_TEXT, head, piece)

    assert HEAD_BYTES <= len(head.data) <= HEAD_BYTES + piece
    assert _TEXT.startswith(head.data)


async def test_a_short_head_is_all_there_is() -> None:
    head = HeadBody()

    await pour(b"<html>", head)

    assert head.data == b"<html>"


@pytest.mark.parametrize("piece", [1, 7, 65536])
@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", gzip.compress(_TEXT)),
        ("deflate", zlib.compress(_TEXT)),
        ("deflate", zlib.compress(_TEXT, 0)),
        ("deflate", raw_deflate(_TEXT)),
        ("deflate", raw_deflate(_TEXT, 0)),
    ],
)
async def test_an_encoding_is_undone(encoding: str, data: bytes, piece: int) -> None:
    for room in (1, 3, 100_000):
        cell = Cell(room)
        await inflate(data, encoding, cell, piece)

        assert cell.data == _TEXT


async def test_an_encoding_of_nothing_is_nothing() -> None:
    cell = Cell(10)

    await inflate(gzip.compress(b""), "gzip", cell)
    await inflate(raw_deflate(b""), "deflate", cell)

    assert cell.data == b""


async def test_a_sink_without_room_is_waited_for() -> None:
    cell = Cell(100, shut=True)

    await inflate(gzip.compress(_TEXT), "gzip", cell, piece=10)

    assert (cell.data, cell.largest) == (_TEXT, 100)
    assert cell.waits >= 20


async def test_no_step_inflates_so_much_that_it_would_hold_the_event_loop() -> None:
    cell = Cell(4 * _MIB)

    await inflate(gzip.compress(bytes(4 * _MIB)), "gzip", cell)

    assert (len(cell.data), cell.largest) == (4 * _MIB, 256 * 1024)


@pytest.mark.parametrize(("encoding", "data"), [("gzip", gzip.compress(b"abc")), ("deflate", zlib.compress(b"abc"))])
async def test_an_encoding_that_ends_early_is_truncated_wherever_it_does(encoding: str, data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(TruncatedError) as caught:
            await inflate(data[:length], encoding, Cell(10))

        assert (caught.value.received, caught.value.expected) == (length, None)


@pytest.mark.parametrize("behind", [b"garbage", b"\0", b"\x1fgarbage", gzip.compress(b"another member") + b"\0"])
@pytest.mark.parametrize("piece", [1, 65536])
async def test_nothing_may_stand_behind_an_encoding(behind: bytes, piece: int) -> None:
    with pytest.raises(WrongContentError) as caught:
        await inflate(gzip.compress(_TEXT) + behind, "gzip", Cell(10), piece)

    assert caught.value.url == "https://h/w0?…"


@pytest.mark.parametrize("piece", [1, 65536])
async def test_members_of_gzip_one_behind_the_other_are_one_body(piece: int) -> None:
    data = gzip.compress(_TEXT) + gzip.compress(b"") + gzip.compress(b"another member")

    cell = Cell(10)
    await inflate(data, "gzip", cell, piece)

    assert cell.data == _TEXT + b"another member"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_what_is_not_encoded_as_it_claims_is_wrong_content(encoding: str) -> None:
    with pytest.raises(WrongContentError):
        await inflate(b"\xff plain text", encoding, Cell(10))


async def test_a_flipped_byte_never_passes() -> None:
    data = gzip.compress(_TEXT, mtime=0)
    # The ten bytes of the header say nothing about the content.
    for index in range(10, len(data)):
        flipped = bytearray(data)
        flipped[index] ^= 0xFF
        with pytest.raises((WrongContentError, TruncatedError)):
            await inflate(bytes(flipped), "gzip", Cell(5000))


async def test_a_bomb_stops_at_the_limit_and_takes_no_more_memory() -> None:
    bomb = gzip.compress(bytes(256 * _MIB), 1)
    body = document(_MIB)
    body.begin(None, Version())
    tracemalloc.start()

    with pytest.raises(RefusedError):
        await inflate(bomb, "gzip", body)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * _MIB


@given(st.binary(max_size=3000), st.integers(1, 500), st.integers(1, 500), st.booleans())
def test_any_cut_of_any_data_inflates_to_the_same(data: bytes, piece: int, room: int, shut: bool) -> None:
    cell = Cell(room, shut=shut)

    anyio.run(inflate, gzip.compress(data), "gzip", cell, piece)

    assert cell.data == data


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_of_any_bytes_nothing_but_our_errors_comes(data: bytes, encoding: str) -> None:
    try:
        anyio.run(inflate, data, encoding, Cell(100))
    except TransportError:
        return


def test_an_encoding_that_goes_on_without_holding_anything_is_given_up() -> None:
    inflating = Inflating("http://h/w", "gzip", DocumentBody("http://h/w", 100, "limit"))

    def feed(data: bytes) -> None:
        inflating.get_buffer()[: len(data)] = data
        inflating.advance(len(data))

    feed(b"\x1f\x8b\x08\x08\0\0\0\0\0\xff")  # a file name follows, and never ends
    for _ in range(15):
        feed(b"a" * 65536)

    with pytest.raises(WrongContentError):
        feed(b"a" * 65536)
