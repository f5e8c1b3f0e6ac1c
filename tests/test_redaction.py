import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfjs_fetch.redaction import redact, redact_path


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/model.json", "https://h/model.json"),
        ("https://h:8443/a/b.bin", "https://h:8443/a/b.bin"),
        ("https://h/model.json?X-Goog-Signature=secret&a=b", "https://h/model.json?…"),
        ("https://h/model.json?", "https://h/model.json"),
        ("https://h/model.json#secret", "https://h/model.json"),
        ("https://me:secret@h/model.json", "https://h/model.json"),
        ("https://secret@h:8443/", "https://h:8443/"),
        ("https://me:sec@ret@h/", "https://h/"),
        ("https://[::1]:80/a?secret", "https://[::1]:80/a?…"),
        ("file:///tmp/model.json", "file:///tmp/model.json"),
        ("model.json?next=https://secret", "model.json?…"),
    ],
)
def test_a_url_is_shown_without_user_query_and_fragment(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize(
    "path", ["", "model.json", "/tmp/what?.json", "a#b", "C:\\models\\model.json", "me@host/model.json"]
)
def test_a_path_is_shown_as_it_is(path: str) -> None:
    assert redact(path) == path


@pytest.mark.parametrize(
    "url", ["http://[::1/w?secret", "http://me:secret@[h/w", "http://[h/w#secret", "http://[h/w?secret#secret"]
)
def test_what_only_looks_like_a_url_shows_no_secret_either(url: str) -> None:
    assert "secret" not in redact(url)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("group1-shard1of1.bin", "group1-shard1of1.bin"),
        ("group1-shard1of1.bin?token=secret", "group1-shard1of1.bin?…"),
        ("https://me:secret@h/w?secret", "https://h/w?…"),
        ("//h/w?secret", "//h/w?…"),
    ],
)
def test_the_path_of_a_shard_is_shown_without_its_query(path: str, shown: str) -> None:
    assert redact_path(path) == shown


@given(st.text() | st.text("ab:/?#@[]…%").map(lambda rest: f"http://{rest}"))
def test_what_is_redacted_stays_as_it_is(url: str) -> None:
    assert redact(redact(url)) == redact(url)
    assert redact_path(redact_path(url)) == redact_path(url)


@given(
    st.text(),
    st.text("ab:@[]%\\ ", max_size=5),
    st.sampled_from(["{scheme}://{host}/?secret", "{scheme}://{host}#secret", "{scheme}://me:secret@{host}/w"]),
)
def test_no_secret_is_shown_whatever_is_wrong_with_the_url(scheme: str, host: str, url: str) -> None:
    assert "secret" not in redact(url.format(scheme=scheme, host=host))
