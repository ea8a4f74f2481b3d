"""Archives and local trees, unpacked by the confined worker on a real ext4 filesystem."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.errors import UnfitError
from tests.unit.imgbuilder.appliance.hostside.conftest import debugfs

_OLD = 1_500_000_000


def _archive(path: Path, *members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            info, content = member if isinstance(member, tuple) else (member, b"")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, **facts: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mtime = _OLD
    for key, value in facts.items():
        setattr(info, key, value)
    return info


def test_members_of_all_kinds(image: Path, guest: LibguestfsAppliance, tmp_path: Path) -> None:
    guest.mkdir_p("/srv")
    archive = _archive(
        tmp_path / "a.tar",
        _member("d", tarfile.DIRTYPE, mode=0o2750, uid=1, gid=2),
        (_member("d/f", mode=0o4755, uid=1000, gid=100000, uname="root"), b"content" * 400_000),
        _member("d/link", tarfile.SYMTYPE, linkname="/etc/passwd"),
        _member("d/twin", tarfile.LNKTYPE, linkname="d/f"),
        _member("d/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        _member("d/disk", tarfile.BLKTYPE, devmajor=259, devminor=300000),
        _member("d/pipe", tarfile.FIFOTYPE, mode=0o644),
        (_member("new/deep/f", mode=0o600), b"x"),
    )
    guest.tar_in(archive, "/srv")
    found = guest.stat("/srv/d")
    assert (stat.filemode(found.mode), found.uid, found.gid) == ("drwxr-s---", 1, 2)
    found = guest.stat("/srv/d/twin")
    assert (found.mode & 0o7777, found.uid, found.gid, found.size) == (0o4755, 1000, 100000, 2_800_000)
    assert guest.read("/srv/d/twin") == b"content" * 400_000
    assert guest.readlink("/srv/d/link") == "/etc/passwd"
    assert stat.filemode(guest.stat("/srv/new/deep").mode) == "drwxr-xr-x"
    guest.unmount_all()
    assert "Links: 2" in debugfs(image, "stat /srv/d/f")
    assert "Device major/minor number: 01:03" in debugfs(image, "stat /srv/d/null")
    assert "Device major/minor number: 259:300000" in debugfs(image, "stat /srv/d/disk")
    for path in ("/srv/d", "/srv/d/f", "/srv/d/link", "/srv/new/deep/f"):
        assert f"mtime: 0x{_OLD:08x}:00000000" in debugfs(image, f"stat {path}"), path


def test_what_is_there_is_replaced(guest: LibguestfsAppliance, tmp_path: Path) -> None:
    guest.mkdir_p("/d/kept")
    guest.write("/d/f", b"old")
    guest.write("/d/twin", b"old")
    guest.symlink("/d/twin", "/d/link")
    archive = _archive(
        tmp_path / "a.tar",
        _member("d", tarfile.DIRTYPE, mode=0o711),
        (_member("d/f", mode=0o640), b"new"),
        (_member("d/link", mode=0o640), b"a file now"),
    )
    guest.tar_in(archive, "/")
    assert guest.read("/d/f") == b"new"
    assert guest.stat("/d/f").mode & 0o7777 == 0o640
    assert not guest.is_symlink("/d/link")
    assert guest.read("/d/twin") == b"old"
    assert guest.stat("/d").mode & 0o7777 == 0o711
    assert guest.is_dir("/d/kept")


@pytest.mark.parametrize(("letter", "name"), [("z", "gzip"), ("j", "bzip2"), ("J", "xz")])
def test_compressed_archives(guest: LibguestfsAppliance, tmp_path: Path, letter: str, name: str) -> None:
    (tmp_path / "f").write_bytes(b"content")
    subprocess.run(["tar", f"-c{letter}f", tmp_path / "a", "-C", tmp_path, "f"], check=True)
    guest.mkdir_p("/d")
    guest.tar_in(tmp_path / "a", "/d", compress=name)
    assert guest.read("/d/f") == b"content"


def test_holes_stay_holes(image: Path, guest: LibguestfsAppliance, tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"data")
        file.truncate(8 << 20)
    subprocess.run(["tar", "-cSf", tmp_path / "a", "-C", tmp_path, "sparse"], check=True)
    guest.mkdir_p("/d")
    guest.tar_in(tmp_path / "a", "/d")
    guest.copy("/d/sparse", "/copy")
    guest.download("/copy", tmp_path / "back", limit=8 << 20)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "sparse").read_bytes()
    guest.unmount_all()
    for path in ("/d/sparse", "/copy"):
        blocks = int(debugfs(image, f"stat {path}").split("Blockcount:")[1].split()[0])
        assert blocks * 512 < 64 * 1024


def test_local_trees(image: Path, guest: LibguestfsAppliance, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "f").write_bytes(b"content")
    (tree / "sub" / "f").chmod(0o750)
    (tree / "link").symlink_to("sub/f")
    os.setxattr(tree / "sub" / "f", "user.note", b"\x00\xff")
    guest.mkdir_p("/opt")
    guest.copy_in(tree, "/opt")
    assert guest.read("/opt/tree/link") == b"content"
    found = guest.stat("/opt/tree/sub/f")
    assert (found.mode & 0o7777, found.uid, found.gid) == (0o750, 0, 0)
    guest.unmount_all()
    assert "user.note (2)" in debugfs(image, "stat /opt/tree/sub/f")


_UNFIT: dict[str, Callable[[], tuple[tarfile.TarInfo, ...]]] = {
    "an ACL": lambda: (_member("f", pax_headers={"SCHILY.acl.access": "user::rw-"}),),
    "a label": lambda: (_member("f", pax_headers={"SCHILY.xattr.security.selinux": "label"}),),
    "a rare type": lambda: (_member("f", b"D"),),
    "an owner that cannot be": lambda: (_member("f", uid=1 << 33),),
    "a file over a folder": lambda: (_member("lost+found"),),
    "a folder over a file": lambda: (_member("file", tarfile.DIRTYPE),),
    "dots in an empty folder": lambda: (_member("../f"),),
}


@pytest.mark.parametrize("case", _UNFIT)
def test_what_needs_the_appliances_tar(guest: LibguestfsAppliance, tmp_path: Path, case: str) -> None:
    archive = _archive(tmp_path / "a.tar", *_UNFIT[case]())
    if case != "dots in an empty folder":
        guest.write("/file", b"")
    with pytest.raises(UnfitError):
        guest.tar_in(archive, "/")
