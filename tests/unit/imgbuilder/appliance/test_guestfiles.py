"""Files of the guest, by libguestfs's calls and without an appliance: no link leads out of the guest."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any, cast

import pytest

from imgbuilder.appliance.connection import Connection
from imgbuilder.appliance.guestfiles import GuestFiles
from imgbuilder.errors import GuestCallError, WorkspaceError
from tests.fakes.libguestfs import HostLibguestfs
from tests.fakes.workerguest import FolderGuest


def names(folder: Path) -> list[str]:
    return [child.name for child in folder.iterdir()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A guest's root; its links to /out also exist on the host."""
    made = tmp_path / "sysroot"
    for folder in ("etc", "opt/dir", "root", "tree"):
        (made / folder).mkdir(parents=True)
    (made / "etc/issue").write_text("old")
    (made / "root/new").write_text("new")
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    made = tmp_path / "outside"
    made.mkdir()
    (made / "file").write_text("host's")
    return made


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture(params=["libguestfs", "worker"])
def guest(request: pytest.FixtureRequest, root: Path, scratch: Path) -> GuestFiles:
    if request.param == "worker":
        return cast("GuestFiles", FolderGuest(root))
    return GuestFiles(cast("Connection", HostLibguestfs(root)), scratch)


@pytest.mark.parametrize("link", ["opt/one", "opt/dir/new"])
def test_a_copy_goes_through_a_link_inside_the_guest(
    guest: GuestFiles, root: Path, outside: Path, link: str
) -> None:
    """cp follows an absolute link to the host's file of that name and would report success."""
    target = f"{outside}/file"
    (root / target.lstrip("/")).parent.mkdir(parents=True)
    (root / target.lstrip("/")).write_text("guest's")
    (root / link).symlink_to(target)
    guest.copy("/root/new", "/opt/one" if link == "opt/one" else "/opt/dir")
    assert (root / target.lstrip("/")).read_text() == "new"
    assert (root / link).is_symlink()
    assert (outside / "file").read_text() == "host's"


def test_a_copy_through_a_dangling_link_is_an_error(guest: GuestFiles, root: Path, outside: Path) -> None:
    (root / "opt/one").symlink_to(outside)  # a folder of the host, nothing in the guest
    with pytest.raises(GuestCallError, match="/opt/one is a link"):
        guest.copy("/root/new", "/opt/one")
    with pytest.raises(GuestCallError, match="is a link"):
        guest.copy("/tree", "/opt/one")
    assert names(outside) == ["file"]


