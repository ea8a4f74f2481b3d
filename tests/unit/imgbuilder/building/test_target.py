"""Outputs that may be written or replaced, and others that are refused."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from imgbuilder.building.target import find_file_target, find_target
from imgbuilder.errors import WorkspaceError
from imgbuilder.host.workspace import new_file


def refused(place: Path, message: str) -> WorkspaceError:
    with pytest.raises(WorkspaceError, match=message) as caught:
        find_target(place)
    assert caught.value.hint
    return caught.value


@pytest.mark.row("B12")
def test_outputs_that_are_not_files_are_refused(tmp_path: Path) -> None:
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


@pytest.mark.row("B12")
def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("old")
    (tmp_path / "link").symlink_to("folder/file")
    (tmp_path / "dangling").symlink_to("folder/new")
    (tmp_path / "to-null").symlink_to("/dev/null")
    assert find_target(tmp_path / "link").path == tmp_path / "folder/file"
    assert find_target(tmp_path / "dangling").path == tmp_path / "folder/new"
    refused(tmp_path / "to-null", "character device")
    assert (tmp_path / "folder/file").read_text() == "old"


@pytest.mark.row("B14")
def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    refused(tmp_path / "missing" / "disk.img", "does not exist")
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "disk.img", r"does not exist|Not a directory")
    refused(tmp_path / ("x" * 256), "name too long")
    with pytest.raises(WorkspaceError):
        find_target(Path("a\0b"))


@pytest.mark.row("B14")
def test_immutable_folder(tmp_path: Path) -> None:
    done = subprocess.run(["chattr", "+i", tmp_path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("chattr +i does not work here")
    try:
        refused(tmp_path / "disk.img", "not permitted")
    finally:
        subprocess.run(["chattr", "-i", tmp_path], check=True)


@pytest.mark.row("X21")
@pytest.mark.parametrize("name", ["json:x", "a:b", "-x", "x,y=z", "new\nline", "nbd:127.0.0.1:1", "fat:rw:."])
def test_any_name_is_a_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_target(Path(name)).path == find_file_target(Path(name)) == tmp_path / name
    assert list(tmp_path.iterdir()) == []


OTHER_USER = 4711


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder such as /tmp."""
    if os.geteuid() != 0:
        pytest.skip("only root can make files of another user")
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.mark.parametrize("mode", [0o1777, 0o777])
@pytest.mark.parametrize("target", ["../precious", "../new"])
def test_a_other_users_link_in_a_folder_for_everyone_is_not_followed(
    tmp_path: Path, shared: Path, mode: int, target: str
) -> None:
    (tmp_path / "precious").write_text("precious")
    shared.chmod(mode)
    link = shared / "disk.img"
    link.symlink_to(target)
    os.lchown(link, OTHER_USER, OTHER_USER)
    refused(link, "the link .* belongs to another user")
    os.lchown(link, 0, 0)
    assert find_target(link).path == (tmp_path / target.removeprefix("../"))


def test_a_other_users_link_to_a_folder_or_behind_another_link_is_not_followed_either(
    tmp_path: Path, shared: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (shared / "way").symlink_to(tmp_path / "folder")
    os.lchown(shared / "way", OTHER_USER, OTHER_USER)
    (tmp_path / "mine").symlink_to("shared/way/disk.img")
    refused(shared / "way/disk.img", "the link .*way belongs to another user")
    refused(tmp_path / "mine", "the link .*way belongs to another user")


def test_a_other_users_file_in_a_folder_for_everyone_is_not_replaced(shared: Path) -> None:
    """The image would belong to the other user, as the replaced file did."""
    (shared / "disk.img").touch()
    os.chown(shared / "disk.img", OTHER_USER, OTHER_USER)
    refused(shared / "disk.img", "belongs to another user, in a folder where everyone may write")
    os.chown(shared / "disk.img", 0, 0)
    assert find_target(shared / "disk.img").path == shared / "disk.img"


def test_the_owner_of_a_folder_may_have_links_in_it(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "file").touch()
    (shared / "disk.img").symlink_to("../file")
    for path in (shared, shared / "disk.img"):
        os.lchown(path, OTHER_USER, OTHER_USER)
    assert find_target(shared / "disk.img").path == tmp_path / "file"


def test_no_file_is_written_through_a_other_users_link_to_a_folder(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "folder").mkdir()
    (shared / "way").symlink_to(tmp_path / "folder")
    with new_file(shared / "way/kernel") as file:
        file.write_text("mine")
    os.lchown(shared / "way", OTHER_USER, OTHER_USER)
    with pytest.raises(WorkspaceError, match="belongs to another user"), new_file(shared / "way/initrd"):
        pass
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["kernel"]
