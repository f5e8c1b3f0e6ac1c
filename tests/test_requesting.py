"""Requests on behalf of a model: redirects, what is personal, and whom not to follow."""

import gzip
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import pytest

from tests.downloading import URL, Recording, brought, downloads
from tests.memory_transport import MemoryTransport, Reply
from tfjs_fetch.config import Policy, Retry
from tfjs_fetch.errors import (
    RefusedError,
    StatusError,
    TransportError,
    UnreachableError,
)

pytestmark = pytest.mark.anyio


# Redirects


async def test_a_relative_redirect_is_followed_from_where_it_came() -> None:
    replies = {
        "https://h/a/w0": Reply(b"moved", 301, {"location": "../b/w0?x=1"}),
        "https://h/b/w0?x=1": Reply(b"", 307, {"location": "w1#top"}),
        "https://h/b/w1": Reply(b"there"),
    }

    assert await brought(replies, "https://h/a/w0") == b"there"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_every_kind_of_redirect_is_followed(status: int) -> None:
    assert await brought({URL: Reply(b"", status, {"location": "/x"}), "https://h/x": Reply(b"0")}) == b"0"


@pytest.mark.parametrize(("status", "headers"), [(302, {}), (300, {"location": "/x"}), (304, {"location": "/x"})])
async def test_what_leads_nowhere_is_a_status(status: int, headers: dict[str, str]) -> None:
    with pytest.raises(StatusError) as caught:
        await brought({URL: Reply(b"", status, headers)})

    assert caught.value.status == status


def chain(length: int) -> dict[str, Reply]:
    hops = {f"https://h/{hop}": Reply(b"", 302, {"location": f"/{hop + 1}"}) for hop in range(length)}
    return {**hops, f"https://h/{length}": Reply(b"there")}


async def test_ten_redirects_are_followed() -> None:
    assert await brought(chain(10), "https://h/0") == b"there"


@pytest.mark.parametrize("replies", [chain(11), {"https://h/0": Reply(b"", 302, {"location": "/0?"})}])
async def test_eleven_redirects_or_a_loop_are_refused(replies: Mapping[str, Reply]) -> None:
    transport = MemoryTransport(replies)

    with pytest.raises(RefusedError) as caught:
        await brought(transport, "https://h/0")

    assert caught.value.url == "https://h/0"
    assert len(transport.asked) == 11


async def test_no_redirect_leads_from_https_to_http() -> None:
    transport = MemoryTransport({URL: Reply(b"", 302, {"location": "http://h/w0?sig=secret"})})

    with pytest.raises(RefusedError) as caught:
        await brought(transport)

    assert transport.urls == [URL]
    assert "secret" not in str(caught.value)


async def test_a_redirect_may_lead_from_http_to_https() -> None:
    replies = {"http://h/w": Reply(b"", 301, {"location": "https://h/w"}), "https://h/w": Reply(b"0")}

    assert await brought(replies, "http://h/w", home="http://h") == b"0"


@pytest.mark.parametrize("location", ["ftp://h/w", "file:///etc/passwd", "http://[", "https://h:99999/", "data:,0"])
async def test_a_redirect_to_no_url_of_the_web_is_refused(location: str) -> None:
    with pytest.raises(RefusedError):
        await brought({URL: Reply(b"", 302, {"location": location})})


async def test_headers_go_to_the_origin_of_the_model_and_come_back_on_return() -> None:
    transport = MemoryTransport(
        {
            "https://h/w": Reply(b"", 302, {"location": "https://cdn/w"}),
            "https://cdn/w": Reply(b"", 302, {"location": "https://h:443/back"}),
            "https://h:443/back": Reply(b"0"),
        }
    )
    headers = {"X-Api-Key": "secret", "Authorization": "Bearer secret"}

    await brought(transport, "https://h/w", headers=headers, policy=Policy(private_hosts=True))

    there, away, back = transport.asked
    assert [asked.personal for asked in transport.asked] == [True, False, True]
    assert there.headers == back.headers == {**headers, "accept-encoding": "identity"}
    assert away.headers == {"accept-encoding": "identity"}


@pytest.mark.parametrize("url", ["https://cdn/w", "https://h:8443/w", "https://sub.h/w", "http://h/w"])
async def test_another_host_port_or_scheme_is_another_origin(url: str) -> None:
    transport = MemoryTransport({url: Reply(b"0")})

    await brought(transport, url, headers={"X-Api-Key": "secret"})

    assert (transport.asked[0].personal, transport.asked[0].headers) == (False, {"accept-encoding": "identity"})


