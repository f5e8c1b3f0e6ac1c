import copy
import pickle
import time

import pytest

from tfjs_fetch import errors
from tfjs_fetch.errors import (
    CacheError,
    DecodeError,
    EncodeError,
    ExtraBytesError,
    IntegrityError,
    ManifestError,
    MissingBytesError,
    MissingExtraError,
    ModelChangedError,
    NotCachedError,
    RefusedError,
    ShardOrderError,
    StalledError,
    StatusError,
    TfjsFetchError,
    TransportError,
    TruncatedError,
    UnknownWeightError,
    UnreachableError,
    WrongContentError,
)

_URL = "https://me:secret@h/a/w.bin?X-Goog-Signature=secret#secret"
_SHOWN = "https://h/a/w.bin?…"

# Each error beside its fields and words of its sentence.
_CASES: list[tuple[TfjsFetchError, dict[str, object], list[str]]] = [
    (
        UnreachableError(_URL, "no route", final=True),
        {"url": _SHOWN, "reason": "no route", "final": True},
        [_SHOWN, "no route"],
    ),
    (
        StatusError(_URL, 404, "an HTML page", 2.5),
        {"url": _SHOWN, "status": 404, "content": "an HTML page", "retry_after": 2.5},
        [_SHOWN, "404", "an HTML page", "is the address right"],
    ),
    (
        WrongContentError(_URL, "an HTML page", 1234, 5678),
        {"url": _SHOWN, "content": "an HTML page", "received": 1234, "expected": 5678},
        [_SHOWN, "an HTML page", "1,234", "5,678"],
    ),
    (
        TruncatedError(_URL, 1234, 5678),
        {"url": _SHOWN, "received": 1234, "expected": 5678},
        [_SHOWN, "1,234 of 5,678 bytes"],
    ),
    (
        StalledError(_URL, 1234, 30.0),
        {"url": _SHOWN, "received": 1234, "seconds": 30.0},
        [_SHOWN, "1,234", "30 seconds"],
    ),
    (RefusedError(_URL, "too large"), {"url": _SHOWN, "reason": "too large"}, [_SHOWN, "too large"]),
    (
        ManifestError(_URL, "[0].paths", "it is missing"),
        {"source": _SHOWN, "place": "[0].paths", "problem": "it is missing"},
        [_SHOWN, "[0].paths: it is missing"],
    ),
    (
        MissingBytesError(1, "dense/kernel", _URL, 5678, 1234),
        {"group": 1, "weight": "dense/kernel", "shard": _SHOWN, "expected": 5678, "got": 1234},
        ["group 1", "1,234 of 5,678", "'dense/kernel'", _SHOWN],
    ),
    (
        ExtraBytesError(1, _URL, 1234, 5678),
        {"group": 1, "shard": _SHOWN, "expected": 1234, "got": 5678},
        ["group 1", "5,678", "1,234", _SHOWN, "extra_bytes='ignore'"],
    ),
    (
        ShardOrderError(1, (_URL, "w?secret"), "the order is 2, 1"),
        {"group": 1, "paths": (_SHOWN, "w?…"), "problem": "the order is 2, 1"},
        ["group 1", "the order is 2, 1", "shard_order='ignore'"],
    ),
    (
        CacheError("/a/b", "cannot be written: no space", 1234),
        {"place": "/a/b", "problem": "cannot be written: no space", "needed": 1234},
        ["/a/b", "no space", "1,234 bytes"],
    ),
    (NotCachedError(_URL, (_URL,)), {"source": _SHOWN, "missing": (_SHOWN,)}, [_SHOWN, "not in the cache"]),
    (IntegrityError(_URL, "aa", "bb"), {"source": _SHOWN, "expected": "aa", "got": "bb"}, [_SHOWN, "aa", "bb"]),
    (ModelChangedError(_URL, 3), {"source": _SHOWN, "attempts": 3}, [_SHOWN, "3 times"]),
    (EncodeError("w", "holds NaN"), {"name": "w", "problem": "holds NaN"}, ["'w' holds NaN"]),
    (UnknownWeightError("w", ("v", "x")), {"name": "w", "nearest": ("v", "x")}, ["'w'", "'v', 'x'"]),
    (MissingExtraError("bars", "cli"), {"feature": "bars", "extra": "cli"}, ["bars", "pip install 'tfjs-fetch[cli]'"]),
]
_ERRORS = [error for error, _, _ in _CASES]


