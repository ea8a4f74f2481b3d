"""Builds without an appliance: repeated to the byte, and booted."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guest.conftest import Publisher, long
from tests.guest.person import Person, leftovers

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1200)]

ALWAYS = {"PYBUILDER_HOSTSIDE": "always", "SOURCE_DATE_EPOCH": "1700000000"}
RECIPE = (
    "--seed", "the same", "--hostname", "twin.example.org", "--timezone", "Europe/Berlin",
    "--write", "/etc/motd:hello\n", "--copy-in", "/usr/share/common-licenses:/srv",
    "--mkdir", "/srv/folder", "--link", "/etc/motd:/srv/folder/link", "--edit", "/etc/issue:s/Debian/debian/",
    "--delete", "/usr/share/doc/base-files", "--ssh-inject", "root:string:ssh-ed25519 AAAA someone",
    "--firstboot-command", "echo hello", "--root-password", "random",
)  # fmt: skip


def digest(image: Path) -> str:
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("words", [("--size", "4G"), ("--format", "qcow2")], ids=" ".join)
def test_two_builds_are_the_same_bytes(
    configured: Person, publisher: Publisher, words: tuple[str, ...], tmp_path: Path
) -> None:
    """By another user, in another folder, at another time, and with a cache that is filled again."""
    first = configured.home / "first.img"
    configured.run("pybuilder", "debian-12", "-o", first, *RECIPE, *words, env=ALWAYS)
    other = configured
    if os.geteuid() == 0:
        other = replace(configured, name="root", home=tmp_path, prefix=())
    second = tmp_path / "elsewhere" / "second.img"
    second.parent.mkdir()
    key = shutil.copy(publisher.public_key, tmp_path / "key.asc")
    config = tmp_path / "config" / "pybuilder" / "repos.d"
    config.mkdir(parents=True)
    (config / "test.conf").write_text(f"[test]\nuri={publisher.index}\ngpgkey=file://{key}\n")
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, os.geteuid(), -1)
    env = {**ALWAYS, "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    other.run("pybuilder", "debian-12", "-o", second, *RECIPE, *words, env=env, cwd=second.parent)
    assert digest(first) == digest(second)
    assert leftovers(configured, [configured.home]) == []
    first.unlink()


@pytest.mark.parametrize("size", ["4G", pytest.param(None, marks=long)])
def test_an_image_boots_and_runs_its_first_boot_scripts(configured: Person, size: str | None) -> None:
    image = configured.home / "booted.img"
    off = "(sleep 5; systemctl --no-block poweroff) >/dev/null 2>&1 &"
    configured.run(
        "pybuilder", "debian-12", "-o", image, *(("--size", size) if size else ()),
        "--hostname", "booted.example.org", "--root-password", "disabled",
        "--firstboot-command", "hostname", "--firstboot-command", "df -B1 --output=size / | tail -1",
        "--firstboot-command", off, env=ALWAYS,
    )  # fmt: skip
    configured.run(
        "qemu-system-x86_64", "-accel", "tcg", "-m", "768", "-display", "none", "-serial", "null",
        "-monitor", "none", "-no-reboot", "-nic", "none",
        "-drive", f"file={image},format=raw,if=virtio", timeout=900,
    )  # fmt: skip
    log = configured.run("pybuilder", "-q", "firstboot-log", image, "--format", "raw", timeout=600).stdout
    assert log.count(": exit status 0, from ") == 3, log
    assert "booted.example.org" in log
    root = max(int(line) for line in log.splitlines() if line.isdigit())
    assert root > (3 << 30 if size else 1 << 30)
    image.unlink()
