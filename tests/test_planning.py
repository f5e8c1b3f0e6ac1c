"""What a load will bring, known from model.json alone."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.groups import spec
from tfjs_fetch.config import Policy
from tfjs_fetch.errors import ExtraBytesError, MissingBytesError, ShardOrderError, UnknownWeightError, WrongContentError
from tfjs_fetch.format.manifest import parse
from tfjs_fetch.planning import Blueprint, Plan, draw, needed_shards, plan_shards, warn_of_surplus

_MIB = 2**20


def group(paths: list[str], *weights: dict[str, Any]) -> dict[str, Any]:
    return {"paths": paths, "weights": list(weights)}


def drawn(*groups: dict[str, Any], weights: str | list[str] | None = None, policy: Policy | None = None) -> Blueprint:
    return draw(parse(json.dumps(groups).encode()), weights, policy or Policy())


TWO = (group(["a"], spec("a/x", [2]), spec("a/y", [3], "bool")), group(["b"], spec("b/x", [4], "int32")))
TEXT = (group(["a"], spec("a", [2])), group(["t"], spec("t", [2], "string")), group(["c"], spec("c", [0])))


def test_all_weights_are_wanted_unless_some_are_chosen() -> None:
    blueprint = drawn(*TWO)

    assert blueprint.everything
    assert blueprint.wanted == {"a/x", "a/y", "b/x"}
    assert blueprint.wanted_manifest is blueprint.manifest
    assert blueprint.total_bytes == 8 + 3 + 16


@pytest.mark.parametrize(
    ("weights", "wanted", "total"),
    [
        ("a/*", ["a/x", "a/y"], 11),
        ("*/x", ["a/x", "b/x"], 24),
        (["b/x", "a/y"], ["a/y", "b/x"], 19),
        ([], [], 0),
    ],
)
def test_chosen_weights_are_wanted_in_the_order_of_the_document(
    weights: str | list[str], wanted: list[str], total: int
) -> None:
    blueprint = drawn(*TWO, weights=weights)

    assert [spec.name for spec in blueprint.wanted_specs] == wanted
    assert [spec.name for spec in blueprint.wanted_manifest.weights] == wanted
    assert (blueprint.everything, blueprint.total_bytes) == (False, total)


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(UnknownWeightError) as caught:
        drawn(*TWO, weights=["a/x", "a/z"])

    assert (caught.value.name, caught.value.nearest[0]) == ("a/z", "a/y")


@pytest.mark.parametrize(("weights", "total"), [(None, None), ("t", None), ("a", 8), (["a", "c"], 8)])
def test_the_total_is_unknown_only_where_strings_are_loaded(weights: str | list[str] | None, total: int | None) -> None:
    assert drawn(*TEXT, weights=weights).total_bytes == total


def test_shards_out_of_order_are_an_error_unless_that_is_ignored() -> None:
    swapped = group(["g-shard2of2.bin", "g-shard1of2.bin"], spec("w", [2]))

    with pytest.raises(ShardOrderError) as caught:
        drawn(swapped)

    assert (caught.value.group, caught.value.paths) == (0, ("g-shard2of2.bin", "g-shard1of2.bin"))
    assert drawn(swapped, policy=Policy(shard_order="ignore")).layouts[0].size == 8


EMPTY = spec("e", [0])


@pytest.mark.parametrize(
    ("groups", "weights", "policy", "expected"),
    [
        (TWO, None, Policy(), [True, True]),
        (TWO, "b/x", Policy(), [False, True]),
        (TEXT, "t", Policy(), [False, True, False]),
        # A file without a word about what is in it is not asked for.
        ((group(["a"]), *TWO), None, Policy(), [False, True, True]),
        # Bytes in the file of an empty weight would shift what TF.js reads, unless nothing comes behind it.
        ((group(["e"], EMPTY), *TWO), None, Policy(), [True, True, True]),
        ((*TWO, group(["e"], EMPTY)), None, Policy(), [True, True, False]),
        ((group([], EMPTY), *TWO), None, Policy(), [False, True, True]),
        ((group(["e"], EMPTY), *TWO), "e", Policy(), [False, False, False]),
        ((group(["e"], EMPTY), *TWO), None, Policy(extra_bytes="ignore"), [False, True, True]),
    ],
)
def test_only_groups_whose_files_matter_are_needed(
    groups: tuple[dict[str, Any], ...], weights: str | None, policy: Policy, expected: list[bool]
) -> None:
    blueprint = drawn(*groups, weights=weights, policy=policy)

    assert [blueprint.is_needed(layout) for layout in blueprint.layouts] == expected


def test_extra_bytes_are_tolerated_in_the_last_group() -> None:
    first, last = drawn(*TWO).layouts

    assert drawn(*TWO).check_total(last, [20]) == 4
    with pytest.raises(ExtraBytesError) as caught:
        drawn(*TWO).check_total(first, [12])
    assert (caught.value.group, caught.value.expected, caught.value.got) == (0, 11, 12)
    assert drawn(*TWO, policy=Policy(extra_bytes="ignore")).check_total(first, [12]) == 1


def test_missing_bytes_are_an_error_in_any_group() -> None:
    blueprint = drawn(*TWO, policy=Policy(extra_bytes="ignore"))

    with pytest.raises(MissingBytesError) as caught:
        blueprint.check_total(blueprint.layouts[1], [15])

    assert (caught.value.group, caught.value.weight, caught.value.shard) == (1, "b/x", "b")


#      a: 0 to 8 | b: nothing | c: 8 to 20 | d: 20 to 24
SIZES = [6, 6, 0, 6, 6]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (["a"], [0, 1]),
        (["b"], []),
        (["c"], [1, 3, 4]),
        (["d"], [4]),
        (["a", "d"], [0, 1, 4]),
        (["a", "c", "d"], [0, 1, 3, 4]),
        (None, [0, 1, 2, 3, 4]),
    ],
)
def test_only_shards_with_wanted_bytes_are_needed(weights: list[str] | None, expected: list[int]) -> None:
    specs = [spec("a", [2]), spec("b", [0]), spec("c", [3]), spec("d", [1])]
    blueprint = drawn(group(list("01234"), *specs), weights=weights)

    assert list(needed_shards(blueprint, blueprint.layouts[0], SIZES)) == expected


def test_all_shards_are_needed_where_their_sizes_are_unknown() -> None:
    blueprint = drawn(group(["0", "1"], spec("a", [1]), spec("b", [1])), weights="a")

    assert list(needed_shards(blueprint, blueprint.layouts[0], None)) == [0, 1]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1), st.data())
def test_shards_are_needed_that_share_a_byte_with_a_wanted_weight(
    sizes: list[int], dimensions: list[int], data: st.DataObject
) -> None:
    specs = [spec(f"w{index}", [size], "bool") for index, size in enumerate(dimensions)]
    sizes = [*sizes, max(0, sum(dimensions) - sum(sizes))]
    chosen = data.draw(st.lists(st.sampled_from([one["name"] for one in specs]), max_size=len(specs) - 1))
    blueprint = drawn(group([f"s{index}" for index in range(len(sizes))], *specs), weights=chosen)

    owners = [one["name"] for one in specs for _ in range(one["shape"][0])]
    homes = [index for index, size in enumerate(sizes) for _ in range(size)]
    expected = sorted({home for owner, home in zip(owners, homes, strict=False) if owner in chosen})
    if not blueprint.everything:
        assert list(needed_shards(blueprint, blueprint.layouts[0], sizes)) == expected


def test_shards_of_very_many_chosen_weights_are_found_at_once() -> None:
    specs = [spec(f"w{index}", [256]) for index in range(50_000)]
    blueprint = drawn(group([f"s{index}" for index in range(2000)], *specs), weights=["w[0-9]*[02468]", "w0"])
    began = time.monotonic()

    needed = needed_shards(blueprint, blueprint.layouts[0], [25_600] * 2000)

    assert len(needed) == 2000
    assert time.monotonic() - began < 1


def test_the_shards_of_a_plan_are_numbered_over_the_whole_model() -> None:
    blueprint = drawn(TWO[0], group(["b1", "b2"], spec("w", [_MIB + 1])), weights="w")

    shards = plan_shards(blueprint, [["http://h/a"], ["http://h/b1?sig=1", "http://h/b2?sig=1"]])

    assert [(shard.index, shard.group, shard.path, shard.size) for shard in shards] == [
        (1, 1, "b1", 4 * _MIB),
        (2, 1, "b2", 4),
    ]
    assert [shard.url for shard in shards] == ["http://h/b1?sig=1", "http://h/b2?sig=1"]
    assert "sig" not in repr(shards)


def test_the_size_of_a_shard_is_open_where_the_document_does_not_tell() -> None:
    blueprint = drawn(group(["a", "b"], spec("w", [5])), group(["t"], spec("t", [1], "string")))

    shards = plan_shards(blueprint, [["a", "b"], ["t"]])

    assert [shard.size for shard in shards] == [None, None, None]


@pytest.mark.parametrize(
    ("wanted", "ranges"),
    [
        (["a"], [(0, 40_000)]),
        (["b"], [(40_000, 440_000)]),
        (["a", "c"], [(0, 40_000), (440_000, 480_000)]),
        (["a", "b", "c"], [(0, 480_000)]),
        (["c", "d"], [(440_000, 480_008)]),
        (["c", "e"], [(440_000, 520_008)]),  # they are less than 64 KiB apart
        (["a", "b", "c", "d", "e"], []),
    ],
)
def test_ranges_are_those_of_chosen_weights_joined_where_they_are_near(
    wanted: list[str], ranges: list[tuple[int, int]]
) -> None:
    sizes = {"a": 10_000, "b": 100_000, "c": 10_000, "d": 2, "e": 10_000}
    specs = [spec(name, [count]) for name, count in sizes.items()]
    document = json.dumps([{"paths": ["w"], "weights": specs}]).encode()
    (shard,) = plan_shards(draw(parse(document), wanted, Policy()), [["http://h/w"]])

    assert list(shard.ranges) == ranges
    assert shard.asked_bytes == (sum(stop - start for start, stop in ranges) if ranges else 520_008)


def test_a_plan_is_shown_without_the_queries_of_urls() -> None:
    blueprint = drawn(group(["a?sig=1"], spec("a", [2])))
    shards = plan_shards(blueprint, [["http://h/a?sig=1"]])
    plan = Plan("http://h/model.json", blueprint.manifest, blueprint.wanted_specs, shards, blueprint.total_bytes)

    assert json.loads(json.dumps(plan.as_json())) == {
        "source": "http://h/model.json",
        "kind": "weights",
        "weights": 1,
        "total_bytes": 8,
        "cached_bytes": 0,
        "asked_bytes": 8,
        "shards": [{"index": 0, "group": 0, "path": "a", "size": 8, "ranges": []}],
    }


def test_a_surplus_is_told_with_its_group_and_size() -> None:
    told: list[str] = []
    warn_of_surplus(drawn(*TWO).layouts[1], [2400], 55, [("b", bytes(64))], told.append)

    assert len(told) == 1
    assert "group 1 " in told[0]
    assert "2,345" in told[0]


def test_a_surplus_that_is_visibly_another_file_is_an_error() -> None:
    with pytest.raises(WrongContentError) as caught:
        warn_of_surplus(drawn(*TWO).layouts[1], [2400], 55, [("b", b"<!doctype html>")], pytest.fail)

    assert (caught.value.url, caught.value.received, caught.value.expected) == ("b", 2400, 55)
