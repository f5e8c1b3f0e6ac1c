"""Dialing: a host and a port in, a connected TCP socket out, on asyncio.

A host with several addresses is tried at them in turn, families alternating, each a quarter of a second after the one
before or as soon as that has failed; the first that answers wins (RFC 8305, "happy eyeballs").
"""

import asyncio
import socket
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TypeAlias, cast

import anyio

# Seconds after which the next address is tried beside the one before.
_PATIENCE = 0.25

_Where: TypeAlias = tuple[str | int, ...]
_Address: TypeAlias = tuple[socket.AddressFamily, _Where]


async def dial(host: str, port: int) -> socket.socket:
    """Return a socket that is connected to `host`, which is a name or an address.

    Raises OSError, of the first address, if none can be reached.
    """
    first, *more = await _addresses(host, port)
    if not more:
        return await _reach(first)
    winners: list[socket.socket] = []
    failures: list[OSError] = []

    async def attempt(address: _Address, failed: anyio.Event) -> None:
        try:
            winners.append(await _reach(address))
            attempts.cancel_scope.cancel()
        except OSError as error:
            failures.append(error)
        finally:
            failed.set()

    try:
        async with anyio.create_task_group() as attempts:
            for address in (first, *more):
                failed = anyio.Event()
                attempts.start_soon(attempt, address, failed)
                with anyio.move_on_after(_PATIENCE):
                    await failed.wait()
        if not winners:
            raise failures[0]
        return winners.pop(0)
    finally:
        for late in winners:  # a second one that was as fast, or all if this was cancelled
            late.close()


async def _addresses(host: str, port: int) -> Sequence[_Address]:
    """Return the addresses of `host`, families alternating from that of the first."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port))]
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [(family, cast("_Where", address)) for family, _, _, _, address in found]
    preferred = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for address in chain.from_iterable(zip_longest(preferred, others)) if address is not None]


async def _reach(address: _Address) -> socket.socket:
    family, where = address
    reached = socket.socket(family, socket.SOCK_STREAM)
    try:
        reached.setblocking(False)
        await asyncio.get_running_loop().sock_connect(reached, where)
    except BaseException:
        reached.close()
        raise
    return reached
