"""The guest's own disks: an attached sibling of the template, a second disk that is not there."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guest.images import look_into
from tests.guest.layouts import MIB, fill, partitioned, tree
from tests.guest.person import Person

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

TABLE = "label: gpt\nstart=2048, size=49152\nstart=51200\n"
ROOT = "11111111-2222-3333-4444-555555555503"


def make_guest(image: Path, line: str) -> Path:
    """Make a guest with a filesystem for /boot, another for the root, and a line in /etc/fstab."""
    files = tree(image.with_suffix(".tree"))
    for name in ("bin", "boot", "data", "dev", "lib", "proc", "root", "run", "sys", "tmp", "usr", "var/log"):
        (files / name).mkdir(parents=True)
    shutil.copy(Path("/bin/ls").resolve(), files / "bin/ls")
    (files / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Small 12"\n')
    (files / "etc/debian_version").write_text("12.1\n")
    (files / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (files / "etc/group").write_text("root:x:0:\n")
    (files / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")
    (files / "etc/hostname").write_text("small\n")
    (files / "etc/fstab").write_text(f"UUID={ROOT} / ext4 defaults 0 1\n{line}\n")
    kernel = image.with_suffix(".boot")
    kernel.mkdir()
    (kernel / "vmlinuz-1").write_text("a kernel\n")
    partitioned(image, TABLE, size=200 * MIB)
    fill(image, 1, "ext4", kernel, "-L", "bootfs")
    fill(image, 2, "ext4", files, "-U", ROOT, "-E", "root_owner=0:0")
    return image


def content(image: Path, partition: int, path: str) -> bytes:
    """Return a file's content; empty when it does not exist."""
    with look_into(image, root=f"/dev/sda{partition}") as files:
        return files.read(path) if files.exists(path) else b""


def digest(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()


def publish(image: Path) -> Path:
    """Write an unsigned index with one template."""
    index = image.with_suffix(".index")
    index.write_text(
        f"[small]\nname=Small\narch=x86_64\nfile={image.name}\nformat=raw\nsize={image.stat().st_size}\n"
        f"checksum[sha512]={hashlib.sha512(image.read_bytes()).hexdigest()}\nexpand=/dev/sda2\n"
    )
    return index


def build(person: Person, index: Path, output: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return person.run(
        "pybuilder", "--no-check-signature", "--source", index, "small", "-o", output,
        "--root-password", "disabled", *words, check=False, timeout=400,
    )  # fmt: skip


def test_an_attached_sibling_is_no_part_of_the_guest(person: Person) -> None:
    """It has the same UUIDs and labels, and a system of its own; commands of the guest may read it."""
    folder = person.home / "sibling"
    folder.mkdir()
    image = make_guest(folder / "guest.img", "LABEL=bootfs /boot ext4 defaults 0 2")
    sibling, built = folder / "sibling.img", folder / "built.img"
    shutil.copy(image, sibling)
    index = publish(image)
    person.owns(folder)
    before = digest(sibling)
    changes = ("--attach", sibling, "--write", "/etc/mark:M", "--write", "/boot/mark:M")
    done = build(person, index, built, *changes)
    assert done.returncode == 0, done.stderr
    person.run("pybuilder-customize", "-a", image, *changes, timeout=400)
    for changed in (image, built):
        assert content(changed, 1, "/mark") == b"M"
        assert content(changed, 2, "/etc/mark") == b"M"
    assert digest(sibling) == before
    shutil.rmtree(folder)


@pytest.mark.parametrize("options", ["defaults,nofail", "defaults"])
def test_a_second_disk_that_is_not_there(person: Person, options: str) -> None:
    """Its name is never taken for the first disk's; without it, a guest that needs it stays as it is."""
    folder = person.home / options
    folder.mkdir()
    image = make_guest(folder / "guest.img", f"/dev/vdb2 /data ext4 {options} 0 2")
    built = folder / "built.img"
    index = publish(image)
    person.owns(folder)
    before = digest(image)
    outcomes = [
        build(person, index, built, "--write", "/data/hello:DATA"),
        person.run(
            "pybuilder-customize", "-a", image, "--write", "/data/hello:DATA", check=False, timeout=400
        ),
    ]
    for done in outcomes:
        assert "/dev/vdb2" in done.stderr
        assert done.returncode == (0 if "nofail" in options else 1), done.stderr
    if "nofail" in options:
        for changed in (image, built):
            assert content(changed, 2, "/data/hello") == b"DATA"
            assert content(changed, 2, "/hello") == b""
    else:
        assert digest(image) == before
        assert not built.exists()
    shutil.rmtree(folder)
