import gzip
from datetime import datetime, timedelta, timezone

import pytest

from mock_server.files import File, Representations, accepts_gzip, content_type, http_date, represent


def test_the_etag_is_the_hash_of_the_content() -> None:
    found = represent(File(b"abc"), "/w0", as_gzip=False)

    assert found.etag == '"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"'


def test_what_is_none_is_not_sent() -> None:
    found = represent(File(b"abc", etag=None, last_modified=None), "/model.json", as_gzip=False)

    assert found.headers == (("content-type", "application/json"),)


def test_gzip_describes_the_encoded_bytes() -> None:
    found = represent(File(b"abc" * 100, gzip="always", etag='"a"', last_modified=None), "/w", as_gzip=True)

    assert gzip.decompress(found.content) == b"abc" * 100
    assert found.headers == (
        ("content-type", "application/octet-stream"),
        ("etag", '"a"'),
        ("content-encoding", "gzip"),
    )


def test_negotiated_variants_have_etags_of_their_own() -> None:
    file = File(b"abc", gzip="accepted", etag='"a"')

    plain, packed = represent(file, "/w", as_gzip=False), represent(file, "/w", as_gzip=True)

    assert (plain.etag, packed.etag) == ('"a"', '"a-gzip"')
    assert ("vary", "accept-encoding") in plain.headers
    assert ("vary", "accept-encoding") in packed.headers


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip; q=0", False),
        ("*", True),
        ("*, gzip;q=0", False),
        ("br", False),
        ("identity", False),
        ("", False),
    ],
)
def test_gzip_is_accepted_when_the_client_says_so(header: str, expected: bool) -> None:
    assert accepts_gzip(header) is expected


def test_a_representation_is_made_once_for_each_content() -> None:
    made = Representations()
    old, new = File(b"old"), File(b"new")

    first = made.of(old, "/w", "")

    assert made.of(old, "/w", "") is first
    assert bytes(made.of(new, "/w", "").content) == b"new"


def test_extra_headers_are_sent_as_they_are() -> None:
    found = represent(File(b"", etag=None, last_modified=None, headers=(("x-a", "1"),)), "/w", as_gzip=False)

    assert found.headers == (("content-type", "application/octet-stream"), ("x-a", "1"))


def test_a_shard_is_plain_bytes() -> None:
    assert content_type("/m/group1-shard1of2") == "application/octet-stream"


def test_a_date_is_written_in_gmt() -> None:
    moment = datetime(2024, 5, 6, 14, 0, tzinfo=timezone(timedelta(hours=2)))

    assert http_date(moment) == "Mon, 06 May 2024 12:00:00 GMT"
