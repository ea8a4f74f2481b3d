"""What may stand where an image will be (B12, B14)."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from imgbuilder.errors import WorkspaceError
from imgbuilder.place import find_file_place, find_place


def refused(place: Path, words: str) -> WorkspaceError:
    with pytest.raises(WorkspaceError, match=words) as caught:
        find_place(place)
    assert caught.value.hint
    return caught.value


def test_b12_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "fifo", "is a pipe")
    refused(tmp_path / "socket", "is a socket")
    refused(Path("/dev/null"), "is a character device")
    refused(tmp_path / "a", "circle")
    refused(Path("/proc/disk.img"), "/proc/disk.img")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "fifo", "socket"]


def test_b12_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("old")
    (tmp_path / "link").symlink_to("folder/file")
    (tmp_path / "dangling").symlink_to("folder/new")
    (tmp_path / "to-null").symlink_to("/dev/null")
    assert find_place(tmp_path / "link").path == tmp_path / "folder/file"
    assert find_place(tmp_path / "dangling").path == tmp_path / "folder/new"
    refused(tmp_path / "to-null", "character device")
    assert (tmp_path / "folder/file").read_text() == "old"


def test_b14_folders_that_cannot_be_written(tmp_path: Path) -> None:
    refused(tmp_path / "missing" / "disk.img", "does not exist")
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "disk.img", r"does not exist|Not a directory")
    refused(tmp_path / ("x" * 256), "name too long")
    with pytest.raises(WorkspaceError):
        find_place(Path("a\0b"))


def test_b14_immutable_folder(tmp_path: Path) -> None:
    done = subprocess.run(["chattr", "+i", tmp_path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("chattr +i does not work here")
    try:
        refused(tmp_path / "disk.img", "not permitted")
    finally:
        subprocess.run(["chattr", "-i", tmp_path], check=True)


@pytest.mark.parametrize("name", ["json:x", "a:b", "-x", "x,y=z", "new\nline", "nbd:127.0.0.1:1", "fat:rw:."])
def test_x21_any_name_is_a_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_place(Path(name)).path == find_file_place(Path(name)) == tmp_path / name
    assert list(tmp_path.iterdir()) == []
