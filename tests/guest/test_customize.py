"""pybuilder-customize on a real guest, and the same operations by virt-customize on a copy of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imgbuilder.appliance.hostside.devices import Disk
from tests.fakes.exttree import read_tree
from tests.guest.images import copy, same_bytes
from tests.guest.person import Person
from tests.guest.smallguest import SMALL_ROOT, small_disk, small_system

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5fW1Y0Yv8E1uTqWm3s0c1l1m3Zr1aP5mUe8Xr0pQ2d x"
MENDED = {
    "/etc/timezone": "--timezone keeps it in step with /etc/localtime; virt-customize leaves it behind",
    "/srv/a/tree": "--copy-in also gives the tree to root",
    "/srv/a/tree/deep": "--copy-in",
    "/srv/a/tree/deep/f": "--copy-in",
    "/srv/a/b/moved": "--copy-in, moved",
    "/srv/copied": "--copy-in, copied",
    "/srv/copied/deep": "--copy-in, copied",
    "/srv/uploaded": "--upload gives the file to root; virt-customize to the number that its owner has here",
    "/var/lib/systemd/random-seed": "systemd's seed is made; virt-customize knows older places only",
    "/tmp/builder.log": "the logs of two runs",
    "/etc/machine-id": "random",
    "/etc/shadow": "salted hashes",
}
"""Paths that may differ, and why; a path without a reason may not."""


@pytest.mark.skipif(shutil.which("virt-customize") is None, reason="virt-customize is not installed")
def test_the_same_operations_by_virt_customize(person: Person) -> None:
    """Trees of a small guest compared: all but times; differences are fixed edges, each named."""
    home = person.home / "same"
    home.mkdir(exist_ok=True)
    root = small_system(home, "mkdir")
    zone = root / "usr/share/zoneinfo/Europe/Berlin"
    for path, text in (
        (root / "etc/passwd", "zoe:x:1000:1000::/home/zoe:/bin/sh\n"),
        (root / "etc/group", "zoe:x:1000:\n"),
        (root / "etc/shadow", "zoe:!:19000:0:99999:7:::\n"),
        (root / "etc/motd", "This is Debian.\n"),
        (root / "etc/timezone", "Etc/UTC\n"),
        (zone, "TZif2"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)
    (root / "home/zoe").mkdir(parents=True)
    ours = small_disk(home / "ours.img", root)
    theirs = copy(ours, home / "theirs.img")
    (home / "page").write_text("<p>\n")
    (home / "page").chmod(0o640)
    (home / "tree" / "deep").mkdir(parents=True)
    (home / "tree" / "deep" / "f").write_text("f")
    (home / "script").write_text("#!/bin/sh\necho ran >/root/by-script\numask 027; mkdir /root/d\n")
    (home / "commands").write_text("write /root/from-file:a:b\n")
    person.owns(home)
    options: list[str | Path] = [
        "--hostname", "same.example.org", "--timezone", "Europe/Berlin",
        "--mkdir", "/srv/a/b", "--write", "/srv/w:text", "--append-line", "/srv/w:line", "--touch", "/srv/t",
        "--chmod", "0600:/srv/w", "--upload", f"{home / 'page'}:/srv/uploaded",
        "--copy-in", f"{home / 'tree'}:/srv/a",
        "--copy", "/srv/a/tree:/srv/copied", "--move", "/srv/copied/deep/f:/srv/a/b/moved",
        "--link", "/srv/w:/srv/l1:/srv/l2",
        "--write", "/srv/cut:x", "--truncate", "/srv/cut", "--write", "/srv/gone1:x",
        "--delete", "/srv/gone*",
        "--edit", "/etc/motd:s/Debian/DEBIAN/", "--run", home / "script",
        "--run-command", "umask 077; mkdir /home/zoe/private", "--commands-from-file", home / "commands",
        "--ssh-inject", f"zoe:string:{KEY}",
        "--password", "zoe:password:one two", "--root-password", "disabled",
    ]  # fmt: skip
    person.run("pybuilder-customize", "--format", "raw", "-a", ours, *options, timeout=600)
    env = {"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    person.run("virt-customize", "--format", "raw", "-a", theirs, *options, env=env, timeout=600)
    left, right = (read_tree(image, Disk(image).find(SMALL_ROOT).start) for image in (ours, theirs))
    assert "/root/by-script" in left
    assert [path for path in left if path.startswith(("/tmp/.pybuilder", "/tmp/pybuilder"))] == []
    different = {path for path in left.keys() | right.keys() if left.get(path) != right.get(path)}
    unexplained = {
        path: (left.get(path), right.get(path)) for path in sorted(different) if not MENDED.get(path)
    }
    assert unexplained == {}, "\n".join(f"{path}: {both}" for path, both in unexplained.items())
    assert "/srv/uploaded" in different or not person.prefix, "the table names an edge that is none"
    for image in (ours, theirs):
        image.unlink()


def test_a_copy_and_a_check(person: Person, template: Path) -> None:
    """A failure on a copy leaves every byte of the image; then a success, sysprep, and --check."""
    image = copy(template, person.home / "copied.img")
    person.owns(image)
    failed = person.run(
        "pybuilder-customize", "-a", image, "--work-on-copy", "--write", "/root/x:1",
        "--run-command", "echo the last words; exit 7", check=False, timeout=400,
    )  # fmt: skip
    assert failed.returncode == 1
    assert "exit status 7" in failed.stderr
    assert "the last words" in failed.stderr
    assert same_bytes(image, template)
    refused = person.run("pybuilder-customize", "-a", image, "--uninstall", "x;y", check=False)
    assert refused.returncode == 2
    person.run(
        "pybuilder-customize", "-a", image, "--work-on-copy", "--user", "eve",
        "--sysprep", "all", "--no-logfile", "--write", "/root/.bash_history:secret", timeout=400,
    )  # fmt: skip
    assert not same_bytes(image, template)
    checked = person.run("pybuilder-customize", "-q", "-a", image, "--check", check=False, timeout=400)
    assert checked.returncode == 0, checked.stdout
    assert ": /" not in checked.stdout
    image.unlink()
