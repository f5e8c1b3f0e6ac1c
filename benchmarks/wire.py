"""A wire that all connections share: passes bytes on to a server, and no more of its answers than so many a second."""

import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

_START_SECONDS = 30.0
_PIECE_BYTES = 64 * 1024
# How far sending may be behind and make up for it.
_SLACK_SECONDS = 0.01


@contextmanager
def wire(origin: str, rate: float) -> Iterator[str]:
    """Give the origin of a wire to `origin` that carries `rate` bytes per second, in a process of its own."""
    processes = multiprocessing.get_context("spawn")
    receiver, sender = processes.Pipe(duplex=False)
    relay = processes.Process(target=_relay, args=(urlsplit(origin).port, rate, sender), daemon=True)
    relay.start()
    try:
        if not receiver.poll(_START_SECONDS):
            raise TimeoutError("the wire of the benchmark did not start")
        yield f"http://127.0.0.1:{receiver.recv()}"
    finally:
        relay.terminate()
        relay.join()


class _Allowance:
    """Grants bytes at a rate, to whoever asks."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free_at, self._lock = rate, time.monotonic(), threading.Lock()

    def take(self, count: int) -> None:
        """Return when `count` bytes may be sent."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _SLACK_SECONDS) + count / self._rate
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)


def _relay(port: int, rate: float, sender: Connection) -> None:
    allowance = _Allowance(rate)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        sender.send(listener.getsockname()[1])
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=_pass_on, args=(near, far, None), daemon=True).start()
            threading.Thread(target=_pass_on, args=(far, near, allowance), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, allowance: _Allowance | None) -> None:
    with suppress(OSError), source, sink:
        while data := source.recv(_PIECE_BYTES):
            if allowance is not None:
                allowance.take(len(data))
            sink.sendall(data)