async def test_the_caller_does_not_choose_the_encoding() -> None:
    transport = MemoryTransport({URL: Reply(b"0")})

    await brought(transport, headers={"Accept-Encoding": "gzip, br", "X-Mine": "1"})

    assert transport.asked[0].headers == {"X-Mine": "1", "accept-encoding": "identity"}


async def test_documents_may_come_compressed() -> None:
    transport = MemoryTransport({URL: Reply(gzip.compress(b"[]"), headers={"content-encoding": "gzip"})})
    body = Recording()

    await downloads(transport)[0].document(URL, body)

    assert (bytes(body.data), transport.asked[0].headers["accept-encoding"]) == (b"[]", "gzip")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"no", 403),
        Reply(b"012", headers={"content-length": "9"}),
        Reply(b"", 302, {"location": "http://x/?sig=secret"}),
        Reply(b"0", headers={"content-encoding": "br"}),
        [UnreachableError("https://cdn/w?sig=secret", "reset", final=True)],
    ],
)
async def test_signatures_of_redirect_targets_are_in_no_error(reply: Reply | Sequence[Any]) -> None:
    target = "https://cdn/w?sig=secret"
    replies = {"https://h/w": Reply(b"", 302, {"location": target}), target: reply}

    with pytest.raises(TransportError) as caught:
        await brought(replies, "https://h/w", policy=Policy(private_hosts=True), retry=Retry(attempts=1))

    assert "secret" not in f"{caught.value} {vars(caught.value)}"


# Signed links


SIGNED = ["https://cdn/w0?sig=SECRET1", "https://cdn/w0?sig=SECRET2"]


def signing(*links: str) -> list[Reply]:
    return [Reply(b"", 302, {"location": link}) for link in links]


@pytest.mark.parametrize("body", [b"", b"x" * 100_000], ids=len)
async def test_a_link_that_has_expired_is_asked_for_once_more(body: bytes) -> None:
    transport = MemoryTransport({URL: signing(*SIGNED), SIGNED[0]: Reply(body, 403), SIGNED[1]: Reply(b"there")})

    assert await brought(transport) == b"there"
    assert transport.urls == [URL, SIGNED[0], URL, SIGNED[1]]


async def test_a_link_that_is_forbidden_again_is_an_error_without_its_signature() -> None:
    transport = MemoryTransport({URL: signing(*SIGNED), SIGNED[0]: Reply(b"", 403), SIGNED[1]: Reply(b"", 403)})

    with pytest.raises(StatusError) as caught:
        await brought(transport)

    assert (caught.value.status, caught.value.url) == (403, "https://h/w0?…")
    assert "SECRET" not in f"{caught.value} {caught.value!r}"


async def test_what_is_forbidden_without_a_redirect_is_forbidden() -> None:
    transport = MemoryTransport({URL: Reply(b"", 403)})

    with pytest.raises(StatusError):
        await brought(transport)

    assert transport.urls == [URL]


async def test_a_broken_body_goes_on_over_a_new_link() -> None:
    etag = {"etag": '"1"'}
    broken = Reply(b"012345", headers={"content-length": "10", **etag})
    rest = Reply(b"6789", 206, {"content-range": "bytes 6-9/10", **etag})
    transport = MemoryTransport({URL: signing(*SIGNED), SIGNED[0]: broken, SIGNED[1]: rest})

    assert await brought(transport) == b"0123456789"
    assert transport.asked[2].headers["range"] == "bytes=6-"


async def test_a_link_that_expires_while_a_body_is_broken_costs_one_request_more() -> None:
    etag = {"etag": '"1"'}
    broken = Reply(b"012345", headers={"content-length": "10", **etag})
    rest = Reply(b"6789", 206, {"content-range": "bytes 6-9/10", **etag})
    links = signing(SIGNED[0], SIGNED[0], SIGNED[1])
    transport = MemoryTransport({URL: links, SIGNED[0]: [broken, Reply(b"", 403)], SIGNED[1]: rest})

    assert await brought(transport) == b"0123456789"


# Private hosts

