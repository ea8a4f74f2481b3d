"""Requests about files, answered by the confined worker on a real ext4 filesystem."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.errors import GuestCallError, UnfitError
from tests.unit.imgbuilder.appliance.hostside.conftest import NOW, debugfs


def test_a_written_file_is_read_back(guest: LibguestfsAppliance) -> None:
    guest.write("/motd", b"hello\n")
    guest.append("/motd", b"again\n")
    assert guest.read("/motd") == b"hello\nagain\n"
    assert guest.start_of("/motd", 5) == b"hello"
    assert guest.end_of("/motd", 6) == b"again\n"
    found = guest.stat("/motd")
    assert (stat.filemode(found.mode), found.uid, found.gid, found.size) == ("-rw-r--r--", 0, 0, 12)


def test_writing_replaces_the_content_and_keeps_owner_and_mode(guest: LibguestfsAppliance) -> None:
    guest.write("/f", b"x" * 9000)
    guest.chown(1000, 70000, "/f")
    guest.chmod(0o4751, "/f")
    guest.write("/f", b"short")
    found = guest.stat("/f")
    assert (found.mode & 0o7777, found.uid, found.gid, found.size) == (0o4751, 1000, 70000, 5)
    assert guest.read("/f") == b"short"


def test_chown_takes_the_rights_of_a_program_away(guest: LibguestfsAppliance) -> None:
    guest.write("/f", b"")
    guest.chmod(0o6755, "/f")
    guest.chown(5, 6, "/f")
    assert guest.stat("/f").mode & 0o7777 == 0o755
    guest.chmod(0o2644, "/f")  # without execution by the group, it is a mark for locking
    guest.chown(0, 0, "/f")
    assert guest.stat("/f").mode & 0o7777 == 0o2644


def test_folders_are_made_with_their_parents(guest: LibguestfsAppliance) -> None:
    guest.mkdir_p("/a/b/c")
    guest.mkdir_p("/a/b")
    guest.mkdir_mode("/a/private", 0o1777)
    assert guest.ls("/a") == ["b", "private"]
    assert stat.filemode(guest.stat("/a/b").mode) == "drwxr-xr-x"
    assert stat.filemode(guest.stat("/a/private").mode) == "drwxrwxrwt"


def test_links_are_followed_inside_the_guest(guest: LibguestfsAppliance) -> None:
    guest.mkdir_p("/usr/lib/deep")
    guest.symlink("/usr/lib", "/lib")
    guest.symlink("../lib/deep", "/usr/relative")
    guest.symlink("../../../../lib", "/usr/lib/up")
    guest.write("/lib/deep/f", b"1")
    assert guest.realpath("/usr/relative/f") == "/usr/lib/deep/f"
    assert guest.realpath("/usr/lib/up/./deep/../deep//f") == "/usr/lib/deep/f"
    assert guest.is_dir("/lib")
    assert guest.is_symlink("/lib")
    assert not guest.is_symlink("/lib/deep")
    assert guest.readlink("/usr/relative") == "../lib/deep"


def test_a_file_is_made_at_the_end_of_a_link(guest: LibguestfsAppliance) -> None:
    guest.mkdir_p("/run")
    guest.symlink("/run/target", "/link")
    assert not guest.exists("/link")
    guest.write("/link", b"through")
    assert guest.read("/run/target") == b"through"
    assert guest.is_symlink("/link")


@pytest.mark.parametrize("length", [1, 59, 60, 61, 255, 1000])
def test_links_of_any_length(guest: LibguestfsAppliance, length: int) -> None:
    guest.symlink("t" * length, "/link")
    assert guest.readlink("/link") == "t" * length


def test_links_in_a_circle(guest: LibguestfsAppliance) -> None:
    guest.symlink("/two", "/one")
    guest.symlink("/one", "/two")
    with pytest.raises(GuestCallError) as failure:
        guest.realpath("/one")
    assert failure.value.errno_name == "ELOOP"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/missing", "ENOENT"),
        ("/missing/file", "ENOENT"),
        ("/file/below", "ENOTDIR"),
        ("/file/", "ENOTDIR"),
        ("/" + "n" * 256, "ENAMETOOLONG"),
        ("/n" * 2100, "ENAMETOOLONG"),
    ],
)
def test_paths_that_lead_nowhere(guest: LibguestfsAppliance, path: str, expected: str) -> None:
    guest.write("/file", b"")
    with pytest.raises(GuestCallError) as failure:
        guest.stat(path)
    assert failure.value.errno_name == expected
    assert not guest.is_dir(path) if expected != "ENAMETOOLONG" else True


def test_a_missing_file_is_named(guest: LibguestfsAppliance) -> None:
    with pytest.raises(GuestCallError, match=r"statns: /missing: No such file or directory"):
        guest.stat("/missing")


def test_a_replaced_file_keeps_everything_but_its_content(guest: LibguestfsAppliance) -> None:
    guest.write("/f", b"old")
    guest.chown(12, 34, "/f")
    guest.chmod(0o4644, "/f")
    guest.replace("/f", b"new content")
    found = guest.stat("/f")
    assert (found.mode & 0o7777, found.uid, found.gid) == (0o4644, 12, 34)
    assert guest.read("/f") == b"new content"
    assert guest.ls("/") == ["f", "lost+found"]


def test_trees_are_copied_moved_and_removed(guest: LibguestfsAppliance) -> None:
    guest.mkdir_p("/a/b")
    guest.write("/a/b/f", b"content")
    guest.chown(7, 8, "/a/b/f")
    guest.chmod(0o4750, "/a/b/f")
    guest.symlink("b/f", "/a/link")
    guest.copy("/a", "/copy")
    assert guest.files_below("/copy") == ["/copy/b/f"]
    assert guest.readlink("/copy/link") == "b/f"
    found = guest.stat("/copy/b/f")
    assert (found.mode & 0o7777, found.uid, found.gid) == (0o4750, 7, 8)
    guest.move("/copy/b", "/moved")
    assert guest.ls("/copy") == ["link"]
    assert guest.read("/moved/f") == b"content"
    assert guest.realpath("/moved/..") == "/"
    guest.remove("/a")
    guest.remove("/a")
    assert not guest.exists("/a")


def test_a_folder_with_thousands_of_files(guest: LibguestfsAppliance) -> None:
    guest.mkdir_p("/many")
    for number in range(600):
        guest.write(f"/many/{number:04}-{'n' * 200}", b"")
    assert len(guest.ls("/many")) == 600
    assert guest.is_file(f"/many/0599-{'n' * 200}")
    guest.remove("/many")
    assert guest.ls("/") == ["lost+found"]


def test_patterns(guest: LibguestfsAppliance) -> None:
    guest.mkdir_p("/d/one")
    for name in ("a.log", "b.log", ".hidden", "c.txt"):
        guest.write(f"/d/{name}", b"")
        guest.write(f"/d/one/{name}", b"")
    assert guest.glob("/d/*.log") == ["/d/a.log", "/d/b.log"]
    assert guest.glob("/d/*") == ["/d/a.log", "/d/b.log", "/d/c.txt", "/d/one"]
    assert guest.glob("/d/.[!.]*") == ["/d/.hidden"]
    assert guest.glob("/*/one/[ab].log") == ["/d/one/a.log", "/d/one/b.log"]
    assert guest.glob("/d/a.log") == ["/d/a.log"]
    assert guest.glob("/d/nothing*") == []
    guest.symlink("/circle", "/circle")
    assert guest.glob("/*/one/a.log") == ["/d/one/a.log"]


def test_files_of_the_host(guest: LibguestfsAppliance, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000  # more than two requests
    (tmp_path / "local").write_bytes(content)
    guest.upload(tmp_path / "local", "/big")
    guest.download("/big", tmp_path / "back", limit=len(content))
    assert (tmp_path / "back").read_bytes() == content
    guest.download("/big", tmp_path / "end", limit=100, last=True)
    assert (tmp_path / "end").read_bytes() == content[-100:]
    (tmp_path / "empty").write_bytes(b"")
    guest.upload(tmp_path / "empty", "/big")
    assert guest.stat("/big").size == 0


def test_times_are_those_of_the_given_clock(image: Path, guest: LibguestfsAppliance) -> None:
    guest.mkdir_p("/new")
    guest.write("/new/f", b"x")
    guest.unmount_all()
    for path in ("/new", "/new/f"):
        shown = debugfs(image, f"stat {path}")
        for name in ("atime", "mtime", "ctime", "crtime"):
            assert f"{name}: 0x{NOW // 10**9:08x}:{(NOW % 10**9) << 2:08x}" in shown


def test_what_needs_an_appliance(guest: LibguestfsAppliance) -> None:
    for request in (
        lambda: guest.sh("true"),
        lambda: guest.relabel("/etc/selinux/contexts"),
        lambda: guest.scrub("/f"),
        lambda: guest.inspect_roots(),
        lambda: guest.mount_memory("/"),
        lambda: guest.open_luks("/dev/sda", "key", "name"),
    ):
        with pytest.raises(UnfitError):
            request()
