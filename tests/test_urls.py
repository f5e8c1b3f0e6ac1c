"""What sources and paths of shards mean. The first table is that of the TF.js reference, with the sane outcome."""

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfjs_fetch.errors import ManifestError, RefusedError, TfjsFetchError
from tfjs_fetch.urls import Local, Remote, joined, locate, origin, shard_url

_MODEL = "http://h/a/model.json?q=1"
# Everything that a JSON string may hold, halves of surrogate pairs included, and much of what URLs are made of.
_texts = st.text(st.characters() | st.sampled_from("/\\:?#[]@%.;&= \t\n\0\ud800a")) | st.text(
    "/\\:.@?#[]h", max_size=20
)


def located(source: str) -> str:
    place = locate(source)
    assert isinstance(place, Remote)
    return place.url


@pytest.mark.parametrize(
    ("model", "path", "expected"),
    [
        ("http://h/a/b/model.json", "w0", "http://h/a/b/w0"),
        ("http://h/a/b/model.json?x=1&y=2", "w0", "http://h/a/b/w0?x=1&y=2"),
        ("http://h/a/b/model.json?redir=/foo/bar", "w0", "http://h/a/b/w0?redir=/foo/bar"),  # TF.js: …redir=/foo/w0
        ("http://h/a/b/model.json?x=1?y=2", "w0", "http://h/a/b/w0?x=1?y=2"),  # TF.js: w0?y=2
        ("http://h/a/b/model.json#frag", "w0", "http://h/a/b/w0"),
        ("http://h/a/b/model.json?x=1#frag", "w0", "http://h/a/b/w0?x=1"),
        ("http://host", "w0", "http://host/w0"),  # TF.js: http://w0
        ("http://h/a/", "w0", "http://h/a/w0"),
        (_MODEL, "../up/s3.bin", "http://h/up/s3.bin?q=1"),
        (_MODEL, "./s4.bin", "http://h/a/s4.bin?q=1"),
        (_MODEL, "s 6.bin", "http://h/a/s%206.bin?q=1"),
        (_MODEL, "s7.bin?z=1", "http://h/a/s7.bin?z=1"),  # TF.js: s7.bin?z=1?q=1
        (_MODEL, "/root/s2.bin", "http://h/root/s2.bin?q=1"),  # TF.js: http://h/a//root/s2.bin
        ("http://google.com/file", "w0", "http://google.com/w0"),
        ("http://google.com/file?param=1", "w0", "http://google.com/w0?param=1"),
        ("http://google.com/a?x=1/file?param=1", "w0", "http://google.com/w0?x=1/file?param=1"),
    ],
)
def test_hazard_9_a_shard_lies_beside_the_model(model: str, path: str, expected: str) -> None:
    assert shard_url(located(model), path) == expected


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("http://cdn/x", "http://cdn/x/w0?q=1"),  # TF.js: http://cdn/xw0
        ("http://cdn/x/", "http://cdn/x/w0?q=1"),
        ("", "http://h/a/w0?q=1"),
        (None, "http://h/a/w0?q=1"),
        ("http://cdn", "http://cdn/w0?q=1"),
        ("http://cdn/x?sig=2", "http://cdn/x/w0?sig=2"),
        ("http://cdn/x/?sig=a/b", "http://cdn/x/w0?sig=a/b"),
        ("http://cdn/x#frag", "http://cdn/x/w0?q=1"),
        ("../weights", "http://h/weights/w0?q=1"),
        ("/weights", "http://h/weights/w0?q=1"),
        ("//cdn/x", "http://cdn/x/w0?q=1"),
    ],
)
def test_a_prefix_stands_for_the_directory_of_the_model(prefix: str | None, expected: str) -> None:
    assert shard_url(_MODEL, "w0", prefix) == expected


@pytest.mark.parametrize("prefix", ["file:///etc", "ftp://cdn/", "http://[", "http://cdn:99999/", "http://", "x:y"])
def test_a_prefix_that_is_no_url_is_refused(prefix: str) -> None:
    with pytest.raises(RefusedError):
        shard_url(_MODEL, "w0", prefix)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a%2Fb.bin", "a%2Fb.bin"),
        ("a%2fb%20c", "a%2fb%20c"),
        ("100%.bin", "100%25.bin"),
        ("%zz%4", "%25zz%254"),
        ("a+b&c=d;e,f", "a+b&c=d;e,f"),
        ("w0;", "w0;"),
        ("back\\slash\\w0", "back/slash/w0"),
        ("dense:0", "dense:0"),
        ("http:w0", "http:w0"),
        ("javascript:alert(1)", "javascript:alert(1)"),
        ("größe-语.bin", "gr%C3%B6%C3%9Fe-%E8%AF%AD.bin"),
        ("half \ud83d", "half%20%EF%BF%BD"),
        (" w0 ", "w0"),
        ("w0#part", "w0"),
        ("a[0].bin", "a[0].bin"),
        ('"<w>"', "%22%3Cw%3E%22"),
        ("a//b/./c/../w0", "a//b/w0"),
        ("dir/..", ""),
        ("dir/.", "dir/"),
    ],
)
def test_names_of_shards_keep_their_encoding_and_get_what_they_lack(path: str, expected: str) -> None:
    assert shard_url("https://h/a/model.json", path) == f"https://h/a/{expected}"


