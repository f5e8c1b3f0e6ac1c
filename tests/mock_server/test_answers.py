from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given as whatever
from hypothesis import strategies as some

from mock_server.answers import (
    Answer,
    Break,
    Delivery,
    Request,
    answer,
    byte_range,
    fitted,
    head,
    pieces,
)
from mock_server.files import File, Redirect, Representation, represent

NOON = datetime(2024, 5, 6, 12, 0, 0, tzinfo=UTC)
TEN = represent(File(b"0123456789", etag='"ten"', last_modified=NOON), "/w0", as_gzip=False)


def get(**headers: str) -> Request:
    return Request("GET", "/w0", {name.replace("_", "-"): value for name, value in headers.items()})


def test_a_file_is_answered_with_all_that_describes_it() -> None:
    given = answer(get(), TEN)

    assert head(given, NOON) == (
        b"HTTP/1.1 200 OK\r\n"
        b"date: Mon, 06 May 2024 12:00:00 GMT\r\n"
        b"content-type: application/octet-stream\r\n"
        b'etag: "ten"\r\n'
        b"last-modified: Mon, 06 May 2024 12:00:00 GMT\r\n"
        b"accept-ranges: bytes\r\n"
        b"content-length: 10\r\n\r\n"
    )
    assert bytes(given.body) == b"0123456789"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=2-4", range(2, 5)),
        ("bytes=7-", range(7, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-99", range(10)),
        ("bytes=5-99", range(5, 10)),
        ("bytes=10-", range(0)),
        ("bytes=-0", range(0)),
        ("bytes=4-2", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=" + "9" * 5000 + "-", None),
        ("", None),
    ],
)
def test_a_range_header_names_bytes_or_nothing(header: str, expected: range | None) -> None:
    assert byte_range(header, 10) == expected


def test_a_range_is_answered_with_its_place_in_the_file() -> None:
    given = answer(get(range="bytes=2-4"), TEN)

    assert (given.status, bytes(given.body)) == (206, b"234")
    assert ("content-range", "bytes 2-4/10") in given.headers


def test_a_range_behind_the_end_is_refused_with_the_size() -> None:
    given = answer(get(range="bytes=10-"), TEN)

    assert given.status == 416
    assert ("content-range", "bytes */10") in given.headers


@pytest.mark.parametrize(
    ("validator", "status"),
    [
        ('"ten"', 206),
        ('"other"', 200),
        ('W/"ten"', 200),
        ("Mon, 06 May 2024 12:00:00 GMT", 206),
        ("Mon, 06 May 2024 12:00:01 GMT", 200),
        ("yesterday", 200),
    ],
)
def test_if_range_lets_a_range_pass_only_for_the_same_bytes(validator: str, status: int) -> None:
    assert answer(get(range="bytes=2-4", if_range=validator), TEN).status == status


def test_a_weak_etag_never_lets_a_range_pass() -> None:
    weak = represent(File(b"0123456789", etag='W/"ten"'), "/w0", as_gzip=False)

    assert answer(get(range="bytes=2-4", if_range='W/"ten"'), weak).status == 200


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("if_none_match", '"ten"', 304),
        ("if_none_match", '"a", W/"ten"', 304),
        ("if_none_match", "*", 304),
        ("if_none_match", '"a"', 200),
        ("if_modified_since", "Mon, 06 May 2024 12:00:00 GMT", 304),
        ("if_modified_since", "Mon, 06 May 2024 11:59:59 GMT", 200),
        ("if_modified_since", "never", 200),
    ],
)
def test_a_fresh_copy_is_confirmed(header: str, value: str, status: int) -> None:
    assert answer(get(**{header: value}), TEN).status == status


def test_the_etag_counts_more_than_the_date() -> None:
    both = get(if_none_match='"other"', if_modified_since="Mon, 06 May 2024 12:00:00 GMT")

    assert answer(both, TEN).status == 200


def test_a_304_has_no_body_and_no_length() -> None:
    request = get(if_none_match='"ten"')

    given = fitted(answer(request, TEN), request)

    assert b"content-length" not in head(given, NOON)
    assert list(pieces(given)) == []


VALUES = some.text(alphabet='0129-=,;:*"W/ é') | some.text(alphabet="0129-").map("bytes={}".format)
NAMES = some.sampled_from(["range", "if-range", "if-none-match", "if-modified-since"])


