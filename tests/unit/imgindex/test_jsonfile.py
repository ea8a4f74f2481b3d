"""Records of our own: what is written is read, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imgindex.jsonfile import read_json, write_json


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record.json"


def read(path: Path, *, private: bool = True) -> dict[str, object]:
    return read_json(path, version=1, limit=1000, private=private)


def test_what_is_written_is_read(path: Path) -> None:
    for durable in (True, False):
        write_json(path, {"name": "é", "durable": durable}, version=1, durable=durable)
        assert read(path) == {"version": 1, "name": "é", "durable": durable}
        assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


def test_a_record_without_a_version(path: Path) -> None:
    write_json(path, {"key": 1}, version=None, durable=False)
    assert read_json(path, version=None, limit=1000) == {"key": 1}
    with pytest.raises(ValueError, match="another version"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 900,
        b"{}",
        b'{"version": 2}',
        b'{"version": true}',
        b'{"version": "1"}',
        b'{"version": 1}' + b" " * 1000,
    ],
)
def test_anything_else_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read(path)


def test_deep_nesting_is_refused(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match="nested"):
        read_json(path, version=1, limit=1 << 20)


def test_a_link_and_a_fifo_are_refused_and_a_missing_file_is_missing(path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(path)
    write_json(tmp_path / "elsewhere", {}, version=1, durable=False)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not an ordinary file"):
        read(path)


@pytest.mark.parametrize("change", ["writable by the group", "writable by all", "second name"])
def test_a_private_record_that_others_may_have_changed(path: Path, change: str) -> None:
    write_json(path, {}, version=1, durable=False)
    match change:
        case "second name":
            path.with_name("second").hardlink_to(path)
        case "writable by the group":
            path.chmod(0o620)
        case _:
            path.chmod(0o602)
    with pytest.raises(PermissionError):
        read(path)
    assert read(path, private=False)


def test_a_failed_write_leaves_the_earlier_record(path: Path) -> None:
    write_json(path, {"good": 1}, version=1, durable=True)
    with pytest.raises(TypeError):
        write_json(path, {"bad": object()}, version=1, durable=True)
    assert read(path)["good"] == 1
    assert len(list(path.parent.iterdir())) == 1
