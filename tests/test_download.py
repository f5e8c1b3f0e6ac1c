"""One body, whole: retries, encodings, stalls, and what came instead of it."""

import gzip
import math
import time
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from mock_server import (
    HTML_PAGE,
    LFS_POINTER,
    S3_ERROR,
    Cut,
    Drip,
    Endless,
    Fault,
    File,
    GzipBomb,
    HangUp,
    HeaderFlood,
    Latency,
    MockServer,
    Redirect,
    Reset,
    Stall,
    Status,
    TrailingGarbage,
    TruncatedGzip,
    WrongLength,
)
from tests.downloading import _MIB, IMPATIENT, URL, Recording, brought, downloads, fetched, served
from tests.memory_transport import MemoryTransport, Reply
from tests.models import QUICK
from tfjs_fetch.config import Limits, Policy, Retry
from tfjs_fetch.download import Downloader, Target, pause_after
from tfjs_fetch.errors import (
    RefusedError,
    StalledError,
    StatusError,
    TransportError,
    TruncatedError,
    UnreachableError,
    WrongContentError,
)
from tfjs_fetch.events import Retrying, Stalled
from tfjs_fetch.origins import Origins
from tfjs_fetch.representation import Version
from tfjs_fetch.requesting import Requester
from tfjs_fetch.transport import http_client, transport_over
from tfjs_fetch.urls import origin

pytestmark = pytest.mark.anyio


# What may be decided without a network


