from dataclasses import FrozenInstanceError, fields
from typing import get_args

import pytest

from tfjs_fetch.events import (
    Event,
    Finished,
    Planned,
    Retrying,
    ShardFinished,
    ShardProgress,
    Stalled,
    Warned,
    WeightReady,
    ignore,
)

_SOURCE = "https://h/model.json"
_EVENTS: list[Event] = [
    Planned(_SOURCE, shards=2, weights=3, total_bytes=None, cached_bytes=0),
    ShardProgress(_SOURCE, "https://h/w0", index=0, received=1, size=None),
    ShardFinished(_SOURCE, "https://h/w0", index=0, size=4, origin="network"),
    Retrying(_SOURCE, "https://h/w0", attempt=2, delay=0.5, error="it broke"),
    Stalled(_SOURCE, "https://h/w0", index=None, seconds=30.0),
    WeightReady(_SOURCE, "dense/kernel", done=1, total=3),
    Warned(_SOURCE, "odd"),
    Finished(_SOURCE, received_bytes=4, seconds=1.5),
]


def test_every_kind_of_event_is_in_the_union() -> None:
    assert [type(event) for event in _EVENTS] == list(get_args(Event))


@pytest.mark.parametrize("event", _EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_a_frozen_value_that_names_its_model_first(event: Event) -> None:
    assert fields(event)[0].name == "source"
    assert not hasattr(event, "__dict__")
    assert hash(event) == hash(event)
    with pytest.raises(FrozenInstanceError):
        event.source = "else"  # type: ignore[misc]  # it is what is tested


def test_the_default_listener_does_nothing() -> None:
    for event in _EVENTS:
        ignore(event)