def subclasses(root: type[TfjsFetchError]) -> set[type[TfjsFetchError]]:
    return {root}.union(*map(subclasses, root.__subclasses__()))


def drawn_tree() -> dict[str, str]:
    """Return the parent of each error that the module's docstring draws, from the indentation."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        name = next((word for word in line.split() if word.endswith("Error")), None)
        if name is None or not line.startswith("    "):
            continue
        level = 0 if "─" not in line else line.index("─") // 4
        path[level:] = [name]
        if level:
            parents[name] = path[level - 1]
    return parents


def test_the_docstring_draws_exactly_the_errors_that_exist() -> None:
    existing = {error.__name__: error.__bases__[0].__name__ for error in subclasses(TfjsFetchError) - {TfjsFetchError}}

    assert drawn_tree() == existing


def test_every_error_that_can_be_raised_has_a_case_here() -> None:
    inner = {TfjsFetchError, TransportError, DecodeError}

    assert {type(error) for error in _ERRORS} == subclasses(TfjsFetchError) - inner


@pytest.mark.parametrize(("error", "facts", "words"), _CASES, ids=lambda one: type(one).__name__)
def test_an_error_keeps_its_facts_and_says_them(
    error: TfjsFetchError, facts: dict[str, object], words: list[str]
) -> None:
    assert vars(error) == facts
    assert all(word in str(error) for word in words)


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_pickles(error: TfjsFetchError, protocol: int) -> None:
    back = pickle.loads(pickle.dumps(error, protocol))

    assert type(back) is type(error)
    assert (vars(back), str(back), back.args) == (vars(error), str(error), error.args)
    assert str(copy.copy(error)) == str(error)


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_shows_no_secret(error: TfjsFetchError) -> None:
    assert "secret" not in f"{error} {error!r} {error.args} {vars(error)}"


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_the_sentence_of_an_error_is_one_line(error: TfjsFetchError) -> None:
    assert "\n" not in str(error)
    assert str(error) == str(error).strip()


def test_an_unknown_weight_is_a_key_error_and_a_missing_extra_an_import_error() -> None:
    assert issubclass(UnknownWeightError, KeyError)
    assert issubclass(MissingExtraError, ImportError)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (StatusError("https://h/w", 500), "https://h/w answered 500"),
        (StatusError("https://h/w", 503, "text"), "https://h/w answered 503 with text"),
        (TruncatedError("https://h/w", 5, None), "https://h/w ended after 5 bytes"),
        (ManifestError("m.json", "", "it is not JSON"), "m.json: it is not JSON"),
        (UnknownWeightError("w"), "there is no weight 'w'"),
    ],
)
def test_what_is_unknown_is_left_out_of_the_sentence(error: TfjsFetchError, sentence: str) -> None:
    assert str(error) == sentence


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "signed link"), (403, "signed link"), (404, "address"), (410, "address"), (429, "fewer requests")],
)
def test_common_answers_come_with_a_hint(status: int, hint: str) -> None:
    assert hint in str(StatusError("https://h/w", status))


def test_wrong_content_shows_sizes_only_when_one_is_expected() -> None:
    assert "an unknown number of bytes where 7 belong" in str(WrongContentError("https://h/w", "a page", None, 7))
    assert "bytes" not in str(WrongContentError("https://h/w", "a page", 5))


def test_the_nearest_names_are_suggested() -> None:
    names = ["dense_1/kernel", "dense_1/bias", "conv/kernel", "x"]

    assert UnknownWeightError.among("dense_1/kernal", names).nearest[0] == "dense_1/kernel"
    assert UnknownWeightError.among("nothing like it", ["zzz"]).nearest == ()
    assert UnknownWeightError.among("w", []).nearest == ()


def test_names_by_the_hundred_thousand_do_not_hold_up_the_error() -> None:
    names = [f"layer_{index}/kernel" for index in range(100_000)]
    began = time.monotonic()

    UnknownWeightError.among("layer_x/kernel", names)

    assert time.monotonic() - began < 30
