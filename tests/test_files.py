"""Models on disk, in archives and at hand: what is found, and what is refused."""

import gc
import gzip
import io
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from tfjs_fetch.config import Limits
from tfjs_fetch.errors import RefusedError, TfjsFetchError, UnreachableError, WrongContentError
from tfjs_fetch.files import Files, GivenFiles, choose_document, inner_name, open_archive, open_files

_MIB = 2**20
_SOURCE = "https://h/m.zip?sig=secret"
_SMALL = {"model.json": b'[{"paths":["w0"]}]', "w0": bytes(range(256))}


def write(directory: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return memory.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return memory.getvalue()


def tar_gz(files: Mapping[str, bytes]) -> bytes:
    return gzip.compress(tarred(files), 1, mtime=0)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return the header of a member of a tar, whatever its size, negative ones too."""
    raw = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = (size + (2**95 if size >= 0 else 2**96)).to_bytes(12, "big")
    raw[156:157] = kind
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def opened(archive: bytes, limits: Limits | None = None) -> Files:
    return open_archive(_SOURCE, io.BytesIO(archive), limits or Limits())


def read(files: Files, *paths: str, most: int = 2**33) -> dict[str, bytes]:
    return {path: bytes(content) for path, content in files.shards(paths, most).items()}


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Fail if more than so many bytes are allocated at one time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


on_every_archive = pytest.mark.parametrize("pack", [zipped, tarred, tar_gz])
Pack = Callable[[Mapping[str, bytes]], bytes]


def test_a_json_stands_for_the_files_around_it(tmp_path: Path) -> None:
    write(tmp_path, {"any.json": b"[]", "other.json": b"", "w0": b"0123", "sub/w 1": b"4"})

    files = open_files(tmp_path / "any.json", Limits())

    assert files.document() == b"[]"
    assert read(files, "w0", "./sub/w 1", "sub\\w 1", "sub/../w0") == {
        "w0": b"0123",
        "./sub/w 1": b"4",
        "sub\\w 1": b"4",
        "sub/../w0": b"0123",
    }


def test_files_of_a_directory_are_mapped_read_only(tmp_path: Path) -> None:
    write(tmp_path, {"model.json": b"[]", "w0": bytes(64 * _MIB), "empty": b""})

    with at_most(_MIB):
        shards = open_files(tmp_path, Limits()).shards(["w0", "empty"], 0)

    assert {path: (len(data), data.readonly) for path, data in shards.items()} == {
        "w0": (64 * _MIB, True),
        "empty": (0, True),
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.json", "other.json", "sub/model.json"], "model.json"),
        (["sub/model.json", "sub/deeper/model.json", "top.json"], "sub/model.json"),
        (["weights_manifest.json", "w0"], "weights_manifest.json"),
        (["MODEL.JSON", "w0"], "MODEL.JSON"),
        (["metadata.json", "model.json", "weights.bin"], "model.json"),  # Teachable Machine
        (["model.json", "model_meta.json", "model.weights.bin"], "model.json"),  # ml5.js
        (["mine.json", "mine_meta.json", "mine.weights.bin"], "mine.json"),  # ml5.js, saved under a name
        (["__MACOSX/model.json", ".cache/model.json", "._model.json", "m/model.json"], "m/model.json"),
    ],
)
def test_the_document_is_the_model_json_nearest_to_the_root_or_the_only_json(names: list[str], expected: str) -> None:
    assert choose_document("m", names) == expected
    assert choose_document("m", names[::-1]) == expected


@pytest.mark.parametrize(
    "names",
    [[], ["w0"], ["a.json", "b.json"], ["a/model.json", "b/model.json"], ["metadata.json"], [".hidden/model.json"]],
)
def test_without_a_document_or_with_several_there_is_no_model(names: list[str]) -> None:
    with pytest.raises(UnreachableError) as caught:
        choose_document("https://h/m.zip?sig=1", names)

    assert (caught.value.url, caught.value.final) == ("https://h/m.zip?…", True)


def test_a_document_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"model.json": b"[" + b" " * 99 + b"]"})

    assert len(open_files(tmp_path, Limits(manifest_bytes=101)).document()) == 101
    with pytest.raises(RefusedError):
        open_files(tmp_path, Limits(manifest_bytes=100)).document()


@pytest.mark.parametrize("name", ["nowhere", "nowhere.zip", "nowhere/model.json", "x" * 300, "a\0b", "file/model.json"])
def test_what_is_not_there_cannot_be_reached(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"file": b""})

    with pytest.raises(UnreachableError) as caught:
        open_files(tmp_path / name, Limits()).document()

    assert caught.value.final


def test_a_shard_that_is_not_there_or_no_file_cannot_be_reached(tmp_path: Path) -> None:
    write(tmp_path, {"model.json": b"[]", "directory/w0": b"", "w0": b""})
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    for path in ("missing", "directory", "w0/below", "dangling", "loop", "x" * 300):
        with pytest.raises(UnreachableError) as caught:
            open_files(tmp_path, Limits()).shards([path], 100)
        assert caught.value.url == str(tmp_path / path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="only Unix has named pipes")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path, {"model.json": b"[]"})
    os.mkfifo(tmp_path / "w0")
    os.mkfifo(tmp_path / "pipe.zip")

    with pytest.raises(UnreachableError):
        open_files(tmp_path, Limits()).shards(["w0"], 100)
    with pytest.raises(UnreachableError):
        open_files(tmp_path / "pipe.zip", Limits())
    with pytest.raises(UnreachableError):
        open_files(tmp_path / "w0", Limits()).document()


def test_what_may_not_be_read_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"closed/model.json": b"[]"})

    # The superuser may read anything, so the modes of files would not do.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for method in ("iterdir", "open", "is_file", "is_dir"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refuse)
            with pytest.raises(UnreachableError) as caught:
                open_files(tmp_path / "closed", Limits()).document()
        assert caught.value.reason == "Permission denied"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("w0", "w0"),
        ("./w0", "w0"),
        ("a//b/./w0", "a/b/w0"),
        ("a\\b\\w0", "a/b/w0"),
        ("a/../w0", "w0"),
        ("a/b/../../w0", "w0"),
        ("...", "..."),
        ("s 6%20.bin", "s 6%20.bin"),
    ],
)
def test_a_name_inside_of_the_directory_is_made_plain(path: str, expected: str) -> None:
    assert inner_name("m", path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "../../x",
        "a/../../x",
        "../m/x",
        "..\\x",
        "a\\..\\..\\x",
        "/etc/passwd",
        "\\x",
        "\\\\h\\x",
        "..",
        ".",
        "a/..",
        "/",
        "x\x00y",
        "",
    ],
)
def test_hazard_11_a_name_that_leads_out_of_the_directory_is_refused(path: str, tmp_path: Path) -> None:
    write(tmp_path, {"x": b"secret", "m/model.json": b"[]"})

    with pytest.raises(RefusedError):
        inner_name("m", path)
    for files in (open_files(tmp_path / "m", Limits()), opened(zipped(_SMALL)), opened(tar_gz(_SMALL))):
        with pytest.raises(RefusedError):
            files.shards([path], 100)


@pytest.mark.parametrize("path", ["C:\\x", "C:x", "a/C:/x", "w0:stream"])
def test_a_drive_leads_out_of_the_directory_where_there_are_drives(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inner_name("m", path) == path.replace("\\", "/")

    monkeypatch.setattr("tfjs_fetch.files.os.name", "nt")
    with pytest.raises(RefusedError):
        inner_name("m", path)


@on_every_archive
@pytest.mark.parametrize("root", ["", "model/", "a/b c/", "./", "./a/", "a\\b\\"])
def test_a_model_is_found_anywhere_in_an_archive(pack: Pack, root: str) -> None:
    members = {f"{root}model.json": b"[]", f"{root}metadata.json": b"{}", f"{root}weights/w0": b"01", f"{root}e": b""}

    files = opened(pack({"README.txt": b"hello", **members}))

    assert files.document() == b"[]"
    assert read(files, "weights/w0", "./e", "e") == {"weights/w0": b"01", "./e": b"", "e": b""}


@pytest.mark.parametrize(
    ("name", "pack"), [("m.zip", zipped), ("m.tar.gz", tar_gz), ("m.TGZ", tar_gz), ("m.zip", tar_gz)]
)
def test_an_archive_on_disk_is_closed_with_the_model(tmp_path: Path, name: str, pack: Pack) -> None:
    write(tmp_path, {name: pack(_SMALL)})

    files = open_files(tmp_path / name, Limits())
    assert files.document() == _SMALL["model.json"]
    assert read(files, "w0") == {"w0": _SMALL["w0"]}

    del files
    gc.collect()  # an open file would warn, which is an error in tests


@on_every_archive
def test_a_broken_archive_on_disk_is_closed_too(tmp_path: Path, pack: Pack) -> None:
    write(tmp_path, {"m.zip": pack({"w0": b"01"}), "n.zip": pack(_SMALL)[:100]})

    for name in ("m.zip", "n.zip"):
        with pytest.raises(TfjsFetchError):
            open_files(tmp_path / name, Limits())
    gc.collect()


@on_every_archive
def test_a_member_that_is_not_there_is_named(pack: Pack) -> None:
    with pytest.raises(UnreachableError) as caught:
        opened(pack(_SMALL)).shards(["w0", "sub/w1"], 1000)

    assert (caught.value.url, caught.value.final) == ("https://h/m.zip?…", True)
    assert "sub/w1" in caught.value.reason


def test_the_last_of_several_members_of_one_name_counts() -> None:
    files = opened(tar_gz({"model.json": b"old", "w0": b"o", "./model.json": b"new", "./w0": b"n"}))

    assert (files.document(), read(files, "w0")) == (b"new", {"w0": b"n"})


def test_links_in_a_zip_are_refused() -> None:
    memory = io.BytesIO(zipped(_SMALL))
    with zipfile.ZipFile(memory, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")

    with pytest.raises(RefusedError):
        opened(memory.getvalue()).shards(["link"], 1000)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (tarfile.SYMTYPE, RefusedError),
        (tarfile.LNKTYPE, RefusedError),
        (tarfile.FIFOTYPE, RefusedError),
        (tarfile.CHRTYPE, RefusedError),
        (tarfile.DIRTYPE, UnreachableError),
    ],
)
def test_what_is_no_file_in_a_tar_is_not_read(kind: bytes, error: type[TfjsFetchError]) -> None:
    special = tarfile.TarInfo("w1")
    special.type, special.linkname = kind, "/etc/passwd"

    with pytest.raises(error):
        opened(special.tobuf() + tarred(_SMALL)).shards(["w1"], 1000)


def test_an_encrypted_zip_is_an_error() -> None:
    archive = bytearray(zipped({"model.json": b"[]", "w0": b"0123"}))
    for position in range(len(archive)):  # the flags, at their place in both kinds of headers
        offset = {b"PK\3\4": 6, b"PK\1\2": 8}.get(bytes(archive[position : position + 4]))
        if offset:
            archive[position + offset] |= 1

    with pytest.raises(WrongContentError):
        opened(bytes(archive)).document()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_would_be_unpacked_without_a_bound_are_refused(method: int) -> None:
    archive = zipped({"model.json": b"[]", "w0": bytes(100 * _MIB)}, method)

    with at_most(8 * _MIB), pytest.raises(RefusedError):
        opened(archive).document()


@on_every_archive
def test_members_beyond_the_limit_are_refused(pack: Pack) -> None:
    archive = pack({"model.json": b"[" + b" " * 98 + b"]", "w0": bytes(60), "w1": bytes(60)})
    small = Limits(manifest_bytes=99)

    files = opened(archive, Limits(manifest_bytes=100, weight_bytes=1000))
    assert len(read(files, "w0", "w1", most=120)) == 2
    with pytest.raises(RefusedError):
        files.shards(["w0", "w1"], 119)
    with pytest.raises(RefusedError):
        opened(archive, small).document()


@on_every_archive
def test_a_bomb_among_the_weights_stays_packed(pack: Pack) -> None:
    archive = pack({"model.json": b"[]", "w0": bytes(200 * _MIB)})

    with at_most(8 * _MIB):
        files = opened(archive)
        with pytest.raises(RefusedError):
            files.shards(["w0"], 1000)


@on_every_archive
def test_a_bomb_in_place_of_the_document_stays_packed(pack: Pack) -> None:
    archive = pack({"model.json": bytes(100 * _MIB), "w0": b""})

    with at_most(8 * _MIB), pytest.raises(RefusedError):
        opened(archive).document()


@on_every_archive
def test_many_bombs_beside_the_document_stay_within_its_limit(pack: Pack) -> None:
    archive = pack({"model.json": b"[]", **{f"{index}.json": bytes(8 * _MIB) for index in range(16)}})

    with at_most(32 * _MIB):
        assert opened(archive, Limits(manifest_bytes=16 * _MIB)).document() == b"[]"


def test_a_zip_that_lies_about_the_size_of_a_bomb_unpacks_no_more_than_it_says() -> None:
    archive = bytearray(zipped({"model.json": b"[]", "w0": bytes(200 * _MIB)}))
    index = archive.rfind(b"PK\1\2")
    archive[index + 24 : index + 28] = struct.pack("<I", 10)

    with at_most(8 * _MIB), pytest.raises(WrongContentError):
        opened(bytes(archive)).shards(["w0"], 2**33)


def test_a_tar_that_unpacks_beyond_the_limits_is_refused() -> None:
    archive = tar_gz({"model.json": b"[]", "w0": bytes(100 * _MIB)})

    with at_most(8 * _MIB), pytest.raises(RefusedError):
        opened(archive, Limits(weight_bytes=50 * _MIB, manifest_bytes=1000))


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_an_extended_header_of_a_tar_is_no_way_to_fill_the_memory(kind: bytes) -> None:
    archive = gzip.compress(header("long", 200 * _MIB, kind) + bytes(200 * _MIB), 1)

    with at_most(8 * _MIB), pytest.raises(RefusedError):
        opened(archive)


def test_a_zip_with_an_endless_index_is_refused() -> None:
    raw = zipped({"x": b""})
    index, end = raw.find(b"PK\1\2"), raw.find(b"PK\5\6")
    many = raw[index:end] * 1_000_000
    archive = raw[:index] + many + raw[end : end + 12] + struct.pack("<I", len(many)) + raw[end + 16 :]
    file = io.BytesIO(archive)

    with at_most(8 * _MIB), pytest.raises(RefusedError):
        open_archive(_SOURCE, file, Limits())


@pytest.mark.parametrize(
    "archive",
    [
        header("model.json", -512) + bytes(1024),
        header("w0", -10_240) + bytes(10_240),
        header("long", -512, b"L") + bytes(1024),
        (header("long", 5, b"L") + b"name\0".ljust(512, b"\0")) * 3000,
        header("pax", 20, b"x") + b"20 size=-512\n".ljust(512, b"\0") + header("w0", 0) + bytes(1024),
        header("pax", 11, b"x") + b"0 path=a\n\0\0".ljust(512, b"\0") + header("w0", 0) + bytes(1024),
        header("w0", 2**40) + bytes(1024),
        bytes(10_240),
        b"",
        b"PK",
        b"PK\5\6" + bytes(18),
        b"\x1f\x8b",
        b"BZh9",
        b"plain text, much of it" * 100,
    ],
)
def test_strange_archives_end_in_our_errors(archive: bytes) -> None:
    for data in (archive, gzip.compress(archive)):
        with pytest.raises(TfjsFetchError):
            opened(data).shards(["w0"], 1000)


@on_every_archive
def test_an_archive_that_is_cut_anywhere_is_an_error(pack: Pack) -> None:
    noise = bytes(value * 7919 % 251 for value in range(3000))
    archive = pack({"model.json": b"[]" + noise, "w0": noise})
    whole = {"w0": noise}

    for length in range(0, len(archive), 100):
        try:
            found = read(opened(archive[:length]), "w0")
        except TfjsFetchError:
            continue
        assert found == whole  # only padding was lost


@on_every_archive
def test_an_archive_that_is_damaged_anywhere_gives_the_content_or_an_error(pack: Pack) -> None:
    noise = bytes(value * 7919 % 251 for value in range(3000))
    archive = pack({"model.json": b"[]", "w0": noise})

    for position in range(0, len(archive), 7):
        damaged = bytearray(archive)
        damaged[position] ^= 0xFF
        try:
            found = read(opened(bytes(damaged)), "w0")
        except TfjsFetchError:
            continue
        assert len(found["w0"]) == 3000
        assert found["w0"] == noise or pack is tarred  # a plain tar has no checksum of what is in it


def test_given_files_are_found_by_path_or_by_name() -> None:
    contents = {"w0": b"0", "sub/w1": b"1", "a/w2": b"2", "b/w2": b"3"}
    files = GivenFiles({name: memoryview(content) for name, content in contents.items()})

    shards = files.shards(["./w0", "w1", "other/w1", "b/w2"], 0)

    assert {path: bytes(data) for path, data in shards.items()} == {
        "./w0": b"0",
        "w1": b"1",
        "other/w1": b"1",
        "b/w2": b"3",
    }


@pytest.mark.parametrize("path", ["w3", "w2", "", "sub"])
def test_a_file_that_was_not_given_or_several_that_were_are_an_error(path: str) -> None:
    files = GivenFiles({"a/w2": memoryview(b""), "b/w2": memoryview(b"1")})

    with pytest.raises(UnreachableError) as caught:
        files.shards([path], 0)

    assert (caught.value.url, caught.value.final) == (path, True)


def test_given_files_of_any_type_are_bytes() -> None:
    files = GivenFiles({"w0": np.array([[1], [2]], "<f4").data, "e": np.zeros((0, 2)).data})

    shards = files.shards(["w0", "e"], 0)

    assert (bytes(shards["w0"]), len(shards["w0"]), len(shards["e"])) == (bytes.fromhex("0000803f00000040"), 8, 0)


def test_very_many_given_files_are_found_at_once() -> None:
    files = GivenFiles({f"w{index}": memoryview(b"") for index in range(20_000)})

    assert len(files.shards([f"./w{index}" for index in range(20_000)], 0)) == 20_000


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_with_a_member_that_leads_out_of_it_is_refused(name: str, pack: Pack) -> None:
    with pytest.raises(RefusedError):
        opened(pack({**_SMALL, name: b""}))


def test_a_zip_with_a_member_without_a_name_is_damaged_or_read() -> None:
    archive = zipped({**_SMALL, "x": b""}).replace(b"x", b"")

    with suppress(WrongContentError):
        assert opened(archive).document() == _SMALL["model.json"]


def test_the_map_of_a_sparse_file_is_no_way_to_fill_the_memory() -> None:
    sparse = tarfile.TarInfo("w1")
    sparse.size = 20 * _MIB
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
    endless = b"9999999\n" + b"0\n" * (10 * _MIB - 4)
    archive = gzip.compress(sparse.tobuf(tarfile.PAX_FORMAT) + endless, 1)

    with at_most(48 * _MIB), pytest.raises((RefusedError, WrongContentError)):
        opened(archive)


def test_a_chain_of_maps_of_an_old_sparse_file_is_no_way_to_fill_the_memory() -> None:
    first = bytearray(header("w1", 0, tarfile.GNUTYPE_SPARSE))
    first[482] = 1  # a further header follows
    more = (b"00000000001\0" * 42).ljust(504, b"\0") + b"\1" + bytes(7)
    checksum = 256 + sum(first[:148]) + sum(first[156:])
    first[148:156] = b"%06o\0 " % checksum
    archive = gzip.compress(bytes(first) + more * 100_000, 1)

    with at_most(48 * _MIB), pytest.raises((RefusedError, WrongContentError)):
        opened(archive)


@pytest.mark.parametrize("pack", [zipped, tarred, tar_gz])
def test_the_size_of_a_member_is_known_before_it_is_unpacked(pack: Pack) -> None:
    files = opened(pack(_SMALL))

    assert {path: files.size(path) for path in ("w0", "other")} == {"w0": len(_SMALL["w0"]), "other": None}
