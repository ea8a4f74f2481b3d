"""The same requests with and without an appliance: equal answers, equal errors, and equal files."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment, open_appliance
from imgbuilder.appliance.hostside.connection import open_hostside
from imgbuilder.appliance.hostside.devices import Disk
from imgbuilder.errors import GuestCallError, UnfitError
from imgbuilder.guests.ports import Appliance
from tests.fakes.exttree import read_times, read_tree
from tests.guest.person import Person
from tests.unit.imgbuilder.appliance.hostside.conftest import check, make_image

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1200)]

_Step = Callable[[Appliance], object]


def _then(*steps: _Step) -> _Step:
    return lambda guest: [step(guest) for step in steps]


def _write_long(number: int, guest: Appliance) -> None:
    guest.write(f"/shared/{number:03}-{'n' * 100}", b"")


def _populate(folder: Path) -> None:
    """Make a tree with all kinds of files, to begin with."""
    for name in ("etc/conf.d", "usr/lib", "home/user/.ssh", "var/log/old", "shared", "acl"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (folder / "etc/shadow").write_text("root:*:1:\n")
    os.chown(folder / "etc/shadow", 0, 42)
    (folder / "etc/shadow").chmod(0o640)
    (folder / "lib").symlink_to("usr/lib")
    (folder / "absolute").symlink_to("/usr/lib")
    (folder / "dangling").symlink_to("/nowhere/file")
    (folder / "circle").symlink_to("circle")
    (folder / "long").symlink_to("x" * 200)
    (folder / "usr/lib/one").write_bytes(b"1" * 5000)
    os.link(folder / "usr/lib/one", folder / "usr/lib/two")
    (folder / "usr/lib/program").write_bytes(b"#!/bin/sh\n")
    (folder / "usr/lib/program").chmod(0o6755)
    (folder / "usr/lib/capable").write_bytes(b"#!/bin/sh\n")
    os.setxattr(
        folder / "usr/lib/capable",
        "security.capability",
        bytes.fromhex("0100000200200000000000000000000000000000"),
    )
    (folder / "etc/labelled").write_bytes(b"label")
    os.setxattr(folder / "etc/labelled", "security.selinux", b"system_u:object_r:etc_t:s0\0")
    os.setxattr(folder / "etc/labelled", "user.big", b"v" * 900)
    os.chown(folder / "etc/labelled", 1000, 100000)
    (folder / "etc/labelled").chmod(0o4644)
    subprocess.run(["setfacl", "-m", "u:1000:rw", folder / "etc/hosts"], check=False)
    for number in range(3):
        (folder / f"var/log/old/{number}.log").write_bytes(b"l" * number * 1000)
    (folder / "var/log/.hidden").write_bytes(b"")
    os.mkfifo(folder / "var/pipe")
    with (folder / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    os.chown(folder / "shared", 0, 50)
    (folder / "shared").chmod(0o2775)
    for path in sorted(folder.rglob("*")):
        os.utime(path, ns=(1_600_000_000_123_456_789,) * 2, follow_symlinks=False)


_STEPS: dict[str, _Step] = {
    # Looking
    "ls /": lambda g: g.ls("/"),
    "ls file": lambda g: g.ls("/etc/hosts"),
    "ls missing": lambda g: g.ls("/missing"),
    "glob": lambda g: g.glob("/var/log/*"),
    "glob hidden": lambda g: g.glob("/var/log/.*d*"),
    "glob deep": lambda g: g.glob("/*/l*/o[ln][de]"),
    "glob through a link": lambda g: g.glob("/lib/*"),
    "glob dangling": lambda g: g.glob("/dang*"),
    "glob nothing": lambda g: g.glob("/x*/y"),
    "glob plain": lambda g: g.glob("/etc/hosts"),
    "glob class": lambda g: g.glob("/var/log/old/[!1].log"),
    "exists": lambda g: [
        g.exists(p) for p in ("/etc", "/lib/one", "/dangling", "/circle", "/etc/hosts/x", "/")
    ],
    "is_file": lambda g: [
        g.is_file(p) for p in ("/etc", "/lib/one", "/dangling", "/etc/hosts/x", "/var/pipe")
    ],
    "is_file circle": lambda g: g.is_file("/circle"),
    "is_dir": lambda g: [g.is_dir(p) for p in ("/etc", "/lib", "/absolute", "/dangling", "/etc/hosts/x")],
    "is_symlink": lambda g: [g.is_symlink(p) for p in ("/lib", "/lib/", "/dangling", "/etc", "/missing")],
    "readlink": lambda g: [g.readlink(p) for p in ("/lib", "/absolute", "/long", "/circle")],
    "readlink file": lambda g: g.readlink("/etc/hosts"),
    "realpath": lambda g: [g.realpath(p) for p in ("/lib/../lib/one", "/absolute/two", "//etc/./", "/")],
    "realpath missing": lambda g: g.realpath("/etc/missing"),
    "realpath circle": lambda g: g.realpath("/circle/x"),
    "realpath dangling": lambda g: g.realpath("/dangling"),
    "stat": lambda g: [g.stat(p) for p in ("/etc/labelled", "/lib/one", "/shared", "/var/pipe")],
    "stat missing": lambda g: g.stat("/missing"),
    "stat below a file": lambda g: g.stat("/etc/hosts/x"),
    "stat long name": lambda g: g.stat("/" + "n" * 300),
    "read": lambda g: g.read("/lib/one"),
    "read sparse": lambda g: len(g.read("/sparse")),
    "read too large": lambda g: g.read("/sparse", limit=10),
    "read folder": lambda g: g.read("/etc"),
    "start_of": lambda g: g.start_of("/lib/one", 7),
    "end_of": lambda g: g.end_of("/sparse", 5),
    "files_below": lambda g: g.files_below("/"),
    "files_below file": lambda g: g.files_below("/etc/hosts"),
    "files_below missing": lambda g: g.files_below("/missing"),
    "disks": _then(
        lambda g: g.disks(),
        lambda g: g.partitions(),
        lambda g: g.device_size("/dev/sda"),
        lambda g: g.filesystem_type("/dev/sda"),
    ),
    "block_devices": lambda g: g.block_devices(),
    "mounted": lambda g: g.mounted(),
    # Changing
    "write new": lambda g: g.write("/etc/new", b"new\n"),
    "write old": lambda g: g.write("/etc/labelled", b"other"),
    "write program": lambda g: g.write("/usr/lib/program", b"other"),
    "write capable": lambda g: g.append("/usr/lib/capable", b"other"),
    "write through a link": lambda g: g.write("/lib/three", b"3"),
    "write dangling": lambda g: g.write("/dangling", b"3"),
    "write circle": lambda g: g.write("/circle", b"3"),
    "write to a folder": lambda g: g.write("/etc", b"3"),
    "write without a folder": lambda g: g.write("/missing/f", b"3"),
    "write to a pipe": lambda g: g.write("/var/pipe", b"3"),
    "write nothing": lambda g: g.write("/etc/empty", b""),
    "write large": lambda g: g.write("/large", bytes(range(256)) * 20_000),
    "append": lambda g: g.append("/etc/hosts", b"10.0.0.1 other\n"),
    "append new": lambda g: g.append("/etc/appended", b"line\n"),
    "truncate": lambda g: g.truncate("/etc/appended"),
    "truncate missing": lambda g: g.truncate("/missing"),
    "touch new": lambda g: g.touch("/etc/touched"),
    "touch without a folder": lambda g: g.touch("/missing/f"),
    "mkdir_p": lambda g: g.mkdir_p("/opt/a/b/c"),
    "mkdir_p again": lambda g: g.mkdir_p("/opt/a"),
    "mkdir_p over a file": lambda g: g.mkdir_p("/etc/hosts"),
    "mkdir_p below a file": lambda g: g.mkdir_p("/etc/hosts/d"),
    "mkdir_p through a link": lambda g: g.mkdir_p("/absolute/d/e"),
    "mkdir_mode": lambda g: g.mkdir_mode("/opt/private", 0o1770),
    "mkdir_mode again": lambda g: g.mkdir_mode("/opt/private", 0o700),
    "mkdir_mode without a folder": lambda g: g.mkdir_mode("/missing/d", 0o700),
    "setgid folder": _then(lambda g: g.mkdir_p("/shared/d"), lambda g: g.write("/shared/d/f", b"x")),
    "chmod": lambda g: g.chmod(0o4711, "/etc/new"),
    "chmod missing": lambda g: g.chmod(0o4711, "/missing"),
    "chmod folder": lambda g: g.chmod(0o1777, "/opt/a"),
    "chown": lambda g: g.chown(1000, 70000, "/etc/new"),
    "chown folder": lambda g: g.chown(5, 6, "/shared/d"),
    "chown capable": _then(
        lambda g: g.copy("/usr/lib/capable", "/capable2"), lambda g: g.chown(1, 1, "/capable2")
    ),
    "chown missing": lambda g: g.chown(5, 6, "/missing"),
    "symlink": lambda g: g.symlink("../etc", "/usr/etc"),
    "symlink long": lambda g: g.symlink("t" * 300, "/usr/long"),
    "symlink over a file": lambda g: g.symlink("hosts", "/etc/touched"),
    "symlink over a folder": lambda g: g.symlink("hosts", "/opt"),
    "replace": lambda g: g.replace("/etc/shadow", b"root:x:1:\n"),
    "replace labelled": lambda g: g.replace("/etc/labelled", b"replaced"),
    "replace hard link": lambda g: g.replace("/usr/lib/one", b"replaced"),
    "replace through a link": lambda g: g.replace("/lib/three", b"replaced"),
    "replace with an ACL": lambda g: g.replace("/etc/hosts", b"replaced"),
    "replace missing": lambda g: g.replace("/missing", b"x"),
    "copy file": lambda g: g.copy("/etc/labelled", "/opt/labelled"),
    "copy into a folder": lambda g: g.copy("/etc/shadow", "/opt"),
    "copy over a file": lambda g: g.copy("/etc/shadow", "/etc/new"),
    "copy link": lambda g: g.copy("/lib", "/lib2"),
    "copy link over a file": lambda g: g.copy("/long", "/etc/empty"),
    "copy tree": lambda g: g.copy("/usr/lib", "/opt/libs"),
    "copy tree into a folder": lambda g: g.copy("/var/log", "/opt"),
    "copy tree over a tree": _then(
        lambda g: g.write("/var/log/more", b"m"), lambda g: g.copy("/var/log", "/opt")
    ),
    "copy sparse": lambda g: g.copy("/sparse", "/opt/sparse"),
    "copy missing": lambda g: g.copy("/missing", "/opt/x"),
    "move": lambda g: g.move("/opt/sparse", "/opt/moved"),
    "move folder": lambda g: g.move("/opt/libs", "/home/libs"),
    "move into a folder": lambda g: g.move("/opt/moved", "/home"),
    "move over a file": _then(
        lambda g: g.write("/m1", b"1"), lambda g: g.write("/m2", b"2"), lambda g: g.move("/m1", "/m2")
    ),
    "move folder over a file": lambda g: g.move("/opt/a", "/m2"),
    "move into itself": lambda g: g.move("/opt", "/opt/a"),
    "move missing": lambda g: g.move("/missing", "/x"),
    "move hard link": lambda g: g.move("/usr/lib/one", "/usr/lib/two"),
    "move to itself": lambda g: g.move("/m2", "/m2"),
    "remove file": lambda g: g.remove("/etc/appended"),
    "remove tree": lambda g: g.remove("/opt/a"),
    "remove link": lambda g: g.remove("/absolute"),
    "remove missing": lambda g: g.remove("/missing/f"),
    "remove pipe": lambda g: g.remove("/var/pipe"),
    "many files": _then(*(partial(_write_long, number) for number in range(60))),
}


_UNFIT = {"files_below file", "copy missing", "mkdir_p over a file"}
"""Steps whose errors are left to the appliance and its programs."""


class _Transfers:
    """Steps with files of this host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        tree = folder / "tree"
        (tree / "sub").mkdir(parents=True)
        (tree / "sub/f").write_bytes(b"content")
        (tree / "sub/f").chmod(0o750)
        (tree / "link").symlink_to("sub/f")
        os.link(tree / "sub/f", tree / "twin")
        os.setxattr(tree / "sub/f", "user.note", b"\x00\xff")
        for path in (tree / "sub/f", tree / "sub", tree):
            os.utime(path, ns=(1_500_000_000_987_654_321,) * 2)
        subprocess.run(
            ["tar", "--xattrs", "-cf", folder / "tree.tar", "--owner=1000", "--group=2000", "-C", tree, "."],
            check=True,
        )
        with (folder / "sparse").open("wb") as file:
            file.seek(1 << 20)
            file.write(b"end")
        subprocess.run(["tar", "-cSJf", folder / "sparse.tar.xz", "-C", folder, "sparse"], check=True)

    def steps(self) -> dict[str, _Step]:
        folder, back = self._folder, self._folder / "back"
        return {
            "upload": lambda g: g.upload(folder / "tree.tar", "/uploaded"),
            "upload over a file": lambda g: g.upload(folder / "tree/sub/f", "/uploaded"),
            "upload sparse": lambda g: g.upload(folder / "sparse", "/uploaded-sparse"),
            "upload without a folder": lambda g: g.upload(folder / "tree/sub/f", "/missing/f"),
            "upload to a folder": lambda g: g.upload(folder / "tree/sub/f", "/etc"),
            "download": _then(
                lambda g: g.download("/large", back, limit=1 << 24), lambda g: back.stat().st_size
            ),
            "download the end": _then(
                lambda g: g.download("/large", back, limit=9, last=True), lambda g: back.read_bytes()
            ),
            "download missing": lambda g: g.download("/missing", back, limit=9),
            "copy_in": lambda g: g.copy_in(folder / "tree", "/home"),
            "copy_in again": lambda g: g.copy_in(folder / "tree", "/home"),
            "copy_in to a file": lambda g: g.copy_in(folder / "tree", "/etc/hosts"),
            "tar_in": lambda g: g.tar_in(folder / "tree.tar", "/home/user"),
            "tar_in through a link": lambda g: g.tar_in(folder / "tree.tar", "/lib"),
            "tar_in sparse": lambda g: g.tar_in(folder / "sparse.tar.xz", "/home/user", compress="xz"),
            "tar_in missing": lambda g: g.tar_in(folder / "tree.tar", "/missing"),
        }


