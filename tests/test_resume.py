"""Downloads that go on where they broke: only under a strong name for the version, and never with bytes of another."""

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from mock_server import Cut, Drip, File, IgnoreRange, MockServer, Reset, Stall, Status, WrongRange
from mock_server.files import LONG_AGO
from tests.downloading import URL, Recording, downloads, served
from tests.memory_transport import MemoryTransport, Reply
from tfjs_fetch.config import Retry
from tfjs_fetch.download import Target
from tfjs_fetch.errors import StalledError, StatusError, TruncatedError
from tfjs_fetch.events import Retrying, Stalled

pytestmark = pytest.mark.anyio

BODY = bytes(range(256)) * 40
CUT = 6_000
ETAG = {"etag": '"1"'}


async def downloaded(server: MockServer, retry: Retry | None = None) -> bytes:
    """Return what comes from /w."""
    body = Recording()
    async with served(server, retry or Retry(delay=0, max_delay=0)) as (downloader, _):
        with anyio.fail_after(10):
            await downloader.download(Target(f"{server.url}/w"), body)
    return bytes(body.data)


def asked(server: MockServer) -> list[tuple[str | None, str | None]]:
    """Return the Range and the If-Range of each request."""
    return [(request.headers.get("range"), request.headers.get("if-range")) for request in server.requests]


@pytest.mark.parametrize("kind", [Cut, Reset])
async def test_a_peer_that_closes_costs_one_more_request_and_no_byte_twice(kind: type[Cut | Reset]) -> None:
    async with MockServer({"/w": File(BODY, etag='"1"')}) as server:
        server.misbehave("/w", kind(CUT), times=1)

        assert await downloaded(server) == BODY
        if kind is Cut:  # of what is reset the kernel may drop some
            assert asked(server) == [(None, None), (f"bytes={CUT}-", '"1"')]
            assert sum(request.bytes_sent for request in server.requests) == len(BODY)
        assert [request.status for request in server.requests] == [200, 206]


async def test_a_last_modified_that_is_old_enough_is_a_strong_name() -> None:
    async with MockServer({"/w": File(BODY, etag=None)}) as server:
        server.misbehave("/w", Cut(CUT), times=1)

        assert await downloaded(server) == BODY
        assert asked(server)[1] == (f"bytes={CUT}-", "Mon, 01 Jan 2024 00:00:00 GMT")


@pytest.mark.parametrize(
    "names",
    [
        {"etag": 'W/"1"'},
        {"etag": "unquoted"},
        {"etag": None, "last_modified": None},
        {"etag": None, "ago": timedelta(seconds=30)},
        {"etag": None, "ago": timedelta(days=-1)},
    ],
    ids=["weak", "no ETag", "none", "just modified", "modified in future"],
)
async def test_without_a_strong_name_all_of_it_comes_again(names: Any) -> None:
    if "ago" in names:
        names = {"etag": None, "last_modified": datetime.now(UTC) - names["ago"]}
    async with MockServer({"/w": File(BODY, **names)}) as server:
        server.misbehave("/w", Cut(CUT), times=1)

        assert await downloaded(server) == BODY
        assert asked(server) == [(None, None)] * 2


@pytest.mark.parametrize("headers", [{"content-encoding": "gzip"}, {}], ids=["gzip", "no length"])
async def test_what_has_no_known_place_on_the_wire_comes_again(headers: dict[str, str]) -> None:
    file = File(BODY, etag='"1"', gzip="always") if headers else File(BODY, etag='"1"', framing="chunked")
    async with MockServer({"/w": file}) as server:
        server.misbehave("/w", Cut(100), times=1)

        assert await downloaded(server) == BODY
        assert asked(server) == [(None, None)] * 2


BROKEN = Reply(b"012345", headers={"content-length": "10", **ETAG})
WHOLE = Reply(b"0123456789", headers=ETAG)


def part(headers: dict[str, str] | None = None, body: bytes = b"6789", span: str = "bytes 6-9/10") -> Reply:
    """Return a part, unless `headers` say otherwise of version "1"."""
    return Reply(body, 206, {"content-range": span, **(ETAG if headers is None else headers)})