@whatever(some.dictionaries(NAMES, VALUES))
def test_no_header_a_client_sends_is_an_error(headers: dict[str, str]) -> None:
    assert answer(Request("GET", "/w0", headers), TEN).status in (200, 206, 304, 416)


@pytest.mark.parametrize(("method", "status"), [("GET", 404), ("HEAD", 404), ("POST", 405), ("DELETE", 405)])
def test_what_is_not_there_or_not_allowed_is_said(method: str, status: int) -> None:
    assert answer(Request(method, "/none"), None).status == status


def test_a_redirect_names_the_place() -> None:
    given = answer(get(), Redirect("../other", 308))

    assert given.status == 308
    assert ("location", "../other") in given.headers


def test_head_is_get_without_its_body() -> None:
    request = Request("HEAD", "/w0", {"range": "bytes=2-4"})

    given = fitted(answer(request, TEN), request)

    assert given.status == 200
    assert b"content-length: 10\r\n" in head(given, NOON)
    assert list(pieces(given)) == []


def test_an_old_client_is_not_sent_chunks() -> None:
    request = Request("GET", "/w0", http_version="1.0", keeps_alive=False)

    given = fitted(answer(request, replace(TEN, framing="chunked")), request)

    assert given.framing == "close"
    assert b"connection: close\r\n" in head(given, NOON)


def test_a_path_is_decoded_and_has_no_query() -> None:
    assert Request("GET", "/a%20b/%C3%A9?x=%20").path == "/a b/é"


def test_a_body_leaves_in_pieces_of_64_kib_that_share_its_memory() -> None:
    body = memoryview(bytes(150_000))

    sent = list(pieces(Answer(200, body=body)))

    assert [(position, len(piece)) for position, piece in sent] == [(0, 65536), (65536, 65536), (131072, 18928)]
    assert all(piece.obj is body.obj for _, piece in sent)


def test_a_broken_body_ends_at_its_break() -> None:
    given = Answer(200, body=memoryview(b"0123456789"), delivery=Delivery(breaks=Break(4, "cut")))

    assert [bytes(piece) for _, piece in pieces(given)] == [b"0123"]
    assert given.breaks == Break(4, "cut")


def test_a_break_behind_the_end_does_not_happen() -> None:
    given = Answer(200, body=memoryview(b"0123"), delivery=Delivery(breaks=Break(5, "cut")))

    assert [bytes(piece) for _, piece in pieces(given)] == [b"0123"]
    assert given.breaks is None


def test_an_endless_body_goes_round() -> None:
    given = Answer(200, body=memoryview(b"abc"), endless=True, delivery=Delivery(breaks=Break(7, "reset")))

    assert b"".join(piece for _, piece in pieces(given)) == b"abcabca"


def test_a_throttled_byte_is_due_when_its_time_has_come() -> None:
    delivery = Delivery(rate=1000)

    assert (delivery.due(0), delivery.due(500), delivery.piece_bytes(0)) == (0.0, 0.5, 50)


def test_a_dripping_body_flows_up_to_the_drip() -> None:
    given = Answer(200, body=memoryview(b"0123456"), delivery=Delivery(drip_at=4, drip_every=2.0))

    assert [bytes(piece) for _, piece in pieces(given)] == [b"0123", b"4", b"5", b"6"]
    assert [given.delivery.due(position) for position in (0, 4, 5, 6)] == [0.0, 0.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Answer(200, body=memoryview(b"abc")), True),
        (Answer(200, body=memoryview(b"abc"), announced=4), False),
        (Answer(200, framing="chunked"), True),
        (Answer(200, framing="close"), False),
        (Answer(200, delivery=Delivery(closes=True)), False),
        (Answer(200, announced=4, bodiless=True), True),
    ],
)
def test_only_an_honest_answer_frees_its_connection(given: Answer, expected: bool) -> None:
    assert given.frees_connection is expected


def test_a_status_of_ones_own_has_no_phrase() -> None:
    assert head(Answer(599), NOON).startswith(b"HTTP/1.1 599 Unknown\r\n")


def test_a_file_without_validators_is_never_fresh() -> None:
    bare = Representation(memoryview(b"abc"))

    assert answer(get(if_modified_since="Mon, 06 May 2024 12:00:00 GMT"), bare).status == 200
    assert answer(get(range="bytes=1-", if_range="Mon, 06 May 2024 12:00:00 GMT"), bare).status == 200