def _outcomes(appliance: Appliance, steps: dict[str, _Step]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, step in steps.items():
        try:
            found[name] = step(appliance)
        except GuestCallError as error:
            found[name] = (error.errno_name, error.message)
        except UnfitError:
            found[name] = UnfitError
    return found


@pytest.mark.parametrize(
    "options", [("-t", "ext4"), ("-t", "ext3", "-I", "128"), ("-t", "ext4", "-b", "1024")]
)
def test_requests_have_equal_effects(tmp_path: Path, options: tuple[str, ...]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    _populate(source)
    image = make_image(tmp_path / "appliance", *options, "-d", str(source), size="64M")
    twin = tmp_path / "hostside"
    shutil.copyfile(image, twin)
    steps = _STEPS | _Transfers(tmp_path).steps()
    start = time.time_ns()
    with open_appliance([Attachment(image, "raw")]) as appliance:
        appliance.mount("/dev/sda", "/")
        expected = _outcomes(appliance, steps)
        use = appliance.filesystem_use()
        appliance.shutdown()
    with open_hostside(Attachment(twin, "raw")) as appliance:
        appliance.mount("/dev/sda", "/")
        found = _outcomes(appliance, steps)
        assert {name for name, outcome in found.items() if outcome is UnfitError} == _UNFIT
        assert found == expected | dict.fromkeys(_UNFIT, UnfitError)
        (mine,) = appliance.filesystem_use()
        assert mine.total == use[0].total
        appliance.shutdown()
    check(twin)
    assert read_tree(twin) == read_tree(image)
    old, new = read_times(image), read_times(twin)
    assert {path: time for path, time in new.items() if time < start} == {
        path: time for path, time in old.items() if time < start
    }


_OPTIONS = (
    "--hostname", "twin.example.org", "--timezone", "Europe/Berlin",
    "--write", "/etc/motd:hello\n", "--append-line", "/etc/motd:more", "--mkdir", "/srv/folder/deep",
    "--upload", "/etc/services:/srv/services", "--chmod", "4750:/srv/services",
    "--chown", "7:70000:/srv/folder", "--link", "/etc/motd:/srv/folder/link:/srv/other",
    "--touch", "/srv/touched", "--copy", "/etc/apt:/srv/apt", "--move", "/srv/touched:/srv/moved",
    "--copy-in", "/usr/share/common-licenses:/srv", "--edit", "/etc/issue:s/Debian/debian/",
    "--delete", "/usr/share/doc/b*", "--truncate", "/etc/issue.net",
    "--ssh-inject", "root:string:ssh-ed25519 AAAA someone", "--root-password", "password:secret",
    "--firstboot-command", "echo hello",
)  # fmt: skip


_RANDOM = {"/etc/machine-id", "/etc/shadow", "/var/lib/systemd/random-seed"}
"""Files whose random content differs between any two builds."""


def test_options_make_equal_trees(configured: Person) -> None:
    trees = []
    for way in ("always", "never"):
        image = configured.home / f"{way}.img"
        configured.run(
            "pybuilder", "debian-12", "-o", image, *_OPTIONS, "--size", "4G",
            env={"PYBUILDER_HOSTSIDE": way, "SOURCE_DATE_EPOCH": "1700000000"}, timeout=900,
        )  # fmt: skip
        trees.append(read_tree(image, Disk(image).partitions[-1].start))
        image.unlink()
    hostside, appliance = trees
    assert len(hostside) > 5000
    different = {path for path in hostside | appliance if hostside.get(path) != appliance.get(path)}
    assert different == _RANDOM
    for path in _RANDOM:
        assert replace(hostside[path], content="") == replace(appliance[path], content="")
