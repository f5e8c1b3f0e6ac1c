"""Requests on behalf of one model: redirects, what is personal, and hosts that are private."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address

import anyio

from tfjs_fetch.bodies import HeadBody, Surplus
from tfjs_fetch.config import Policy
from tfjs_fetch.content import HEAD_BYTES
from tfjs_fetch.errors import RefusedError, TransportError
from tfjs_fetch.origins import Origin, Origins
from tfjs_fetch.redaction import redact
from tfjs_fetch.representation import content_length
from tfjs_fetch.transport import Answer, Transport
from tfjs_fetch.urls import joined, origin

# Seconds to wait for a body that is not the one wanted: of an error, to say what it is, or of a redirect.
MANNERS_SECONDS = 1.0

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MAX_REDIRECTS = 10
# What is asked for is decided here, whatever the user's headers say.
_OURS = frozenset(("accept-encoding", "range", "if-range"))
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
            if asked.is_paused:
                with waiting():
                    await asked.ready()
            asked.count()
            personal = origin(target) == self.home
            own = self.headers.items() if personal else ()
            everything = {name: value for name, value in own if name.lower() not in _OURS} | dict(headers)
            admit = partial(self._admit, target) if await self._is_guarded(target) else None
            async with self.transport.request(method, target, everything, personal=personal, admit=admit) as answer:
                location = answer.headers.get("location") if answer.status in _REDIRECTS else None
                expired = answer.status == _FORBIDDEN and target != url and not renewed
                if location is None and not expired:
                    yield answer, asked
                    return
                await _drain(answer)
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
        if await self._is_guarded(target) and await _is_private(host):
            raise _private(url, host)

    async def _is_guarded(self, target: str) -> bool:
        """Whether `target` must not be a private host: it was not named by the user, who is outside as well."""
        host = origin(target)[1]
        if self.policy.private_hosts or host == self.home[1] or host in self.named:
            return False
        return not await _is_private(self.home[1])

    def _admit(self, target: str, address: str) -> None:
        """Raise RefusedError if `target` turned out to be at a private address, whatever its name was resolved to."""
        if _is_private_address(address):
            raise _private(target, address)


async def _drain(answer: Answer) -> None:
    """Read the short body of a redirect, so that its connection can be used again; others cost the connection."""
    if (length := content_length(answer.headers)) is not None and length < HEAD_BYTES:
        with suppress(Surplus, TransportError), anyio.move_on_after(MANNERS_SECONDS):
            await answer.receive(HeadBody())


async def _is_private(host: str) -> bool:
    """Whether `host` is, or has an address that is, not on the public internet."""
    try:
        addresses = [host] if _is_address(host) else await _addresses(host.rstrip("."))
    except (OSError, ValueError):
        return False  # Unknown here: a proxy may know it, else the request will fail.
    return any(_is_private_address(address) for address in addresses)


def _is_private_address(address: str) -> bool:
    """Whether an IP address is not one of the public internet; IPv4 may come in the clothes of IPv6."""
    found = ip_address(address.partition("%")[0])
    return not (getattr(found, "ipv4_mapped", None) or found).is_global


def _private(url: str, host: str) -> RefusedError:
    return RefusedError(url, f"it leads to the private host {host}; Policy(private_hosts=True) allows that")


async def _addresses(host: str) -> Sequence[str]:
    return [str(found[4][0]) for found in await anyio.getaddrinfo(host, None)]


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
