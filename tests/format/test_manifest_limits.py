"""model.json from a hostile hand: bounded time, bounded memory, one error."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfjs_fetch.config import Limits
from tfjs_fetch.errors import ManifestError, RefusedError, TfjsFetchError
from tfjs_fetch.format.manifest import parse

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

_MIB = 2**20
_SPEC = {"name": "w", "shape": [2], "dtype": "float32"}


@contextmanager
def bounded(*, seconds: float = 10, mebibytes: float | None = None) -> Iterator[None]:
    """Assert that the body takes no longer (ten times what it needs, or more) and no more memory than this."""
    began = time.monotonic()
    if mebibytes is None:
        yield
    else:
        with _traced(mebibytes):
            yield
    assert time.monotonic() - began < seconds


@contextmanager
def _traced(mebibytes: float) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * _MIB
    finally:
        tracemalloc.stop()


def refused(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(RefusedError) as caught:
        parse(data, source="model.json", limits=limits)
    assert caught.value.url == "model.json"
    return caught.value.reason


def one(**fields: object) -> bytes:
    return json.dumps([{"paths": ["w0"], "weights": [{**_SPEC, **fields}]}]).encode()


def many(count: int) -> bytes:
    specs = [{"name": str(index), "shape": [], "dtype": "bool"} for index in range(count)]
    return json.dumps([{"paths": ["w0"], "weights": specs}]).encode()


def test_a_document_beyond_64_mib_is_refused_unread() -> None:
    data = b"[" * (64 * _MIB + 1)

    with bounded(mebibytes=1):
        assert "67,108,865 bytes" in refused(data)


def test_a_document_of_64_mib_is_read() -> None:
    data = b"[]" + b" " * (64 * _MIB - 2)

    with bounded():
        assert parse(data).groups == ()


@pytest.mark.parametrize("bomb", [b"[" * 10_000_000, b'{"a":' * 2_000_000, b"[[],[" * 2_000_000, b'[{"":' * 2_000_000])
def test_deep_nesting_is_refused_before_it_is_parsed(bomb: bytes) -> None:
    with bounded(mebibytes=300):
        assert "Limits.depth is 64" in refused(bomb)


def test_nesting_up_to_the_limit_is_allowed() -> None:
    deepest = b'{"weightsManifest": [], "x": ' + b"[" * 63 + b"]" * 63 + b"}"

    assert parse(deepest).groups == ()
    assert "nested 65 deep" in refused(deepest.replace(b"[" * 63 + b"]" * 63, b"[" * 64 + b"]" * 64))


def test_a_limit_beyond_what_the_parser_can_do_is_an_error_like_others() -> None:
    data = b'{"weightsManifest": [], "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"

    with pytest.raises(ManifestError) as caught:
        parse(data, limits=Limits(depth=10**6))

    assert caught.value.problem.startswith("it is not JSON (")


def test_100_000_weights_are_read_and_one_more_is_refused() -> None:
    with bounded():
        assert len(parse(many(100_000)).weights) == 100_000
    with bounded():
        assert "100,001 weights" in refused(many(100_001))


def test_weights_are_counted_over_all_groups() -> None:
    group = {"paths": ["w0"], "weights": [_SPEC, _SPEC]}

    assert refused(json.dumps([group, group]).encode(), Limits(weights=3)) == "it lists 4 weights, Limits.weights is 3"


def test_a_million_paths_are_refused() -> None:
    data = json.dumps([{"paths": ["w"] * 10**6}]).encode()

    with bounded():
        assert "1,000,000 paths" in refused(data)


def test_a_million_groups_are_refused() -> None:
    data = b"[" + b"{}," * 999_999 + b"{}]"

    with bounded():
        assert "1,000,000 groups" in refused(data)


@pytest.mark.parametrize("item", ["", 1.0, None, [], {}, -1])
def test_a_shape_of_a_million_wrong_items_costs_no_million_errors(item: object) -> None:
    data = one(shape=[item] * 10**6)

    with bounded(mebibytes=300), pytest.raises(ManifestError) as caught:
        parse(data)
    assert caught.value.place.startswith("[0].weights[0].shape")


@pytest.mark.parametrize("field", ["paths", "weights"])
def test_a_hundred_thousand_wrong_items_cost_one_error(field: str) -> None:
    data = json.dumps([{"paths": [], field: [5] * 100_000}]).encode()

    with bounded(), pytest.raises(ManifestError) as caught:
        parse(data)
    assert caught.value.place == f"[0].{field}[0]"


@pytest.mark.parametrize(
    "shape",
    [[2**33], [2**20, 2**20], [10**4000], [10**4000, 0], [0, 10**30], [1e308, 0], [2**16] * 32, [0, *[10] * 31]],
)
def test_hazard_38_a_shape_of_absurd_numbers_is_refused(shape: list[float]) -> None:
    with bounded(mebibytes=5):
        assert "weight_bytes" in refused(one(shape=shape))


def test_a_number_of_more_digits_than_python_reads_is_an_error_like_others() -> None:
    with pytest.raises(ManifestError) as caught:
        parse(b'[{"paths": ["w0"], "weights": [{"name": "w", "dtype": "bool", "shape": [1' + b"0" * 5000 + b"]}]}]")

    assert caught.value.problem.startswith("it is not JSON (")


@pytest.mark.parametrize(
    ("fields", "total"),
    [
        ({"shape": [25], "dtype": "float32"}, 100),
        ({"shape": [101], "dtype": "bool"}, 101),
        ({"shape": [25], "dtype": "string"}, 100),  # four bytes of length each, at least
        ({"shape": [25], "dtype": "float32", "quantization": {"dtype": "uint8", "min": 0, "scale": 1}}, 100),  # decoded
    ],
)
def test_hazard_38_more_bytes_than_allowed_are_refused_stored_or_decoded(fields: dict[str, object], total: int) -> None:
    parse(one(**fields), limits=Limits(weight_bytes=total))

    assert f"Limits.weight_bytes, which is {total - 1}" in refused(one(**fields), Limits(weight_bytes=total - 1))


def test_bytes_are_summed_over_all_groups() -> None:
    document = [{"paths": ["w0"], "weights": [{**_SPEC, "name": name}]} for name in "ab"]

    assert "16 bytes of weights" in refused(json.dumps(document).encode(), Limits(weight_bytes=15))


@pytest.mark.parametrize("field", ["name", "dtype", "shape"])
def test_what_came_from_outside_is_shown_shortened(field: str) -> None:
    long = "x" * 10**6
    data = one(**{field: long, "dtype": "float64"} if field == "name" else {field: long})

    with pytest.raises(ManifestError) as caught:
        parse(data)

    assert len(str(caught.value)) < 300


def test_a_long_name_is_shown_shortened_when_it_comes_twice() -> None:
    spec = {**_SPEC, "name": "n" * 10**6}

    with pytest.raises(ManifestError) as caught:
        parse(json.dumps([{"paths": ["w0"], "weights": [spec, spec]}]).encode())

    assert (caught.value.place, len(caught.value.problem) < 200) == ("[0].weights[1].name", True)


_numbers = st.integers() | st.floats() | st.just(10**400)
_words = st.sampled_from(
    [
        *(
            "weightsManifest",
            "modelTopology",
            "paths",
            "weights",
            "name",
            "shape",
            "dtype",
            "quantization",
            "min",
            "scale",
        ),
        *("group", "filename", "float32", "string", "uint8", "float16", "class_name", "node"),
    ]
)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | st.text() | _words,
    lambda inner: st.lists(inner) | st.dictionaries(_words | st.text(), inner),
)
_specs = st.dictionaries(st.sampled_from([*_SPEC, "quantization", "group"]), _json | st.lists(_numbers))
_groups = st.fixed_dictionaries(
    {}, optional={"paths": st.lists(st.text()) | _json, "weights": st.lists(_specs) | _json}
)


@given(_json | st.lists(_groups) | st.fixed_dictionaries({"weightsManifest": st.lists(_groups)}))
@example([{"paths": ["w"], "weights": [{"name": "\ud800", "shape": [1], "dtype": "bool"}]}])
def test_any_json_gives_a_manifest_or_an_error_of_ours(document: Json) -> None:
    with suppress(TfjsFetchError):
        manifest = parse(json.dumps(document).encode())
        assert all(spec.stored_bytes >= 0 for spec in manifest.weights)


@given(st.binary() | st.text('[]{}",:0123456789.eE-+ \\unlltrfas').map(str.encode))
def test_any_bytes_give_a_manifest_or_an_error_of_ours(data: bytes) -> None:
    with suppress(TfjsFetchError):
        parse(data)


def test_a_text_of_nothing_but_empty_objects_is_refused_before_it_is_parsed() -> None:
    text = b'{"modelTopology": [' + b"{}," * (10 * _MIB) + b"{}]}"

    with bounded(seconds=5, mebibytes=256):
        assert "lists and objects" in refused(text)
