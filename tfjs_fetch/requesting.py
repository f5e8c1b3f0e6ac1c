"""Requests on behalf of one model: redirects, what is personal, and hosts that are private."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import anyio

from tfjs_fetch.bodies import HeadBody, Surplus
from tfjs_fetch.config import Policy
from tfjs_fetch.content import HEAD_BYTES
from tfjs_fetch.errors import RefusedError, TransportError
from tfjs_fetch.origins import Origin, Origins
from tfjs_fetch.redaction import redact
from tfjs_fetch.representation import content_length
from tfjs_fetch.sinks import Sink
from tfjs_fetch.transport import Admit, Answer, Transport
from tfjs_fetch.urls import joined, origin

# Seconds to wait for a body that is not the one wanted: of an error, to say what it is, or of a redirect.
MANNERS_SECONDS = 1.0

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MAX_REDIRECTS = 10
# What is asked for is decided here, whatever the user's headers say.
_OURS = frozenset(("accept-encoding", "range", "if-range"))
# Addresses of IPv6 that end with one of IPv4: those translated (RFC 6052), and those once called compatible.
_WITH_IPV4 = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
# What a link that has expired is answered with.
_FORBIDDEN = 403


@dataclass
class Requester:
    """Sends the requests for one model. `headers` go to the model's own origin, `home`, and nowhere else.

    `named` are hosts that the user named beside `home`.
    """

    transport: Transport
    origins: Origins
    policy: Policy
    home: tuple[str, str, int]
    headers: Mapping[str, str] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    _is_outside: bool | None = None  # whether `home` is at a public address, as far as that was seen

    @asynccontextmanager
    async def answer(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> AsyncIterator[tuple[Answer, Origin]]:
        """Give the answer at the end of all redirects, and whose it is.

        `headers` go everywhere. `waiting` is open while an origin is left alone because it asked for that. Redirects
        often lead to signed links, and those expire: if one is forbidden, `url` is asked once more for another.
        """
        target, hops, renewed = url, 0, False
        while hops <= _MAX_REDIRECTS:
            asked = self.origins.at(target)
            guest = asked is not self.origins.at(url)
            if asked.is_full if guest else asked.is_busy:
                with waiting():
                    await asked.ready(guest=guest)
            personal = origin(target) == self.home
            own = self.headers.items() if personal else ()
            everything = {name: value for name, value in own if name.lower() not in _OURS} | dict(headers)
            admit = await self._admission(target)
            asked.begin()
            try:
                async with self.transport.request(method, target, everything, personal=personal, admit=admit) as answer:
                    location = answer.headers.get("location") if answer.status in _REDIRECTS else None
                    expired = answer.status == _FORBIDDEN and target != url and not renewed
                    if location is None and not expired:
                        yield answer if hops == 0 else _Redirected(answer), asked
                        return
                    await _drain(answer)
            finally:
                asked.end()
            if location is None:
                target, hops, renewed = url, 0, True
            else:
                before, target, hops = target, joined(target, location), hops + 1
                await self.check_leap(before, target)
        raise RefusedError(url, f"it redirects more than {_MAX_REDIRECTS} times")

    async def check_leap(self, url: str, target: str) -> None:
        """Raise RefusedError if `url` must not lead to `target`: from https to http, or to a private host."""
        if origin(url)[0] == "https" and origin(target)[0] == "http":
            raise RefusedError(url, f"it leads from https to {redact(target)}")
        host = origin(target)[1]
        if host != self.home[1] and await self._is_guarded(host) and any(map(_is_private, await _addresses(host))):
            raise _private(url, host)

    async def _admission(self, target: str) -> Admit | None:
        """Return what looks at the address that is connected to: whatever a name was resolved to, that one counts."""
        host = origin(target)[1]
        if await self._is_guarded(host):
            return partial(self._admit, target)
        return self._note if host == self.home[1] and self._is_outside is None else None

    async def _is_guarded(self, host: str) -> bool:
        """Whether `host` must not be private: it was not named by the user, and the model's own host is outside.

        Where that one is was seen when it was connected to. Else, as behind a proxy, all its addresses have to be
        private for others to be allowed.
        """
        if self.policy.private_hosts or host in self.named:
            return False
        if self._is_outside is not None:
            return self._is_outside
        if host == self.home[1]:
            return False
        addresses = await _addresses(self.home[1])
        return not (addresses and all(map(_is_private, addresses)))

    def _note(self, address: str) -> None:
        self._is_outside = not _is_private(address)

    def _admit(self, target: str, address: str) -> None:
        """Raise RefusedError if `target` turned out to be at a private address."""
        if _is_private(address):
            raise _private(target, address)


class _Redirected:
    """An answer behind a redirect: how long it stays what it is says nothing of where the redirect leads next time."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        control = ", ".join(filter(None, ("no-cache", answer.headers.get("cache-control"))))
        self.headers: Mapping[str, str] = {**answer.headers, "cache-control": control}
        self._answer = answer

    async def receive(self, sink: Sink) -> None:
        await self._answer.receive(sink)


async def _drain(answer: Answer) -> None:
    """Read the short body of a redirect, so that its connection can be used again; others cost the connection."""
    if (length := content_length(answer.headers)) is not None and length < HEAD_BYTES:
        with suppress(Surplus, TransportError), anyio.move_on_after(MANNERS_SECONDS):
            await answer.receive(HeadBody())


def _is_private(address: str) -> bool:
    """Whether an IP address is not one of the public internet; IPv4 may come in the clothes of IPv6."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found.is_site_local:
            return True
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and any(found in network for network in _WITH_IPV4):
            inner = IPv4Address(int(found) & 0xFFFFFFFF)
        found = inner or found
    return not found.is_global


def _private(url: str, host: str) -> RefusedError:
    return RefusedError(url, f"it leads to the private host {host}; Policy(private_hosts=True) allows that")


async def _addresses(host: str) -> Sequence[str]:
    """Return the addresses of `host`; none if it is unknown here: a proxy may know it, else the request will fail."""
    try:
        return [host] if _is_address(host) else await _resolved(host.rstrip("."))
    except (OSError, ValueError):
        return []


async def _resolved(host: str) -> Sequence[str]:
    return [str(found[4][0]) for found in await anyio.getaddrinfo(host, None)]


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