@pytest.mark.parametrize("model", ["https://proxy/id_/https://host/m/model.json", "https://bucket//m//model.json"])
def test_empty_segments_of_a_path_are_kept(model: str) -> None:
    assert shard_url(located(model), "w0") == model.replace("model.json", "w0")


def test_paths_do_not_climb_above_the_root() -> None:
    assert shard_url("http://h/a/model.json", "../../../../etc/w0") == "http://h/etc/w0"


@pytest.mark.parametrize(
    "path",
    ["https://cdn/s1.bin", "HTTPS://cdn/s1.bin", "//host/x", "\\\\host\\x", "/\\host/x", "  //host/x", "ftp://h/x"],
)
def test_a_shard_with_a_host_of_its_own_is_refused(path: str) -> None:
    with pytest.raises(RefusedError) as caught:
        shard_url("https://h/a/model.json?sig=secret", path)

    assert caught.value.url == "https://h/a/model.json?…"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("https://cdn/s1.bin", "https://cdn/s1.bin"),
        ("https://cdn/s1.bin?z=1#x", "https://cdn/s1.bin?z=1"),
        ("//cdn/s1.bin", "http://cdn/s1.bin"),
        ("\\\\cdn\\s1.bin", "http://cdn/s1.bin"),
    ],
)
def test_an_absolute_shard_that_is_allowed_goes_without_the_query_of_the_model(path: str, expected: str) -> None:
    assert shard_url(_MODEL, path, allow_absolute=True) == expected


@pytest.mark.parametrize("path", ["ftp://cdn/w", "https://", "https://[/w", "https://cdn:99999/w"])
def test_an_absolute_shard_must_be_a_url_of_the_web(path: str) -> None:
    with pytest.raises(RefusedError):
        shard_url(_MODEL, path, allow_absolute=True)


@pytest.mark.parametrize("path", ["w\n0", "w\t0", "\0", "w0\r", "\x7f", "java\tscript:x"])
def test_a_shard_with_control_characters_is_no_name(path: str) -> None:
    with pytest.raises(ManifestError):
        shard_url(_MODEL, path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("http://h/a/model.json", "http://h/a/model.json"),
        ("http://h/a/weights_manifest.json", "http://h/a/weights_manifest.json"),
        ("http://h/a/any", "http://h/a/any"),
        ("http://h/a/", "http://h/a/model.json"),
        ("http://h/a/?v=1", "http://h/a/model.json?v=1"),
        ("http://h", "http://h/model.json"),
        ("http://h?v=1", "http://h/model.json?v=1"),
        ("http://h/a/model.json?v=1#top", "http://h/a/model.json?v=1"),
        ("HTTPS://Host/Model.json", "https://Host/Model.json"),
        ("http://user:p%40ss@h:8000/m.json", "http://user:p%40ss@h:8000/m.json"),
        ("http://[::1]:8000/m.json", "http://[::1]:8000/m.json"),
        ("http://münchen.de/straße/m.json", "http://münchen.de/stra%C3%9Fe/m.json"),
        ("http://h/a b/m%2F1.json?t=a b", "http://h/a%20b/m%2F1.json?t=a%20b"),
        ("http://h/100%/m.json", "http://h/100%25/m.json"),
        ("http://h/m.json\n", "http://h/m.json"),
    ],
)
def test_a_url_is_that_of_a_document(source: str, expected: str) -> None:
    assert locate(source) == Remote(expected)


_HUB = "https://tfhub.dev/google/m/1/model.json?tfjs-format=file"


@pytest.mark.parametrize(
    "handle",
    [
        "https://tfhub.dev/google/m/1",
        "https://tfhub.dev/google/m/1/",
        "https://tfhub.dev/google/m/1?tfjs-format=file",
        "https://tfhub.dev/google/m/1/model.json",
        _HUB,
    ],
)
def test_hazard_31_a_handle_of_tfhub_gets_its_suffix_once(handle: str) -> None:
    assert locate(handle) == Remote(_HUB)
    assert shard_url(_HUB, "group1-shard1of2") == "https://tfhub.dev/google/m/1/group1-shard1of2?tfjs-format=file"


def test_other_parameters_of_a_handle_are_kept() -> None:
    expected = "https://www.tfhub.dev/g/m/1/model.json?v=2&tfjs-format=file"

    assert located("https://www.tfhub.dev/g/m/1?v=2") == expected
    assert located(expected) == expected


@pytest.mark.parametrize("source", ["http://h/m.pb", "http://h/M.PB?x=1", "a/frozen.pb", Path("m.pb"), "file:///m.pb"])
def test_a_pb_file_is_no_model_to_load(source: str | Path) -> None:
    with pytest.raises(ManifestError) as caught:
        locate(source)

    assert caught.value.problem


