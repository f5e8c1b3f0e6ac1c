from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from tfjs_fetch.config import Limits, Policy, Retry


def test_the_defaults_are_those_of_the_design() -> None:
    assert Limits() == Limits(8, 32, 8 * 2**30, 64 * 2**20, 100_000, 64)
    assert Retry() == Retry(5, 0.5, 30.0, 1024, 30.0)
    assert Policy() == Policy("error", "error", False, False)


@pytest.mark.parametrize("settings", [Limits(), Retry(), Policy()])
def test_settings_are_frozen_values(settings: Any) -> None:
    assert settings == type(settings)()
    assert hash(settings) == hash(type(settings)())
    for field in fields(settings):
        with pytest.raises(FrozenInstanceError):
            setattr(settings, field.name, 1)


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_is_at_least_one_and_the_wrong_one_is_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"Limits\({name}={value}\)"):
        Limits(**{name: value})


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"attempts": 0}, {"attempts": -1}, {"delay": -0.1}, {"max_delay": -1}, {"stall_bytes": 0}],
        *[{"stall_seconds": 0}, {"stall_seconds": -1}],
    ],
)
def test_a_retry_needs_durations_and_sizes_that_exist(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Retry(**wrong)


def test_a_retry_may_be_the_only_attempt_without_pause() -> None:
    assert Retry(attempts=1, delay=0, max_delay=0).attempts == 1


def test_a_policy_knows_its_choices() -> None:
    with pytest.raises(ValueError, match="extra_bytes"):
        Policy(extra_bytes="sometimes")  # type: ignore[arg-type]  # what an untyped caller may do


@pytest.mark.parametrize("name", ["delay", "max_delay", "stall_seconds"])
def test_a_duration_is_a_number(name: str) -> None:
    wrong: dict[str, Any] = {name: float("nan")}
    with pytest.raises(ValueError, match=name):
        Retry(**wrong)
