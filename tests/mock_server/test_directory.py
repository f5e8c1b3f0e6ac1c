import os
from dataclasses import replace
from pathlib import Path

import pytest

from mock_server import File
from mock_server.directory import Directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root" / "m").mkdir(parents=True)
    (tmp_path / "root" / "m" / "w0").write_bytes(b"0123")
    return tmp_path / "root"


def test_a_file_is_found_by_its_path(root: Path) -> None:
    os.utime(root / "m" / "w0", ns=(0, 0))

    found = Directory(root).find("/m/w0")

    assert isinstance(found, File)
    assert found.content == b"0123"
    assert found.etag == '"4-0"'


def test_an_empty_file_is_a_file(root: Path) -> None:
    (root / "empty").touch()

    found = Directory(root).find("/empty")

    assert isinstance(found, File)
    assert found.content == b""


@pytest.mark.parametrize(
    "path",
    ["/", "/m", "/none", "/../secret", "/m/../../secret", "//etc/passwd", "/a\0b", "/" + "x" * 5000, ""],
)
def test_nothing_else_is_found(root: Path, path: str) -> None:
    found = Directory(root).find(path)

    assert found is None


def test_a_link_out_is_refused_and_one_within_is_followed(root: Path) -> None:
    (root / "out").symlink_to(root.parent / "secret")
    (root / "up").symlink_to(root.parent)
    (root / "within").symlink_to(root / "m" / "w0")

    directory = Directory(root)

    assert directory.find("/out") is None
    assert directory.find("/up/secret") is None
    assert directory.find("/within") is not None


def test_files_can_be_configured(root: Path) -> None:
    found = Directory(root, lambda file: replace(file, framing="chunked")).find("/m/w0")

    assert isinstance(found, File)
    assert found.framing == "chunked"