async def brought(replies: list[Any]) -> tuple[bytes, list[str | None]]:
    """Return what comes of these replies in turn, and the Range of each request."""
    transport, body = MemoryTransport({URL: replies}), Recording()
    await downloads(transport)[0].download(Target(URL), body)
    return bytes(body.data), [one.headers.get("range") for one in transport.asked]


@pytest.mark.parametrize(
    "headers", [ETAG, {}, {"etag": '"1"', "last-modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {"content-length": "4"}]
)
async def test_a_part_that_fits_is_put_behind_what_is_there(headers: dict[str, str]) -> None:
    assert await brought([BROKEN, part(headers)]) == (b"0123456789", [None, "bytes=6-"])


@pytest.mark.parametrize(
    "wrong",
    [
        part(span="bytes 5-9/10", body=b"xxxxx"),
        part(span="bytes 7-9/10", body=b"xxx"),
        part(span="bytes 6-9/11"),
        part(span="bytes 6-9/*"),
        part(span="bytes 6-10/10"),
        part(span="bytes 9-6/10"),
        part(span="bytes */10"),
        part(span="chars 6-9/10"),
        part(span=""),
        part({"etag": '"2"'}, b"xxxx"),
        part({"etag": 'W/"1"'}, b"xxxx"),
        part({"content-encoding": "gzip", **ETAG}, b"xxxx"),
        part({"content-length": "9", **ETAG}, b"xxxx"),
        Reply(b"", 416, {"content-range": "bytes */6"}),
        Reply(b"", 412),
    ],
    ids=lambda reply: f"{reply.status} {reply.headers}",
)
async def test_a_part_that_does_not_fit_is_dropped_and_the_whole_asked_for(wrong: Reply) -> None:
    assert await brought([BROKEN, wrong, WHOLE]) == (b"0123456789", [None, "bytes=6-", None])


async def test_a_part_of_a_part_is_gone_on_from() -> None:
    replies = [BROKEN, part(body=b"67", span="bytes 6-7/10"), part(body=b"89", span="bytes 8-9/10")]

    assert await brought(replies) == (b"0123456789", [None, "bytes=6-", "bytes=8-"])


async def test_a_new_version_comes_whole() -> None:
    assert await brought([BROKEN, Reply(b"abcdefghijkl", headers={"etag": '"2"'})]) == (
        b"abcdefghijkl",
        [None, "bytes=6-"],
    )


async def test_a_new_version_that_breaks_is_gone_on_from_itself() -> None:
    new = Reply(b"abcdef", headers={"content-length": "12", "etag": '"2"'})
    rest = part({"etag": '"2"'}, b"ghijkl", "bytes 6-11/12")

    assert await brought([BROKEN, new, rest]) == (b"abcdefghijkl", [None, "bytes=6-", "bytes=6-"])


async def test_a_server_that_does_not_understand_if_range_is_asked_without_once_more_than_half_is_there() -> None:
    transport, body = MemoryTransport({URL: [BROKEN, WHOLE, part()]}), Recording()

    await downloads(transport)[0].download(Target(URL), body)

    ranges = [(one.headers.get("range"), one.headers.get("if-range")) for one in transport.asked]
    assert bytes(body.data) == b"0123456789"
    assert ranges == [(None, None), ("bytes=6-", '"1"'), ("bytes=6-", None)]


@pytest.mark.parametrize("headers", [{}, {"etag": '"2"'}, {"last-modified": "Mon, 01 Jan 2024 00:00:00 GMT"}])
async def test_without_if_range_a_part_must_say_that_it_is_of_the_same_version(headers: dict[str, str]) -> None:
    ranges: list[str | None] = [None, "bytes=6-", "bytes=6-", None]

    assert await brought([BROKEN, WHOLE, part(headers, b"xxxx"), WHOLE]) == (b"0123456789", ranges)


async def test_an_origin_without_ranges_is_not_asked_for_any_again() -> None:
    little = Reply(b"0123", headers={"content-length": "10", **ETAG})
    urls = [URL.replace("w0", f"w{index}") for index in range(5)]
    transport = MemoryTransport({url: [little, WHOLE] for url in urls})
    downloader, _ = downloads(transport)
    for url in urls:
        body = Recording()
        await downloader.download(Target(url), body)
        assert bytes(body.data) == b"0123456789"

    # One file may be an exception; three are none.
    assert sum("range" in one.headers for one in transport.asked) == 3


async def test_an_origin_that_gave_parts_is_asked_for_them_again() -> None:
    little = Reply(b"0123", headers={"content-length": "10", **ETAG})
    urls = [URL.replace("w0", f"w{index}") for index in range(6)]
    replies: dict[str, Any] = {url: [little, WHOLE] for url in urls}
    replies[urls[0]] = [BROKEN, part()]
    transport = MemoryTransport(replies)
    downloader, _ = downloads(transport)
    for url in urls:
        await downloader.download(Target(url), Recording())

    assert sum("range" in one.headers for one in transport.asked) == 6


async def test_a_server_that_says_it_has_no_ranges_is_not_asked_for_any() -> None:
    broken = Reply(b"012345", headers={"content-length": "10", "accept-ranges": "none", **ETAG})

    assert await brought([broken, WHOLE]) == (b"0123456789", [None, None])


async def test_a_range_of_the_users_own_is_not_sent() -> None:
    transport = MemoryTransport({URL: Reply(b"0123")})
    downloader, _ = downloads(transport, headers={"Range": "bytes=1-", "If-Range": '"1"', "X-Mine": "1"})

    await downloader.download(Target(URL), Recording())

    assert transport.asked[0].headers == {"X-Mine": "1", "accept-encoding": "identity"}


@pytest.mark.parametrize("fault", [IgnoreRange(), WrongRange(by=3), WrongRange(by=-3)])
async def test_a_server_that_is_wrong_about_ranges_gives_the_right_bytes(fault: Any) -> None:
    async with MockServer({"/w": File(BODY, etag='"1"')}) as server:
        server.misbehave_in_turn("/w", Cut(CUT), fault, fault, fault)

        assert await downloaded(server) == BODY


@pytest.mark.parametrize("etag", ["sha256", 'W/"1"'])
async def test_a_file_replaced_between_two_attempts_is_the_new_one(etag: str) -> None:
    new = bytes(reversed(BODY))
    async with MockServer({"/w": File(BODY, etag=etag)}) as server:
        server.misbehave("/w", Cut(CUT), times=1)
        server.swap_after({"/w": File(new, etag=etag, last_modified=LONG_AGO + timedelta(days=1))}, path="/w")

        assert await downloaded(server) == new


# Attempts


async def test_attempts_that_bring_something_do_not_count() -> None:
    async with (
        MockServer({"/w": File(BODY, etag='"1"')}) as server,
        served(server, Retry(2, delay=0)) as (lone, events),
    ):
        server.misbehave("/w", Cut(len(BODY) // 10))
        body = Recording()
        await lone.download(Target(f"{server.url}/w"), body)

        assert bytes(body.data) == BODY
        assert len(server.requests) == 10
    assert [event.attempt for event in events if isinstance(event, Retrying)] == [2] * 9


async def test_attempts_that_bring_next_to_nothing_count() -> None:
    async with MockServer({"/w": File(BODY, etag='"1"')}) as server:
        server.misbehave("/w", Cut(len(BODY) // 100))
        with pytest.raises(TruncatedError) as caught:
            await downloaded(server, Retry(attempts=4, delay=0))

        assert (len(server.requests), caught.value.received) == (4, 4 * (len(BODY) // 100))


async def test_what_comes_again_is_no_progress() -> None:
    async with MockServer({"/w": File(BODY, etag='W/"1"')}) as server:
        server.misbehave("/w", Cut(CUT))
        with pytest.raises(TruncatedError):
            await downloaded(server, Retry(attempts=3, delay=0))

        assert len(server.requests) == 3


async def test_a_stalled_download_goes_on_over_another_connection() -> None:
    async with MockServer({"/w": File(BODY, etag='"1"')}) as server:
        async with served(server, Retry(delay=0, stall_seconds=0.3)) as (downloader, events):
            server.misbehave("/w", Stall(CUT), times=1)
            body = Recording()
            await downloader.download(Target(f"{server.url}/w", 4), body)

        assert bytes(body.data) == BODY
        assert asked(server)[1][0] == f"bytes={CUT}-"
        assert server.connections == 2
    (stalled,) = (event for event in events if isinstance(event, Stalled))
    assert (stalled.index, stalled.seconds) == (4, 0.3)


async def test_a_drip_of_a_byte_now_and_then_is_a_stall() -> None:

    async with MockServer({"/w": File(BODY, etag='"1"')}) as server:
        server.misbehave("/w", Drip(0.05, at=10))
        with pytest.raises(StalledError):
            await downloaded(server, Retry(attempts=1, stall_seconds=0.5, stall_bytes=100))


async def test_the_retries_of_an_origin_are_bounded_over_all_its_files() -> None:
    async with MockServer({f"/{n}": b"" for n in range(20)}) as server:
        server.misbehave(None, Status(503))
        async with served(server, Retry(attempts=5, delay=0, max_delay=0)) as (downloader, events):
            for number in range(20):
                with pytest.raises(StatusError):
                    await downloader.download(Target(f"{server.url}/{number}"), Recording())

            retries = [event for event in events if isinstance(event, Retrying)]
            assert len(server.requests) == 20 + len(retries)
            assert len(retries) == 20 + len(server.requests) // 10


# Origins that want to be left alone


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_pause_that_is_asked_for_holds_for_the_whole_origin(form: str, status: int) -> None:
    asked_for: Any = 1 if form == "seconds" else datetime.now(UTC) + timedelta(seconds=2)
    async with MockServer({"/a": b"a", "/b": b"b"}) as server, served(server) as (downloader, _):
        server.misbehave("/a", Status(status, asked_for), times=1)
        body, began = Recording(), anyio.current_time()

        async def other() -> None:
            await anyio.sleep(0.3)
            await downloader.download(Target(f"{server.url}/b"), body)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            await downloader.download(Target(f"{server.url}/a"), Recording())

        assert bytes(body.data) == b"b"
        assert anyio.current_time() - began > 0.9
        assert [request.path for request in server.requests][0:1] == ["/a"]
        assert sorted(request.path for request in server.requests[1:]) == ["/a", "/b"]


async def test_waiting_for_an_origin_is_no_stall() -> None:
    async with MockServer({"/w": b"w"}) as server:
        server.misbehave("/w", Status(503, 1), times=1)

        assert await downloaded(server, Retry(delay=0, stall_seconds=0.4)) == b"w"


async def test_another_origin_is_not_paused() -> None:
    async with MockServer({"/a": b"a"}) as busy, MockServer({"/b": b"b"}) as idle, served(busy) as (downloader, _):
        busy.misbehave("/a", Status(503, 100), times=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(downloader.download, Target(f"{busy.url}/a"), Recording())
            await anyio.sleep(0.3)
            assert busy.requests
            with anyio.fail_after(1):
                await downloader.download(Target(f"{idle.url}/b"), Recording())
            tasks.cancel_scope.cancel()


async def test_the_answer_of_a_redirects_target_pauses_that_one() -> None:
    first, target = "https://h/w0", "https://cdn/w0"
    busy = Reply(b"", 429, {"retry-after": "60"})
    transport = MemoryTransport({first: Reply(b"", 302, {"location": target}), target: [busy, Reply(b"0")]})
    downloader, _ = downloads(transport, home=first)

    with anyio.move_on_after(0.2):
        await downloader.download(Target(first), Recording())

    origins = downloader.requester.origins
    assert (origins.at(first).is_paused, origins.at(target).is_paused) == (False, True)