@pytest.mark.parametrize(
    "source",
    [
        "ftp://h/model.json",
        "s3://bucket/model.json",
        "indexeddb://model",
        "data://text",
        "http://",
        "http:///model.json",
        "http://[",
        "http://[::1/model.json",
        "http://h:99999/model.json",
        "http://h:port/model.json",
        "http://a\uff0fb/model.json",
        "file://server/share/model.json",
    ],
)
def test_what_is_no_url_of_a_model_is_refused(source: str) -> None:
    with pytest.raises(RefusedError):
        locate(source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/model.json", "a/model.json"),
        ("a/http/model.json", "a/http/model.json"),
        ("C:\\models\\model.json", "C:\\models\\model.json"),
        ("file:///a/model.json", "/a/model.json"),
        ("FILE:///a/model.json", "/a/model.json"),
        ("file://localhost/a%20b/model.json", "/a b/model.json"),
    ],
)
def test_anything_else_is_a_path(source: str, expected: str) -> None:
    assert locate(source) == Local(Path(expected))


def test_any_kind_of_path_is_taken() -> None:
    assert locate(PurePosixPath("a/http:/model.json")) == Local(Path("a/http:/model.json"))


@pytest.mark.parametrize("name", ["m.zip", "M.ZIP", "m.tar.gz", "m.tgz"])
def test_archives_are_told_by_their_names(name: str) -> None:
    place = locate(f"https://h/a/{name}?v=1.json")

    assert isinstance(place, Remote)
    assert place.is_archive
    assert not Remote(f"https://h/{name}/model.json").is_archive


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/a", ("http", "h", 80)),
        ("https://H/a", ("https", "h", 443)),
        ("https://user@h:8443/a", ("https", "h", 8443)),
        ("http://[::1]/a", ("http", "::1", 80)),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, expected: tuple[str, str, int]) -> None:
    assert origin(url) == expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://cdn/x?sig=1#y", "https://cdn/x?sig=1"),
        ("//cdn/x", "http://cdn/x"),
        ("/x//y", "http://h/x//y"),
        ("/proxy/https://cdn/x", "http://h/proxy/https://cdn/x"),
        ("x/../y?z", "http://h/a/y?z"),
        ("?z=1", "http://h/a/b?z=1"),
        ("", "http://h/a/b?q=1"),
    ],
)
def test_a_location_is_seen_from_where_it_was_found(location: str, expected: str) -> None:
    assert joined("http://h/a/b?q=1", location) == expected


@pytest.mark.parametrize("location", ["ftp://h/", "file:///etc/passwd", "http://h:0/", "http:", "mailto:a@b", "//["])
def test_a_location_must_be_a_url_of_the_web(location: str) -> None:
    with pytest.raises(RefusedError) as caught:
        joined("http://h/a?secret", location)

    assert caught.value.url == "http://h/a?…"


@given(_texts | _texts.map("http://".__add__) | _texts.map("https://h/".__add__))
def test_any_text_is_located_or_refused(source: str) -> None:
    try:
        place = locate(source)
    except TfjsFetchError:
        return
    if isinstance(place, Remote):
        assert located(place.url) == place.url


@given(_texts, _texts | st.none())
def test_any_text_is_a_shard_or_refused(path: str, prefix: str | None) -> None:
    for allowed in (False, True):
        try:
            origin(shard_url(_MODEL, path, prefix, allow_absolute=allowed))
        except TfjsFetchError:
            continue


@given(st.sampled_from([_MODEL, "https://[::1]:8000", "http://u@h//x?y", "https://tfhub.dev/a"]), _texts)
def test_a_relative_shard_never_leaves_the_origin_of_the_model(model: str, path: str) -> None:
    url = located(model)
    try:
        shard = shard_url(url, path)
    except TfjsFetchError:
        return

    assert origin(shard) == origin(url)
    assert "#" not in shard


@pytest.mark.parametrize(
    "source",
    [
        "https:/h/model.json?sig=S3CRET",
        Path("https://h/model.json?sig=S3CRET"),
        "http:\\\\u:S3CRET@h\\model.json",
        "https://user:S3CRET/x@host/model.json",
        "https://user:S3CRET#x@host/model.json",
        "https://user:S3CRET?x@host/model.json",
        "http://[::1]8001/model.json?sig=S3CRET",
    ],
)
def test_what_is_nearly_a_url_is_refused_without_showing_it(source: str | Path) -> None:
    with pytest.raises(RefusedError) as caught:
        locate(source)

    assert "S3CRET" not in str(caught.value)


def test_an_empty_source_is_not_the_current_directory() -> None:
    with pytest.raises(RefusedError):
        locate("")


@pytest.mark.parametrize("location", ["http://[::1]8001/x", "//[::1]8001/x"])
def test_a_location_with_something_else_than_a_port_behind_its_address_is_refused(location: str) -> None:
    with pytest.raises(RefusedError):
        joined("http://[::1]/model.json", location)


@pytest.mark.parametrize("path", ["https://cdn/w.bin?sig=S3CRET", "//cdn/w?sig=S3CRET", "w\n?sig=S3CRET"])
def test_a_refused_shard_is_named_without_its_query(path: str) -> None:
    with pytest.raises((RefusedError, ManifestError)) as caught:
        shard_url("https://h/model.json", path)

    assert "S3CRET" not in str(caught.value)
