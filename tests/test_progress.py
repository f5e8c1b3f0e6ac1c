import pytest
from hypothesis import given
from hypothesis import strategies as st

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
)
from tfjs_fetch.progress import ProgressState, ShardState

_SOURCE = "https://h/model.json"


def planned(total: int | None = 100, shards: int = 2, weights: int = 3) -> Planned:
    return Planned(_SOURCE, shards, weights, total, 0)


def progress(index: int, received: int, size: int | None = 50) -> ShardProgress:
    return ShardProgress(_SOURCE, f"w{index}", index, received, size)


def done(index: int, size: int = 50) -> ShardFinished:
    return ShardFinished(_SOURCE, f"w{index}", index, size, "network")


_FINISHED = Finished(_SOURCE, 100, 1.0)


def folded(*events: Event) -> ProgressState:
    """Return the state after `events`, one a second."""
    state = ProgressState()
    for now, event in enumerate(events):
        state.fold(event, now)
    return state


def test_before_any_event_nothing_is_known() -> None:
    state = ProgressState()

    assert (state.source, state.total, state.done, state.rate, state.time_left) == ("", None, 0, 0.0, None)
    assert (state.shards, state.shards_done, state.weights, state.weights_done) == (0, 0, 0, 0)
    assert (state.active, state.complete) == ({}, False)


def test_the_plan_gives_the_totals() -> None:
    state = folded(planned())

    assert (state.source, state.total, state.shards, state.weights) == (_SOURCE, 100, 2, 3)


def test_fold_returns_the_state_itself() -> None:
    state = ProgressState()

    assert state.fold(planned(), 0) is state


def test_hazard_8_bytes_are_counted_not_files() -> None:
    state = folded(planned(), progress(0, 10), done(1), progress(0, 20))

    assert state.done == 70
    assert state.shards_done == 1
    assert state.active == {0: ShardState("w0", 20, 50)}


def test_counts_of_weights_are_those_of_the_last_event() -> None:
    state = folded(planned(), WeightReady(_SOURCE, "a", 1, 3), WeightReady(_SOURCE, "b", 2, 3))

    assert (state.weights_done, state.weights) == (2, 3)


def test_a_restart_lowers_what_is_done() -> None:
    assert folded(planned(), progress(0, 40), progress(0, 5)).done == 5


def test_progress_that_comes_late_does_not_reopen_a_shard() -> None:
    state = folded(planned(), done(0), progress(0, 10))

    assert (state.done, state.active) == (50, {})


def test_a_shard_that_finishes_twice_counts_once_with_its_last_size() -> None:
    assert folded(planned(), done(0, 50), done(0, 40)).done == 40


@pytest.mark.parametrize(
    "event", [Retrying(_SOURCE, "w0", 2, 0.5, "e"), Stalled(_SOURCE, "w0", 0, 30.0), Warned(_SOURCE, "m")]
)
def test_other_events_change_no_count(event: Event) -> None:
    state = folded(planned(), progress(0, 10), event)

    assert (state.done, state.shards_done, state.weights_done) == (10, 0, 0)


def test_more_bytes_than_planned_are_not_shown() -> None:
    assert folded(planned(total=60), done(0), done(1)).done == 60


def test_without_a_total_the_bytes_are_counted_on() -> None:
    state = folded(planned(total=None), done(0), progress(1, 25, None))

    assert (state.total, state.done, state.time_left) == (None, 75, None)


def test_the_view_of_active_shards_cannot_be_changed() -> None:
    active = folded(progress(0, 10)).active

    with pytest.raises(TypeError):
        active[1] = ShardState("w1", 0, None)  # type: ignore[index]  # it is what is tested


# Missed events


def test_the_last_event_alone_completes_what_was_planned() -> None:
    state = folded(planned(), _FINISHED)

    assert (state.complete, state.done, state.shards_done, state.weights_done) == (True, 100, 2, 3)
    assert (state.active, state.time_left) == ({}, 0.0)


