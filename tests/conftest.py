"""What holds for all tests."""

import os
import signal


def pytest_configure() -> None:
    """Let interrupts reach the processes that tests start, and a name server that does not answer cost little time."""
    # A shell's background jobs ignore interrupts, as their children would.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Some tests ask for names that do not exist.
    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
