"""Sinks: where the bytes of a body go, in memory that belongs to them."""

from typing import Protocol

# What a sink gives while it has no room.
NO_ROOM = memoryview(b"")


class Sink(Protocol):
    """Where the bytes of a body go."""

    def get_buffer(self) -> memoryview:
        """Return writable memory for the next bytes, of any length; empty while there is no room for them."""

    def advance(self, count: int) -> None:
        """Take note that `count` bytes were written to the start of the last buffer."""

    async def wait(self) -> None:
        """Return when there may be room again."""