def test_without_the_plan_the_rest_is_counted_all_the_same() -> None:
    state = folded(done(0), done(1), WeightReady(_SOURCE, "a", 1, 3), _FINISHED)

    assert (state.done, state.shards_done, state.weights_done, state.weights) == (100, 2, 3, 3)


def test_a_shard_whose_end_was_missed_counts_in_full_when_all_is_finished() -> None:
    state = folded(planned(total=None), progress(0, 10, 50), progress(1, 20, None), _FINISHED)

    assert (state.done, state.active) == (70, {})


def test_the_end_of_a_shard_needs_no_progress_before() -> None:
    assert folded(planned(), done(1)).done == 50


# Rate and time left, by hand


def test_the_rate_is_bytes_over_seconds() -> None:
    state = ProgressState().fold(planned(total=1000), 10.0).fold(progress(0, 100), 12.0)

    assert (state.rate, state.time_left) == (50.0, 18.0)


def test_the_rate_is_that_of_the_last_five_seconds() -> None:
    state = ProgressState().fold(planned(total=10_000), 0.0)
    for second in range(1, 11):
        state.fold(progress(0, 100 * second if second <= 5 else 500 + 300 * (second - 5)), second)

    assert state.rate == (2000 - 500) / 5


def test_events_that_come_rarely_give_a_rate_as_well() -> None:
    state = ProgressState().fold(planned(total=1000), 0.0).fold(progress(0, 100), 10.0).fold(progress(0, 300), 20.0)

    assert (state.rate, state.time_left) == (20.0, 35.0)


def test_one_moment_gives_no_rate() -> None:
    state = ProgressState().fold(planned(), 7.0).fold(progress(0, 50), 7.0)

    assert (state.rate, state.time_left) == (0.0, None)


def test_a_restart_gives_no_negative_rate() -> None:
    state = ProgressState().fold(progress(0, 50), 0.0).fold(progress(0, 0), 1.0)

    assert state.rate == 0.0


def test_a_clock_that_steps_back_does_no_harm() -> None:
    state = ProgressState().fold(planned(), 5.0).fold(progress(0, 20), 7.0).fold(progress(0, 40), 1.0)

    assert state.rate == 20.0


def test_nothing_is_left_at_the_end() -> None:
    assert folded(planned(), done(0), done(1)).time_left == 0.0


_indexes = st.integers(0, 3)
_sizes = st.integers(0, 60)
_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(planned, st.none() | st.just(100)),
    st.builds(progress, _indexes, _sizes, st.none() | _sizes),
    st.builds(done, _indexes, _sizes),
    st.builds(WeightReady, st.just(_SOURCE), st.just("w"), st.integers(0, 3), st.just(3)),
    st.just(_FINISHED),
)


@given(st.lists(st.tuples(_events, st.floats(0, 100))))
def test_whatever_comes_the_figures_make_sense(seen: list[tuple[Event, float]]) -> None:
    state = ProgressState()

    for event, now in seen:
        state.fold(event, now)

        assert state.done >= 0
        assert state.total is None or state.done <= state.total
        assert state.rate >= 0.0
        assert state.time_left is None or state.time_left >= 0.0


@given(st.lists(st.tuples(_indexes, st.integers(1, 50)), max_size=30), st.data())
def test_any_missed_event_leaves_the_counts_of_those_seen_right(
    received: list[tuple[int, int]], data: st.DataObject
) -> None:
    events: list[Event] = [progress(index, count) for index, count in received]
    kept = [event for event in events if data.draw(st.booleans())]
    last = {event.index: event.received for event in kept if isinstance(event, ShardProgress)}

    assert folded(*kept).done == sum(last.values())


@given(st.integers(2, 40), st.floats(0.1, 10.0))
def test_a_steady_stream_has_its_own_rate(events: int, seconds: float) -> None:
    state = ProgressState()

    for index in range(events):
        state.fold(progress(0, 1000 * index, None), index * seconds)

    assert state.rate == pytest.approx(1000 / seconds)
    assert state.time_left is None