def test_a_link_is_there_when_it_leads_somewhere(guest: GuestFiles, root: Path, outside: Path) -> None:
    """libguestfs itself does not follow the link."""
    (root / "opt/one").symlink_to("/etc/issue")
    (root / "opt/out").symlink_to(outside)
    assert [guest.exists(path) for path in ("/opt", "/opt/one", "/opt/out", "/none")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_link_is_copied_over_a_link(guest: GuestFiles, root: Path, outside: Path) -> None:
    (root / "opt/one").symlink_to(outside)
    (root / "opt/two").symlink_to("/etc/issue")
    guest.copy("/opt/two", "/opt/one")
    assert (root / "opt/one").readlink() == Path("/etc/issue")
    assert names(outside) == ["file"]


def test_trees_are_joined_unless_a_link_is_in_the_way(guest: GuestFiles, root: Path, outside: Path) -> None:
    (root / "tree/sub").mkdir()
    (root / "tree/sub/a").write_text("a")
    (root / "opt/dir/tree/sub").mkdir(parents=True)
    (root / "opt/dir/tree/kept").write_text("kept")
    guest.copy("/tree", "/opt/dir")
    assert (root / "opt/dir/tree/sub/a").read_text() == "a"
    assert (root / "opt/dir/tree/kept").read_text() == "kept"
    (root / "opt/dir/tree/sub/a").unlink()
    (root / "opt/dir/tree/sub/a").symlink_to(outside / "file")
    with pytest.raises(GuestCallError, match="/opt/dir/tree/sub/a is a link"):
        guest.copy("/tree", "/opt/dir")
    assert (outside / "file").read_text() == "host's"


def test_a_copy_over_a_pipe_does_not_wait_for_a_reader(guest: GuestFiles, root: Path) -> None:
    os.mkfifo(root / "opt/pipe")
    with pytest.raises(GuestCallError, match="device or a pipe"):
        guest.copy("/root/new", "/opt/pipe")


@pytest.mark.parametrize("devices", [False, True])
def test_a_move_replaces_a_link_and_follows_none(
    guest: GuestFiles, root: Path, scratch: Path, outside: Path, devices: bool
) -> None:
    if devices and not isinstance(guest, FolderGuest):
        guest = GuestFiles(cast("Connection", HostLibguestfs(root, devices=True)), scratch)
    (root / "opt/one").symlink_to(outside)
    (root / "opt/dir/issue").symlink_to(outside)
    guest.move("/root/new", "/opt/one")
    guest.move("/etc/issue", "/opt/dir")
    assert (root / "opt/one").read_text() == "new"
    assert (root / "opt/dir/issue").read_text() == "old"
    assert not (root / "root/new").exists()
    assert names(outside) == ["file"]


def test_an_impossible_move_is_an_error(guest: GuestFiles, root: Path) -> None:
    (root / "opt/dir/new/full").mkdir(parents=True)
    for source, destination in (("/root/new", "/opt/dir"), ("/opt", "/opt/dir"), ("/opt", "/opt")):
        with pytest.raises(GuestCallError):
            guest.move(source, destination)
    assert (root / "root/new").read_text() == "new"
    with pytest.raises(GuestCallError, match="same file"):
        guest.move("/root/new", "/root")


def test_a_moved_file_is_gone_although_its_new_place_is_its_other_name(guest: GuestFiles, root: Path) -> None:
    os.link(root / "root/new", root / "opt/new")
    guest.move("/root/new", "/opt/new")
    assert not (root / "root/new").exists()
    assert (root / "opt/new").read_text() == "new"


def test_a_link_is_made_where_it_was_asked_for(guest: GuestFiles, root: Path, outside: Path) -> None:
    (root / "opt/one").symlink_to(outside)
    guest.symlink("/etc/issue", "/opt/one")
    guest.symlink("/etc/issue", "/root/new")
    assert (root / "opt/one").readlink() == Path("/etc/issue")
    assert (root / "root/new").readlink() == Path("/etc/issue")
    with pytest.raises(GuestCallError, match="is a directory"):
        guest.symlink("/etc/issue", "/opt/dir")
    assert names(root / "opt/dir") == []
    assert names(outside) == ["file"]


def test_all_names_of_a_replaced_file_show_the_new_content(guest: GuestFiles, root: Path) -> None:
    os.link(root / "etc/issue", root / "opt/issue")
    guest.replace("/etc/issue", b"changed")
    assert (root / "opt/issue").read_text() == "changed"


def test_a_link_of_the_host_is_followed(guest: GuestFiles, root: Path, tmp_path: Path) -> None:
    (tmp_path / "release-1").mkdir()
    (tmp_path / "release-1/page").write_text("page")
    (tmp_path / "release-1/same").hardlink_to(tmp_path / "release-1/page")
    (tmp_path / "release-1/page").chmod(0o4751)
    (tmp_path / "release-1/inner").symlink_to("page")
    (tmp_path / "current").symlink_to("release-1")
    guest.copy_in(tmp_path / "current", "/opt/dir")
    assert names(root / "opt/dir") == ["current"]
    there = root / "opt/dir/current"
    assert (there / "page").read_text() == "page"
    # For a user, tar does not set the first bit.
    assert (there / "page").stat().st_mode & 0o7777 in {0o4751, 0o4751 if os.geteuid() == 0 else 0o751}
    assert (there / "page").samefile(there / "same")
    assert (there / "inner").readlink() == Path("page")


@pytest.mark.skipif(os.geteuid() != 0, reason="capabilities are set by root")
@pytest.mark.parametrize("link", [False, True])
def test_capabilities_and_attributes_are_copied(
    guest: GuestFiles, root: Path, tmp_path: Path, link: bool
) -> None:
    """Also if a new archive is written because a folder is a link in the guest."""
    (tmp_path / "bin/sub").mkdir(parents=True)
    tool = tmp_path / "bin/sub/tool"
    tool.write_text("tool")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep
    os.setxattr(tool, "security.capability", capability)
    os.setxattr(tool, "user.note", b"\xff\x00=caf\xc3\xa9")
    (root / "opt/dir/other").write_text("makes the folder one that holds something")
    if link:
        (root / "opt/dir/bin").mkdir()
        (root / "opt/real").mkdir()
        (root / "opt/dir/bin/sub").symlink_to("/opt/real")
    guest.copy_in(tmp_path / "bin", "/opt/dir")
    there = root / ("opt/real/tool" if link else "opt/dir/bin/sub/tool")
    assert there.read_text() == "tool"
    assert os.getxattr(there, "user.note") == b"\xff\x00=caf\xc3\xa9"
    assert os.getxattr(there, "security.capability") == capability


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_holes_stay_holes_in_a_new_archive(guest: GuestFiles, root: Path, tmp_path: Path, form: str) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.write(b"begin")
        file.seek(300_000)
        file.write(b"middle")
        file.truncate(1_000_000)
    (root / "lnk").symlink_to("/opt/dir")
    subprocess.run(
        ["tar", "-C", tmp_path, f"--format={form}", "-S", "-cf", tmp_path / "a.tar",
         "--transform=s,^,lnk/,", "holes"], check=True,
    )  # fmt: skip
    guest.tar_in(tmp_path / "a.tar", "/")
    assert (root / "opt/dir/holes").read_bytes() == (tmp_path / "holes").read_bytes()


def test_nothing_is_unpacked_through_a_link_to_nowhere(
    guest: GuestFiles, root: Path, outside: Path, tmp_path: Path
) -> None:
    (root / "opt/dir/data").symlink_to(outside)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x").write_text("x")
    with pytest.raises(WorkspaceError, match="leads to no directory"):
        guest.copy_in(tmp_path / "data", "/opt/dir")
    assert names(outside) == ["file"]


@pytest.mark.parametrize("link", [False, True])
def test_folders_of_the_guest_keep_their_modes_when_a_tree_is_laid_over_them(
    guest: GuestFiles, root: Path, tmp_path: Path, link: bool
) -> None:
    """A tree of a user with umask 077 must not close the guest's /etc."""
    (tmp_path / "opt/dir/new/deep").mkdir(parents=True)
    (tmp_path / "opt/dir/file").write_text("x")
    for folder in ("opt", "opt/dir", "opt/dir/new", "opt/dir/new/deep"):
        (tmp_path / folder).chmod(0o700)
    (root / "opt").chmod(0o755)
    (root / "opt/dir").chmod(0o1777)
    if link:
        (root / "opt/dir").rename(root / "real")
        (root / "opt/dir").symlink_to("/real")
    guest.copy_in(tmp_path / "opt", "/")
    there = root / ("real" if link else "opt/dir")
    assert (root / "opt").stat().st_mode & 0o7777 == 0o755
    assert there.stat().st_mode & 0o7777 == 0o1777
    assert (there / "file").read_text() == "x"
    assert (there / "new/deep").stat().st_mode & 0o7777 == 0o700
    assert (there / "new").stat().st_mode & 0o7777 == 0o700


class Recorder:
    """Receives the calls of an empty guest, and reads local files as the worker would."""

    def __init__(self) -> None:
        self.archives: list[tuple[Path, list[str]]] = []
        self.uploads: list[tuple[str, bytes]] = []

    def call(self, method: str, *words: Any, **_options: Any) -> Any:
        match method:
            case "realpath":
                return words[0]
            case "statns":
                raise GuestCallError("no such file", errno_name="ENOENT")
            case "ls":
                return []
            case "tar_in":
                with tarfile.open(words[0]) as archive:
                    self.archives.append((Path(words[0]), archive.getnames()))
            case "upload":
                words[0].encode()  # the binding accepts only UTF-8
                self.uploads.append((words[0], Path(words[0]).read_bytes()))
        return None


def test_trees_are_packed_in_the_folder_with_room(tmp_path: Path) -> None:
    scratch, tree = tmp_path / "scratch", tmp_path / "tree"
    scratch.mkdir()
    tree.mkdir()
    (tree / "file").write_text("x")
    recorder = Recorder()
    GuestFiles(recorder, scratch).copy_in(tree, "/srv")  # type: ignore[arg-type]  # all that it uses
    ((archive, names),) = recorder.archives
    assert archive.parent == scratch
    assert names == ["tree", "tree/file"]
    assert list(scratch.iterdir()) == []


def test_a_local_name_that_is_not_utf8(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    local = tmp_path / os.fsdecode(b"caf\xe9")
    local.write_bytes(b"x")
    recorder = Recorder()
    GuestFiles(recorder, scratch).upload(local, "/x")  # type: ignore[arg-type]
    ((_name, content),) = recorder.uploads
    assert content == b"x"
