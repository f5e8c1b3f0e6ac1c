import pytest

from mock_server import Cut, Latency, Throttle
from mock_server.schedule import Schedule


def test_a_turn_lasts_as_many_requests_as_it_was_given() -> None:
    schedule = Schedule()

    schedule.add("/w", (Cut(at=1),), 2)

    assert [schedule.take("/w") for _ in range(3)] == [(Cut(at=1),), (Cut(at=1),), ()]


def test_turns_come_one_after_the_other() -> None:
    schedule = Schedule()

    schedule.add("/w", (Cut(at=1),), 1)
    schedule.add("/w", (), 1)
    schedule.add("/w", (Cut(at=2),), None)

    assert [schedule.take("/w") for _ in range(4)] == [(Cut(at=1),), (), (Cut(at=2),), (Cut(at=2),)]


def test_other_paths_are_left_alone() -> None:
    schedule = Schedule()

    schedule.add("/w", (Cut(at=1),), None)

    assert schedule.take("/other") == ()


def test_faults_of_every_path_and_of_one_add_up() -> None:
    schedule = Schedule()

    schedule.add("/w", (Cut(at=1), Latency(2)), None)
    schedule.add(None, (Throttle(10),), None)

    assert schedule.take("/w") == (Throttle(10), Cut(at=1), Latency(2))


def test_a_turn_that_would_never_come_is_refused() -> None:
    schedule = Schedule()
    schedule.add("/w", (Cut(at=1),), None)

    with pytest.raises(ValueError, match="/w already misbehaves for ever"):
        schedule.add("/w", (Cut(at=2),), 1)


def test_a_path_can_be_forgiven_alone() -> None:
    schedule = Schedule()
    schedule.add("/a", (Cut(at=1),), None)
    schedule.add("/b", (Cut(at=1),), None)

    schedule.clear("/a")

    assert (schedule.take("/a"), schedule.take("/b")) == ((), (Cut(at=1),))


def test_all_can_be_forgiven_at_once() -> None:
    schedule = Schedule()
    schedule.add("/a", (Cut(at=1),), None)
    schedule.add(None, (Cut(at=1),), None)

    schedule.clear(None)

    assert schedule.take("/a") == ()
