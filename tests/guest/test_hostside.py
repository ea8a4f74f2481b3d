"""Builds without an appliance: repeated to the byte, booted, and made where nothing but files can be used."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guest.conftest import Publisher, long
from tests.guest.images import copy, look_into, same_bytes
from tests.guest.machine import Machine
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
    assert same_bytes(first, second)
    assert leftovers(configured, [configured.home]) == []
    first.unlink()


def test_a_grown_image_boots_by_uefi_and_runs_its_first_boot_scripts(configured: Person) -> None:
    """By the run script, which leaves the image as it is."""
    image, script = configured.home / "booted.qcow2", configured.home / "run-booted"
    show = "echo BOOTED-$(hostname)-$(df -B1 --output=size / | tail -1)-END >/dev/console"
    configured.run(
        "pybuilder", "debian-12", "-o", image, "--format", "qcow2", "--size", "4G",
        "--hostname", "booted.example.org", "--root-password", "disabled",
        "--firstboot-command", "exit 3", "--firstboot-command", show, env=ALWAYS,
    )  # fmt: skip
    configured.run(
        "pybuilder", "machine", "script", image, "-o", script, "--forward", "2222:22", "--firmware", "uefi"
    )
    before = copy(image, configured.home / "before.qcow2")
    process = subprocess.Popen(
        configured.command(script, "--memory", "768"), env=configured.environment(), cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        said = Machine(process, {}).wait_for("-END", 300)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "BdsDxe: starting Boot" in said  # the firmware's own words
    assert "tcp port 2222 of this machine is port 22 of the guest" in said
    root = re.search(r"BOOTED-booted\.example\.org- *(\d+)-END", said)
    assert root, said[-3000:]
    assert int(root[1]) > 3 << 30
    assert same_bytes(image, before)
    for path in (image, before):
        path.unlink()


CONTAINER = """
mount -t tmpfs -o mode=755 dev "$0"
for name in full null random tty urandom zero; do
    : >"$0/$name"
    mount --bind "/dev/$name" "$0/$name"
done
mkdir -m 1777 "$0/shm"
ln -s /proc/self/fd "$0/fd"
mount --rbind "$0" /dev
exec "$@"
"""
"""Runs a command without /dev/kvm and /dev/fuse."""
ALONE = """
echo 0 >/proc/sys/user/max_user_namespaces
exec setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all -- "$@"
"""
"""Runs a command that can make no user namespaces: their number is limited in one that is made for it."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide the devices")
def test_in_a_container_without_kvm_fuse_and_user_namespaces(configured: Person, tmp_path: Path) -> None:
    """As an ordinary user, and without an appliance."""
    inside = configured.command("unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-ec", ALONE)
    container = ["unshare", "--mount", "sh", "-ec", CONTAINER, str(tmp_path), *inside, "sh"]
    env = configured.environment(
        {"PYBUILDER_HOSTSIDE": "auto", "PYBUILDER_GUESTFS_PYTHON": "/bin/false", "TMPDIR": "/tmp"}
    )

    def run(*words: str | Path) -> None:
        done = subprocess.run(
            [*container, *words], env=env, cwd=configured.home, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    run("sh", "-c", "id -u && ! test -e /dev/kvm && ! test -e /dev/fuse && ! unshare --user true")
    image = configured.home / "contained.img"
    words = ("--size", "3G", "--hostname", "contained.example.org", "--root-password", "disabled")
    run("pybuilder", "-q", "debian-12", "-o", image, *words)
    with look_into(image) as guest:
        assert guest.read("/etc/hostname") == b"contained.example.org\n"
        assert guest.filesystem_use()[0].total > 2.8 * (1 << 30)
    assert leftovers(configured, [configured.home]) == []
    image.unlink()


@long
def test_an_image_boots_by_bios_and_keeps_a_log(configured: Person) -> None:
    image = configured.home / "booted.img"
    off = "(sleep 5; systemctl --no-block poweroff) >/dev/null 2>&1 &"
    configured.run(
        "pybuilder", "debian-12", "-o", image, "--root-password", "disabled",
        "--firstboot-command", "echo hello", "--firstboot-command", off, env=ALWAYS,
    )  # fmt: skip
    configured.run(
        "qemu-system-x86_64", "-accel", "tcg", "-m", "768", "-display", "none", "-serial", "null",
        "-monitor", "none", "-no-reboot", "-nic", "none",
        "-drive", f"file={image},format=raw,if=virtio", timeout=900,
    )  # fmt: skip
    log = configured.run("pybuilder", "-q", "firstboot-log", image, "--format", "raw", timeout=600).stdout
    assert log.count(": exit status 0, from ") == 2, log
    assert "hello" in log
    image.unlink()
