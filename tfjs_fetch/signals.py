"""Signals: to wait for what happens next."""

import anyio


class Signal:
    """Wakes everyone who waits."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None  # while somebody waits

    def send(self) -> None:
        """Wake all that wait now."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Return at the next `send`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