@pytest.fixture
def no_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every random pause be the longest possible."""
    monkeypatch.setattr("tfjs_fetch.download.random.uniform", lambda low, high: high)


@pytest.mark.usefixtures("no_luck")
@pytest.mark.parametrize(
    ("attempt", "pause"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (99, 30.0), (4999, 30.0), (5000, None)]
)
def test_pauses_grow_up_to_a_bound_until_the_attempts_are_spent(attempt: int, pause: float | None) -> None:
    retry = Retry(attempts=5000, delay=0.5, max_delay=30.0)

    assert pause_after(attempt, TruncatedError(URL, 1, 2), retry) == pause


def test_pauses_are_drawn_from_zero_on() -> None:
    pauses = [pause_after(4, TruncatedError(URL, 1, 2), Retry()) or 0.0 for _ in range(300)]

    assert 0 <= min(pauses) < 1 < 3 < max(pauses) <= 4


PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}


def test_only_a_status_that_may_pass_is_worth_another_attempt() -> None:
    retried = {status for status in range(201, 600) if pause_after(1, StatusError(URL, status), QUICK) is not None}

    assert retried == PASSING


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnreachableError(URL, "reset"), True),
        (UnreachableError(URL, "certificate", final=True), False),
        (TruncatedError(URL, 1, None), True),
        (StalledError(URL, 0, 30.0), True),
        (WrongContentError(URL, "an HTML page"), False),
        (RefusedError(URL, "https to http"), False),
        (TransportError(), False),
    ],
)
def test_only_an_error_that_may_pass_is_worth_another_attempt(error: TransportError, expected: bool) -> None:
    assert (pause_after(1, error, QUICK) is not None) == expected


@pytest.mark.usefixtures("no_luck")
@pytest.mark.parametrize(
    ("asked", "pause"), [(None, 0.5), (0.0, 0.5), (0.2, 0.5), (7.0, 7.0), (120.0, 120.0), (120.1, None), (1e9, None)]
)
def test_a_server_may_ask_for_a_longer_pause_but_not_for_any(asked: float | None, pause: float | None) -> None:
    assert pause_after(1, StatusError(URL, 503, None, asked), Retry()) == pause


# Attempts


async def test_what_failed_is_tried_again_and_told() -> None:
    broken = UnreachableError(URL, "reset")
    replies = [broken, Reply(b"", 503), Reply(b"012", headers={"content-length": "9"}), Reply(b"whole")]
    downloader, events = downloads({URL: replies})
    body = Recording()

    await downloader.download(Target(URL), body)

    assert (bytes(body.data), downloader.received) == (b"whole", 8)
    assert [length for length, _ in body.begun] == [9, 5]
    assert events == [
        Retrying("https://h/model.json", "https://h/w0?…", 2, 0.0, str(broken)),
        Retrying("https://h/model.json", "https://h/w0?…", 3, 0.0, str(StatusError(URL, 503))),
        Retrying("https://h/model.json", "https://h/w0?…", 4, 0.0, str(TruncatedError(URL, 3, 9))),
    ]


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_the_last_error_comes_out(attempts: int) -> None:
    transport = MemoryTransport({URL: [Reply(b"", status) for status in (500, 502, 503, 504, 429)]})

    with pytest.raises(StatusError) as caught:
        await brought(transport, retry=Retry(attempts=attempts, delay=0))

    assert len(transport.asked) == attempts
    assert caught.value.status == (500, 502, 503, 504, 429)[attempts - 1]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 451, 501, 505])
async def test_a_no_is_taken_for_a_no(status: int) -> None:
    transport = MemoryTransport({URL: Reply(b"", status)})

    with pytest.raises(StatusError) as caught:
        await brought(transport)

    assert (len(transport.asked), caught.value.status, caught.value.url) == (1, status, "https://h/w0?…")


async def test_what_the_body_raises_comes_out_unchanged_and_at_once() -> None:
    class Trouble(Exception):  # noqa: N818 - nobody handles it
        pass

    class Troubled(Recording):
        def advance(self, count: int) -> None:
            raise Trouble

    transport = MemoryTransport({URL: Reply(b"0")})

    with pytest.raises(Trouble):
        await downloads(transport)[0].download(Target(URL), Troubled())
    assert len(transport.asked) == 1


async def test_the_pause_that_a_server_asks_for_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(anyio, "sleep", sleep)
    replies = [Reply(b"", 429, {"retry-after": "7"}), Reply(b"", 503, {"retry-after": "nonsense"}), Reply(b"0")]
    downloader, events = downloads({URL: replies})

    await downloader.download(Target(URL), Recording())

    assert pauses == [7.0, 0.0]
    assert [event.delay for event in events if isinstance(event, Retrying)] == [7.0, 0.0]


async def test_a_date_to_come_back_at_is_honoured() -> None:
    async with MockServer({"/w": b"0123"}) as server, served(server, Retry(delay=0)) as (downloader, events):
        server.misbehave("/w", Status(503, datetime.now(UTC) + timedelta(seconds=61)))

        with anyio.move_on_after(0.2) as scope:
            await downloader.download(Target(f"{server.url}/w"), Recording())

        assert scope.cancelled_caught
        (event,) = events
        assert isinstance(event, Retrying)
        assert 50 < event.delay <= 61


async def test_a_pause_beyond_two_minutes_is_a_no() -> None:
    transport = MemoryTransport({URL: Reply(b"", 503, {"retry-after": "3600"})})

    with pytest.raises(StatusError) as caught:
        await brought(transport)

    assert (len(transport.asked), caught.value.retry_after) == (1, 3600.0)


# Answers


@pytest.mark.parametrize("status", [200, 203])
async def test_an_answer_is_whole(status: int) -> None:
    assert await brought({URL: Reply(b"0123", status)}) == b"0123"


@pytest.mark.parametrize("status", [201, 202, 204, 206, 226])
async def test_any_other_success_is_none(status: int) -> None:
    with pytest.raises(StatusError) as caught:
        await brought({URL: Reply(b"0123", status)})

    assert caught.value.status == status


@pytest.mark.parametrize(
    ("fault", "content"),
    [
        (HTML_PAGE, "an HTML page"),
        (LFS_POINTER, "a Git LFS pointer"),
        (S3_ERROR, "a bucket's error document (AccessDenied)"),
    ],
)
async def test_the_body_of_a_refusal_is_named(fault: Any, content: str) -> None:
    page, kind = fault.content, fault.content_type
    for encoding, body in (("identity", page), ("gzip", gzip.compress(page)), ("deflate", zlib.compress(page))):
        with pytest.raises(StatusError) as caught:
            await brought({URL: Reply(body, 404, {"content-encoding": encoding, "content-type": kind})})
        assert (caught.value.status, caught.value.content) == (404, content)


@pytest.mark.parametrize("headers", [{"content-encoding": "br"}, {"content-encoding": "gzip"}])
async def test_a_refusal_in_an_encoding_that_is_none_is_still_one(headers: dict[str, str]) -> None:
    with pytest.raises(StatusError) as caught:
        await brought({URL: Reply(b"<html>", 404, headers)})

    assert (caught.value.status, caught.value.content) == (404, None)


async def test_of_a_long_refusal_only_the_beginning_is_read() -> None:
    downloader, _ = downloads(MemoryTransport({URL: Reply(b"<html>".ljust(_MIB), 404)}, piece=100))

    with pytest.raises(StatusError):
        await downloader.download(Target(URL), Recording())

    assert downloader.received == 1100


async def test_a_refusal_whose_body_never_ends_is_no_stall() -> None:
    began = time.monotonic()

    with pytest.raises(StatusError) as caught:
        await brought({URL: Reply(b"<html>", 404, hangs=True)})

    assert caught.value.content == "an HTML page"
    assert time.monotonic() - began < 3


async def test_a_redirect_whose_body_never_ends_is_followed() -> None:
    moved = Reply(b"moved", 302, {"location": "/x", "content-length": "99"}, hangs=True)

    assert await brought({URL: moved, "https://h/x": Reply(b"0")}) == b"0"


@pytest.mark.parametrize(
    ("reply", "length"),
    [
        (Reply(b"0123"), 4),
        (Reply(b"0123", chunked=True), None),
        (Reply(b"0123", headers={"content-length": "4", "transfer-encoding": "chunked"}), None),
        (Reply(b"0123", headers={"content-length": "-4"}), None),
        (Reply(b"0123", headers={"content-length": "four"}), None),
        (Reply(b"0123", headers={"content-length": "4, 4"}), None),
        (Reply(b"0123", headers={"content-length": "²"}), None),
        (Reply(gzip.compress(b"0123"), headers={"content-encoding": "gzip"}), None),
    ],
)
async def test_a_body_is_told_its_length_if_that_can_be_believed(reply: Reply, length: int | None) -> None:
    body = Recording()

    await downloads({URL: reply})[0].download(Target(URL), body)

    assert [told for told, _ in body.begun] == [length]
    assert body.data == b"0123"


async def test_a_body_is_told_which_version_it_is() -> None:
    headers = {"etag": '"1"', "last-modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    body = Recording()

    await downloads({URL: Reply(b"0123", headers=headers)})[0].download(Target(URL), body)

    assert body.begun == [(4, Version('"1"', "Mon, 01 Jan 2024 00:00:00 GMT", 4))]


@pytest.mark.parametrize("length", ["5", "99999999999999999999", "9" * 500])
async def test_a_body_that_is_shorter_than_announced_is_truncated(length: str) -> None:
    class Careless(Recording):
        def begin(self, length: int | None, version: Version, part: tuple[int, int] | None = None) -> None:
            self.data.clear()

    with pytest.raises(TruncatedError) as caught:
        await downloads({URL: Reply(b"0123", headers={"content-length": length})})[0].download(Target(URL), Careless())

    assert caught.value.received == 4
    assert (caught.value.expected or 0) >= 5


async def test_a_body_that_breaks_off_says_where() -> None:
    reply = Reply(b"0123", headers={"content-length": "9"}, failure=TruncatedError("https://cdn/x", 4, None))

    with pytest.raises(TruncatedError) as caught:
        await brought({URL: reply})

    assert (caught.value.url, caught.value.received, caught.value.expected) == ("https://h/w0?…", 4, 9)


async def test_nothing_is_transferred_for_a_body_that_wants_nothing() -> None:
    downloader, _ = downloads({URL: Reply(b"0123", hangs=True)})
    body = Recording(complete=True)

    await downloader.download(Target(URL), body)

    assert (downloader.received, body.surplus) == (0, False)


async def test_a_body_that_has_enough_gets_no_more() -> None:
    downloader, _ = downloads(MemoryTransport({URL: Reply(bytes(999))}, piece=10))
    body = Recording(enough=25)

    await downloader.download(Target(URL), body)

    assert (len(body.data), downloader.received, body.surplus) == (30, 30, True)


# Encodings


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


TEXT = b"to be or not to be, " * 20


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", gzip.compress(TEXT)),
        (" GZip ", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("identity", TEXT),
        ("", TEXT),
    ],
)
async def test_an_encoding_is_undone(encoding: str, data: bytes) -> None:
    for chunked in (False, True):
        assert await brought({URL: Reply(data, headers={"content-encoding": encoding}, chunked=chunked)}) == TEXT


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "gzip, br", "aes128gcm", "x" * 5000])
async def test_an_encoding_that_was_not_asked_for_is_wrong_content(encoding: str) -> None:
    transport = MemoryTransport({URL: Reply(TEXT, headers={"content-encoding": encoding})})

    with pytest.raises(WrongContentError) as caught:
        await brought(transport)

    assert len(transport.asked) == 1
    assert len(caught.value.content) < 100


@pytest.mark.parametrize("missing", [1, 8, 9, 20])
async def test_an_encoding_that_ends_early_is_truncated(missing: int) -> None:
    async with MockServer({"/w": TEXT}) as server:
        server.misbehave("/w", TruncatedGzip(missing))

        with pytest.raises(TruncatedError) as caught:
            await fetched(server)

        assert caught.value.expected is None  # it is as long as it was announced
        assert len(server.requests) == QUICK.attempts


async def test_an_encoding_that_was_cut_once_is_whole_the_second_time() -> None:
    async with MockServer({"/w": File(TEXT, gzip="always")}) as server:
        server.misbehave("/w", Cut(20), times=1)

        assert await fetched(server) == TEXT


async def test_garbage_behind_an_encoding_is_wrong_content() -> None:
    async with MockServer({"/w": TEXT}) as server:
        server.misbehave("/w", TrailingGarbage())

        with pytest.raises(WrongContentError):
            await fetched(server)


async def test_a_bomb_is_bounded_by_the_body() -> None:
    async with MockServer({"/w": TEXT}) as server:
        server.misbehave("/w", GzipBomb(256 * _MIB))

        with pytest.raises(RefusedError):
            await fetched(server)

        assert len(server.requests) == 1


@pytest.mark.parametrize("announced", [None, 1000])
async def test_an_endless_body_is_bounded(announced: int | None) -> None:
    async with MockServer({"/w": TEXT}) as server:
        server.misbehave("/w", Endless(announced))

        if announced is None:
            with pytest.raises(RefusedError):
                await fetched(server)
        else:
            assert await fetched(server) == bytes(1000)
        with anyio.fail_after(5):
            await server.wait_until(lambda: server.active == 0)


# Broken transfers


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Cut(0), TruncatedError),
        (Cut(3), TruncatedError),
        (Reset(3), TruncatedError),
        (WrongLength(5), TruncatedError),
        (HangUp(), UnreachableError),
        (HangUp(reset=True), UnreachableError),
        (HeaderFlood(), UnreachableError),
        (Status(500), StatusError),
    ],
)
async def test_what_breaks_is_tried_again_before_it_is_an_error(fault: Fault, error: type[TransportError]) -> None:
    async with MockServer({"/w": File(b"01234567", etag=None, last_modified=None)}) as server:
        server.misbehave("/w", fault, times=3)
        assert await fetched(server) == b"01234567"
        assert len(server.requests) == 4

        server.misbehave("/w", fault)
        with pytest.raises(error) as caught:
            await fetched(server)
        assert caught.value.url == f"{server.url}/w"
        assert len(server.requests) == 4 + QUICK.attempts


async def test_a_length_that_is_too_short_cuts_the_body_and_harms_nobody_else() -> None:
    async with MockServer({"/w": b"01234567"}) as server, served(server) as (downloader, _):
        server.misbehave("/w", WrongLength(-3), times=1)
        first, second = Recording(), Recording()

        await downloader.download(Target(f"{server.url}/w"), first)
        await downloader.download(Target(f"{server.url}/w"), second)

        assert (bytes(first.data), bytes(second.data)) == (b"01234", b"01234567")


@pytest.mark.parametrize(
    ("fault", "received"), [(Latency(math.inf), [0]), (Stall(0), [0]), (Stall(5), [5]), (Drip(0.1, at=5), [6, 7, 8, 9])]
)
async def test_a_body_that_does_not_move_stalls(fault: Fault, received: list[int]) -> None:
    async with MockServer({"/w": bytes(10_000)}) as server, served(server, IMPATIENT) as (downloader, events):
        server.misbehave("/w", fault)
        began = time.monotonic()

        with pytest.raises(StalledError) as caught:
            await downloader.download(Target(f"{server.url}/w?sig=1", 3), Recording())

        assert time.monotonic() - began < 1.3
        assert caught.value.seconds == 0.3
        assert caught.value.received in received
        assert events == [Stalled("", f"{server.url}/w?…", 3, 0.3)]
        with anyio.fail_after(5):
            await server.wait_until(lambda: server.active == 0)


async def test_a_slow_body_that_moves_does_not_stall() -> None:
    retry = Retry(attempts=1, stall_seconds=0.3, stall_bytes=5)

    async with MockServer({"/w": bytes(60)}) as server:
        server.misbehave("/w", Drip(0.01))

        assert await fetched(server, retry) == bytes(60)


async def test_a_sink_without_room_is_no_stall() -> None:
    class Slow(Recording):
        opened = False

        def get_buffer(self) -> memoryview:
            return super().get_buffer() if self.opened else memoryview(b"")

        async def wait(self) -> None:
            await anyio.sleep(0.5)
            self.opened = True

    body = Slow()
    with anyio.fail_after(5):
        await downloads({URL: Reply(b"0123")}, retry=IMPATIENT)[0].download(Target(URL), body)

    assert body.data == b"0123"


async def test_a_stalled_transfer_is_tried_again() -> None:
    async with MockServer({"/w": b"0123"}) as server:
        server.misbehave("/w", Stall(2), times=1)

        assert await fetched(server, Retry(attempts=2, delay=0, stall_seconds=0.3)) == b"0123"


async def test_redirects_work_over_http_and_keep_their_connection() -> None:
    async with MockServer({"/w": Redirect("/x?sig=1"), "/x": b"0123"}) as server:
        assert await fetched(server) == b"0123"
        assert [request.target for request in server.requests] == ["/w", "/x?sig=1"]
        assert server.connections == 1


async def test_headers_do_not_cross_origins_over_http() -> None:
    async with MockServer({"/w": b"0123"}) as other, MockServer({"/w": Redirect(f"{other.url}/w")}) as server:
        async with http_client(None) as client:
            headers = {"X-Api-Key": "secret", "Authorization": "Bearer secret", "Cookie": "a=secret"}
            requester = Requester(transport_over(client), Origins(Limits()), Policy(), origin(server.url), headers)
            downloader = Downloader(requester, QUICK)
            await downloader.download(Target(f"{server.url}/w"), Recording())

        assert server.requests[0].headers["x-api-key"] == "secret"
        assert "secret" not in str(other.requests[0].headers)


# Sizes


@pytest.mark.parametrize(
    ("reply", "size"),
    [
        (Reply(b"0123"), 4),
        (Reply(b"", headers={"content-length": "12345"}), 12345),
        (Reply(b"", chunked=True), None),
        (Reply(b"0123", 404), None),
        (Reply(b"", 204), None),
        (Reply(b"0123", headers={"content-encoding": "gzip"}), None),
        (Reply(b"0123", headers={"content-encoding": "br"}), None),
        (Reply(b"", 302, {"location": "ftp://h/"}), None),
    ],
)
async def test_a_size_is_what_the_server_states_or_unknown(reply: Any, size: int | None) -> None:
    transport = MemoryTransport({URL: reply})

    assert await downloads(transport)[0].size(URL) == size
    assert [asked.method for asked in transport.asked] == ["HEAD"]


@pytest.mark.parametrize("status", [403, 405, 501])
async def test_a_server_without_head_is_asked_for_a_byte(status: int) -> None:
    part = Reply(b"0", 206, {"content-range": "bytes 0-0/12345"})
    transport = MemoryTransport({URL: [Reply(b"", status), part]})

    assert await downloads(transport)[0].size(URL) == 12345
    assert [(one.method, one.headers.get("range")) for one in transport.asked] == [("HEAD", None), ("GET", "bytes=0-0")]


@pytest.mark.parametrize("passing", [UnreachableError(URL, "reset"), Reply(b"", 503), Reply(b"", 429)])
async def test_a_size_that_is_not_told_at_once_is_asked_for_again(passing: Any) -> None:
    transport = MemoryTransport({URL: [passing, passing, Reply(b"0123")]})

    assert await downloads(transport)[0].size(URL) == 4


async def test_a_size_is_asked_for_as_often_as_anything_else_and_not_given_up_quietly() -> None:
    transport = MemoryTransport({URL: Reply(b"", 503)})
    downloader, _ = downloads(transport)

    with pytest.raises(StatusError):
        await downloader.size(URL)
    assert len(transport.asked) == downloader.retry.attempts


async def test_who_is_asked_for_a_size_is_left_alone_as_long_as_it_wants() -> None:
    transport = MemoryTransport({URL: [Reply(b"", 429, {"retry-after": "1"}), Reply(bytes(4))]})
    began = anyio.current_time()

    assert await downloads(transport)[0].size(URL) == 4
    assert anyio.current_time() - began >= 1


async def test_a_size_is_found_behind_redirects() -> None:
    async with MockServer({"/w": Redirect("/x"), "/x": bytes(1234)}) as server, served(server) as (downloader, _):
        assert await downloader.size(f"{server.url}/w") == 1234
        assert [request.method for request in server.requests] == ["HEAD", "HEAD"]


async def test_a_size_that_does_not_come_is_not_waited_for() -> None:
    async with MockServer({"/w": b"0"}) as server, served(server, IMPATIENT) as (downloader, _):
        server.misbehave("/w", Latency(math.inf))

        with anyio.fail_after(3):
            assert await downloader.size(f"{server.url}/w") is None
