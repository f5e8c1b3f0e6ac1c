"""Which weights patterns choose, and what remains of a manifest."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.groups import spec
from tfjs_fetch.errors import UnknownWeightError
from tfjs_fetch.format.manifest import Manifest, parse
from tfjs_fetch.format.selection import chosen, renamed, restrict, with_groups

NAMES = ["dense/kernel", "dense/bias", "conv[1]/kernel", "conv1/kernel", "top"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("dense/kernel", {"dense/kernel"}),
        ("*", set(NAMES)),
        ("*/kernel", {"dense/kernel", "conv[1]/kernel", "conv1/kernel"}),
        ("d*l", {"dense/kernel"}),  # a star crosses slashes
        ("conv?/*", {"conv1/kernel"}),
        ("conv[0-9]/kernel", {"conv1/kernel"}),
        ("conv[1]/kernel", {"conv[1]/kernel"}),  # its own name, not the pattern that it would be
        ("conv[[]1]/*", {"conv[1]/kernel"}),
        (["top", "dense/*", "top"], {"top", "dense/kernel", "dense/bias"}),
        (iter(["top"]), {"top"}),
        ([], set()),
    ],
)
def test_patterns_choose_names(patterns: Any, expected: set[str]) -> None:
    assert chosen(NAMES, patterns) == expected


@pytest.mark.parametrize(
    ("pattern", "nearest"), [("dense/kernal", "dense/kernel"), ("Dense/bias", "dense/bias"), ("tops", "top")]
)
def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest_names(pattern: str, nearest: str) -> None:
    with pytest.raises(UnknownWeightError) as caught:
        chosen(NAMES, ["top", pattern])

    assert isinstance(caught.value, KeyError)
    assert (caught.value.name, caught.value.nearest[0]) == (pattern, nearest)


@given(st.lists(st.text(min_size=1), min_size=1))
def test_every_name_matches_itself(names: list[str]) -> None:
    for name in names:
        assert chosen(names, name) == {name}


GROUPS: list[dict[str, Any]] = [
    {"paths": ["a"], "weights": [spec("x", [1], note="kept"), spec("y", [2], "int32")], "extra": 1},
    {"paths": ["b"], "weights": [spec("z", [3])]},
    {"paths": []},
]


def manifest(*, bare: bool) -> Manifest:
    document = {"modelTopology": {"node": []}, "weightsManifest": GROUPS, "mine": 7}
    return parse(json.dumps(GROUPS if bare else document).encode())


@pytest.mark.parametrize("bare", [False, True])
def test_what_is_chosen_remains_with_all_that_is_said_of_it(bare: bool) -> None:
    rest = restrict(manifest(bare=bare), {"x", "z"})

    assert [[one.name for one in group.weights] for group in rest.groups] == [["x"], ["z"]]
    assert list(rest.entries) == [
        {"paths": [], "weights": [spec("x", [1], note="kept")], "extra": 1},
        {"paths": [], "weights": [spec("z", [3])]},
    ]


def test_the_rest_of_the_document_remains() -> None:
    rest = restrict(manifest(bare=False), {"y"})

    assert (rest.kind, rest.topology, rest.document["mine"]) == ("graph", {"node": []}, 7)
    assert parse(json.dumps(restrict(manifest(bare=False), set()).document).encode()).weights == ()


@pytest.mark.parametrize("bare", [False, True])
def test_weights_get_other_names_in_the_document_too(bare: bool) -> None:
    swapped = renamed(manifest(bare=bare), {"x": "y", "y": "x", "nobody": "?"})

    assert [one.name for one in swapped.weights] == ["y", "x", "z"]
    assert [one.dtype for one in swapped.weights] == ["float32", "int32", "float32"]
    assert [weight["name"] for group in swapped.entries for weight in group["weights"]] == ["y", "x", "z"]
    assert swapped.entries[0]["weights"][0]["note"] == "kept"


def test_what_is_given_is_not_changed() -> None:
    given_manifest = manifest(bare=False)
    before = json.dumps(given_manifest.document)

    restrict(given_manifest, {"x"})
    renamed(given_manifest, {"x": "other"})
    with_groups(given_manifest, (), ())

    assert json.dumps(given_manifest.document) == before
    assert [one.name for one in given_manifest.weights] == ["x", "y", "z"]


def test_groups_can_be_replaced() -> None:
    assert with_groups(manifest(bare=True), (), ()).document == []
    assert with_groups(manifest(bare=False), (), ()).document["weightsManifest"] == []