NAMES = {
    "models.example": "93.184.216.34",
    "cdn.example": "2606:2800:220:1::1",
    "intranet.example": "10.0.0.7",
    "mixed.example": "fd00::1",
    "localhost": "127.0.0.1",
    "127.1": "127.0.0.1",
    "link.example": "fe80::1%2",
}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the names of NAMES, and no others, resolve."""

    async def getaddrinfo(host: str, port: object) -> list[Any]:
        if host not in NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        public = ["93.184.216.34"] if host in ("mixed.example", "cdn.example") else []
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in [*public, NAMES[host]]]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)


PRIVATE = [
    "127.0.0.1",
    "127.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[fd00::1]",
    "[fe80::1]",
    "[fec0::1]",
    "[2002:7f00:1::]",
    "[64:ff9b::7f00:1]",
    "[::127.0.0.1]",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "intranet.example",
    "mixed.example",
    "link.example",
]


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("host", PRIVATE)
async def test_a_public_model_leads_to_no_private_host(host: str) -> None:
    url, target = "http://models.example/w", f"http://{host}:8080/latest/meta-data"
    transport = MemoryTransport({url: Reply(b"", 302, {"location": target}), target: Reply(b"secret")})

    with pytest.raises(RefusedError) as caught:
        await brought(transport, url, home=url)

    assert (transport.urls, caught.value.url) == ([url], url)
    assert await brought(transport, url, home=url, policy=Policy(private_hosts=True)) == b"secret"


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("home", "target"),
    [
        ("http://models.example", "http://cdn.example/w"),
        ("http://models.example", "http://8.8.8.8/w"),
        ("http://models.example", "http://models.example:8080/w"),
        ("http://models.example", "http://unknown.example/w"),
        ("http://localhost:8000", "http://intranet.example/w"),
        ("http://192.168.1.1", "http://[::1]/w"),
        ("http://intranet.example", "http://cdn.example/w"),
    ],
)
async def test_public_models_lead_to_public_hosts_and_private_ones_anywhere(home: str, target: str) -> None:
    replies = {f"{home}/w": Reply(b"", 302, {"location": target}), target: Reply(b"0")}

    assert await brought(replies, f"{home}/w", home=home) == b"0"


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("target", ["http://169.254.169.254/w", "http://localhost/w", "http://intranet.example/w"])
async def test_a_host_with_public_and_private_addresses_leads_to_no_private_one(target: str) -> None:
    url = "http://mixed.example/w"
    transport = MemoryTransport({url: Reply(b"", 302, {"location": target}), target: Reply(b"secret")})

    with pytest.raises(RefusedError):
        await brought(transport, url, home=url)

    assert transport.urls == [url]


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("home", ["http://mixed.example/w", "http://intranet.example/w"])
async def test_what_a_models_host_is_was_seen_when_it_was_connected_to(home: str) -> None:
    replies = {home: Reply(b"", 302, {"location": "http://localhost/w"}), "http://localhost/w": Reply(b"0")}
    inside = MemoryTransport(replies, peers={"mixed.example": "10.0.0.1", "intranet.example": "10.0.0.1"})
    outside = MemoryTransport(replies, peers={"mixed.example": "93.184.216.34", "intranet.example": "93.184.216.34"})

    assert await brought(inside, home, home=home) == b"0"
    with pytest.raises(RefusedError):
        await brought(outside, home, home=home)


@pytest.mark.usefixtures("names")
async def test_a_public_host_that_becomes_a_private_one_is_refused() -> None:
    home, again = "http://models.example/w", "http://models.example:6379/w"
    transport = MemoryTransport(
        {home: Reply(b"", 302, {"location": again}), again: Reply(b"secret")},
        peers={"models.example": "93.184.216.34", "models.example:6379": "127.0.0.1"},
    )

    with pytest.raises(RefusedError):
        await brought(transport, home, home=home)


@pytest.mark.usefixtures("names")
async def test_a_private_host_is_not_reached_by_detours() -> None:
    first, second = "http://models.example/w", "http://cdn.example/w"
    transport = MemoryTransport(
        {
            first: Reply(b"", 302, {"location": second}),
            second: Reply(b"", 302, {"location": "http://127.0.0.1/w"}),
        }
    )

    with pytest.raises(RefusedError) as caught:
        await brought(transport, first, home=first)

    assert (transport.urls, caught.value.url) == ([first, second], second)


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".com", "a\0b", "\uff41..b", "\ud800", "a b", "%"])
async def test_a_host_that_is_no_name_ends_in_our_errors(host: str) -> None:
    with pytest.raises(TransportError):
        await brought({URL: Reply(b"", 302, {"location": f"https://{host}/w"})})
