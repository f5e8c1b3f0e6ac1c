"""The command line, `tfjs-fetch`: one function a command."""

import signal
import sys

from tfjs_fetch.errors import MissingExtraError


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from tfjs_fetch.cli.app import app
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("click", "rich"):
            raise
        print(MissingExtraError("the command line", "cli"), file=sys.stderr)
        raise SystemExit(1) from None
    try:
        app(prog_name="tfjs-fetch")
    finally:
        # All is said: an interrupt while Python ends its threads would only print a traceback behind it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
