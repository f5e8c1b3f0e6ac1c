"""What several commands have in common: options, the client made from them, and how progress is shown."""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import reduce
from typing import Any, TypeVar, cast

import click

from tfjs_fetch.bars import progress_bars
from tfjs_fetch.client import Client
from tfjs_fetch.config import Cache, CacheMode, Policy
from tfjs_fetch.errors import (
    CacheError,
    IntegrityError,
    NotCachedError,
    RefusedError,
    TfjsFetchError,
    TransportError,
)
from tfjs_fetch.events import Event, OnEvent, ignore
from tfjs_fetch.progress import ProgressState

_Function = TypeVar("_Function", bound=Callable[..., Any])

# What a shell is told after Ctrl-C: 128 and the number of SIGINT.
INTERRUPTED = 130
# And where what was named is not there.
NOTHING_FOUND = 1

_TOLERATED: Mapping[str, Mapping[str, Any]] = {
    "extra-bytes": {"extra_bytes": "ignore"},
    "shard-order": {"shard_order": "ignore"},
    "private-hosts": {"private_hosts": True},
    "absolute-shards": {"absolute_shards": True},
}
# RFC 9110, 5.6.2: what the name of a header may be.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _not_empty(context: click.Context, parameter: click.Parameter, source: str) -> str:
    if not source:
        raise click.UsageError("SOURCE is empty", context)  # a shell variable that is not set, most likely
    return source


def source_options(function: _Function) -> _Function:
    """Add what says where a model is and what is tolerated of it."""
    options = (
        click.argument("source", callback=_not_empty),
        click.option(
            "--weights", multiple=True, metavar="GLOB", help="Only weights of such names: 'conv1/*'. Repeatable."
        ),
        click.option(
            "--header",
            "headers",
            multiple=True,
            metavar="'NAME: VALUE'",
            help="Sent to the model's own host only. Repeatable.",
        ),
        click.option("--shard-url", metavar="PREFIX", help="Where the weights files are, if not beside the JSON."),
        click.option(
            "--allow",
            multiple=True,
            metavar="WHAT",
            type=click.Choice(list(_TOLERATED)),
            help=f"Go on in spite of {', '.join(_TOLERATED)}. Repeatable.",
        ),
        click.option(
            "--cache",
            "cache_mode",
            default="auto",
            show_default=True,
            metavar="auto|refresh|trust|offline|none",
            type=click.Choice(["auto", "refresh", "trust", "offline", "none"]),
            help="When what is kept on disk is used: after asking the server, or without; none keeps nothing.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables."),
    )
    return reduce(lambda decorated, option: option(decorated), reversed(options), function)


def progress_option(function: _Function) -> _Function:
    """Add how progress is shown."""
    return click.option(
        "--progress",
        default="bar",
        show_default=True,
        metavar="bar|json|none",
        type=click.Choice(["bar", "json", "none"]),
        help="What the standard error shows meanwhile: bars, an event a line, or nothing.",
    )(function)


def client(headers: Sequence[str], allow: Sequence[str], cache_mode: str) -> Client:
    """Return a client for these options. Raises click.UsageError for a header that cannot be sent."""
    policy = Policy()
    for name in allow:
        policy = replace(policy, **_TOLERATED[name])
    cache = None if cache_mode == "none" else Cache(mode=cast("CacheMode", cache_mode))
    return Client(headers=dict(map(_header, headers)), policy=policy, cache=cache)


@contextmanager
def shown(progress: str) -> Iterator[OnEvent]:
    """Give the listener for a choice of `progress_option`.

    Where each line is to be JSON, a failure becomes such a line as well, and its exit code a click.exceptions.Exit.
    """
    match progress:
        case "json":
            lines = _JsonLines()
            try:
                yield lines.show
            except (TfjsFetchError, OSError, KeyboardInterrupt) as error:
                lines.fail(error)
                raise click.exceptions.Exit(exit_code(error)) from None
        case "bar":
            with progress_bars() as show:
                yield show
        case _:
            yield ignore


def exit_code(error: BaseException) -> int:
    """Return the code a shell is told for `error`."""
    match error:
        case KeyboardInterrupt():
            return INTERRUPTED
        case RefusedError():
            return 6
        case TransportError() if error.url.startswith(("http:", "https:")):  # a local file is no matter of the network
            return 3
        case IntegrityError():
            return 4
        case NotCachedError():
            return 3
        case CacheError():
            return 5
        case _:
            return 1


class _JsonLines:
    """Writes each event as one line of JSON, with the state it leads to."""

    def __init__(self) -> None:
        self._states: dict[str, ProgressState] = {}

    def show(self, event: Event) -> None:
        state = self._states.setdefault(event.source, ProgressState()).fold(event, time.monotonic())
        _write_line(
            {
                "event": _snake(type(event).__name__),
                **asdict(event),
                "done_bytes": state.done,
                "total_bytes": state.total,
                "rate": round(state.rate, 1),
                "time_left": None if state.time_left is None else round(state.time_left, 2),
            }
        )

    def fail(self, error: BaseException) -> None:
        """Write the line for a load that came to nothing."""
        message = str(error) or "interrupted"
        _write_line(
            {"event": "failed", "error": type(error).__name__, "message": message, "exit_code": exit_code(error)}
        )


def _write_line(line: Mapping[str, Any]) -> None:
    click.echo(json.dumps(line), err=True)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _header(text: str) -> tuple[str, str]:
    # The value is not repeated: it may be secret, and messages end up in logs.
    name, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or not _HEADER_NAME.fullmatch(name):
        raise click.UsageError("a --header is of the form 'Name: value'")
    if not (value.isascii() and value.isprintable()):
        raise click.UsageError(f"the value of --header {name!r} has characters that cannot be sent")
    return name, value
