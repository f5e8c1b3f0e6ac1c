"""What `--progress json` writes: one JSON object a line, whose fields depend on its `event`.

Sizes are bytes, times are seconds, `rate` is bytes a second; null is what is unknown. `done_bytes`, `total_bytes`,
`rate` and `time_left` are what a bar shows of the whole model. The last line is `finished` or `failed`.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

Kinds: TypeAlias = tuple[type, ...]
Fields: TypeAlias = Mapping[str, Kinds]

_INTEGER: Kinds = (int,)
_NUMBER: Kinds = (int, float)
_TEXT: Kinds = (str,)
_NULL: Kinds = (type(None),)

# In every line but `failed`.
COMMON: Fields = {
    "event": _TEXT,
    "source": _TEXT,
    "done_bytes": _INTEGER,
    "total_bytes": _INTEGER + _NULL,
    "rate": _NUMBER,
    "time_left": _NUMBER + _NULL,
}
# In addition, by event.
EVENTS: Mapping[str, Fields] = {
    "planned": {"shards": _INTEGER, "weights": _INTEGER, "cached_bytes": _INTEGER},
    "shard_progress": {"url": _TEXT, "index": _INTEGER, "received": _INTEGER, "size": _INTEGER + _NULL},
    "shard_finished": {"url": _TEXT, "index": _INTEGER, "size": _INTEGER, "origin": _TEXT},
    "retrying": {"url": _TEXT, "attempt": _INTEGER, "delay": _NUMBER, "error": _TEXT},
    "stalled": {"url": _TEXT, "index": _INTEGER + _NULL, "seconds": _NUMBER},
    "weight_ready": {"name": _TEXT, "done": _INTEGER, "total": _INTEGER},
    "warned": {"message": _TEXT},
    "finished": {"received_bytes": _INTEGER, "seconds": _NUMBER},
}
# All of it, for this one: `error` is the name of the class, `message` what a person would read.
FAILED: Fields = {"event": _TEXT, "error": _TEXT, "message": _TEXT, "exit_code": _INTEGER}


def is_event(line: Mapping[str, Any]) -> bool:
    """Whether `line` is one about a model, with all of its fields and no others."""
    return _fits(line, {**COMMON, **EVENTS[line["event"]]})


def is_failure(line: Mapping[str, Any]) -> bool:
    """Whether `line` is one about a load that came to nothing."""
    return line["event"] == "failed" and _fits(line, FAILED)


def _fits(line: Mapping[str, Any], fields: Fields) -> bool:
    return line.keys() == fields.keys() and all(
        isinstance(value, fields[name]) and not isinstance(value, bool) for name, value in line.items()
    )
