"""What several commands have in common: options, the client made from them, and how progress is shown."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import reduce
from typing import Any, TypeVar

import click

from tfjs_fetch.bars import progress_bars
from tfjs_fetch.client import Client
from tfjs_fetch.config import Policy
from tfjs_fetch.events import Event, OnEvent, ignore
from tfjs_fetch.progress import ProgressState

_Function = TypeVar("_Function", bound=Callable[..., Any])

_TOLERATED: Mapping[str, Mapping[str, Any]] = {
    "extra-bytes": {"extra_bytes": "ignore"},
    "shard-order": {"shard_order": "ignore"},
    "private-hosts": {"private_hosts": True},
    "absolute-shards": {"absolute_shards": True},
}


def source_options(function: _Function) -> _Function:
    """Add what says where a model is and what is tolerated of it."""
    options = (
        click.argument("source"),
        click.option("--weights", multiple=True, metavar="GLOB", help="Only weights of such names (repeatable)."),
        click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Sent to the model's host."),
        click.option("--shard-url", metavar="PREFIX", help="Where the shards are, if not beside the JSON."),
        click.option("--allow", multiple=True, type=click.Choice(list(_TOLERATED)), help="What else is refused."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    )
    return reduce(lambda decorated, option: option(decorated), reversed(options), function)


def progress_option(function: _Function) -> _Function:
    """Add how progress is shown."""
    choices = click.Choice(["bar", "json", "none"])
    return click.option("--progress", default="bar", show_default=True, type=choices, help="On standard error.")(
        function
    )


def client(headers: Sequence[str], allow: Sequence[str]) -> Client:
    """Return a client for these options. Raises click.UsageError for a header without a colon."""
    policy = Policy()
    for name in allow:
        policy = replace(policy, **_TOLERATED[name])
    return Client(headers=dict(_header(text) for text in headers), policy=policy)


@contextmanager
def shown(progress: str) -> Iterator[OnEvent]:
    """Give the listener for a choice of `progress_option`."""
    match progress:
        case "json":
            yield _JsonLines().show
        case "bar":
            with progress_bars() as show:
                yield show
        case _:
            yield ignore


class _JsonLines:
    """Writes each event as one line of JSON, with the state it leads to."""

    def __init__(self) -> None:
        self._states: dict[str, ProgressState] = {}

    def show(self, event: Event) -> None:
        state = self._states.setdefault(event.source, ProgressState()).fold(event, time.monotonic())
        line = {
            "event": _snake(type(event).__name__),
            **asdict(event),
            "done_bytes": state.done,
            "rate": round(state.rate, 1),
            "time_left": None if state.time_left is None else round(state.time_left, 2),
        }
        sys.stderr.write(json.dumps(line) + "\n")
        sys.stderr.flush()


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"--header {text!r} is not of the form 'Name: value'")
    return name.strip(), value.strip()
