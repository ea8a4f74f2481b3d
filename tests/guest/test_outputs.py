"""An ordinary user makes an image that is written at the end, with an attached disk, and copies its kernel.

virt-get-kernel is the oracle of the second part.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment, open_appliance
from tests.guest.machine import Machine
from tests.guest.person import Person, leftovers

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def image(configured: Person) -> Path:
    """A grown VMDK image with an odd name, converted to qcow2 afterwards."""
    home = configured.home
    extra = home / "extra.img"
    extra.write_bytes(b"from the attached disk".ljust(1 << 20, b"\0"))
    done = configured.run(
        "pybuilder", "debian-12", "-o", "a:b.vmdk", "--format", "vmdk", "--size", "4G",
        "--attach-format", "raw", "--attach", extra, "--root-password", "disabled",
        "--run-command", "head -c 22 /dev/sdb >/root/attached", timeout=600,
    )  # fmt: skip
    assert "Output format: vmdk" in done.stdout
    assert "Writing a:b.vmdk (vmdk)" in done.stdout
    made = home / "a:b.vmdk"
    info = subprocess.run(
        ["qemu-img", "info", "-f", "vmdk", made], capture_output=True, text=True, check=True
    )
    assert "virtual size: 4 GiB" in info.stdout
    qcow2 = home / "made.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "qcow2", made, qcow2], check=True)
    qcow2.chmod(0o644)
    made.unlink()
    return qcow2


def test_what_the_appliance_wrote_is_in_the_vmdk_image(configured: Person, image: Path) -> None:
    assert leftovers(configured, [configured.home]) == []
    with open_appliance([Attachment(image, "qcow2", readonly=True)]) as guest:
        (root,) = [device for device, kind in guest.filesystems().items() if kind == "ext4"]
        guest.mount(root, "/")
        assert guest.read("/root/attached") == b"from the attached disk"
        assert guest.filesystem_use()[0].total > 3 << 30


@pytest.mark.skipif(shutil.which("virt-get-kernel") is None, reason="virt-get-kernel is not installed")
def test_the_kernel_is_the_one_that_virt_get_kernel_copies(configured: Person, image: Path) -> None:
    ours, theirs = configured.home / "ours", configured.home / "theirs"
    for folder in (ours, theirs):
        configured.run("mkdir", folder)
    done = configured.run("pybuilder", "--get-kernel", image, "-o", ours)
    configured.run(
        "virt-get-kernel", "--format", "qcow2", "-a", image, "-o", theirs,
        env={"LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}, timeout=600,
    )  # fmt: skip
    assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())
    for path in theirs.iterdir():
        assert (ours / path.name).read_bytes() == path.read_bytes()
        assert f"/boot/{path.name} -> {ours / path.name}" in done.stdout
    assert len(list(ours.iterdir())) == 2


def test_the_run_script_boots_the_image_by_uefi_and_leaves_it_as_it_is(
    configured: Person, image: Path
) -> None:
    script = configured.home / "run-made"
    configured.run(
        "pybuilder", "machine", "script", image, "-o", script, "--forward", "2222:22", "--firmware", "uefi"
    )
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    process = subprocess.Popen(
        configured.command(script, "--memory", "768"), env=configured.environment(), cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        said = Machine(process, {}).wait_for("login:", 300)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "BdsDxe: starting Boot" in said  # the firmware's own words
    assert "tcp port 2222 of this machine is port 22 of the guest" in said
    assert hashlib.sha256(image.read_bytes()).hexdigest() == before
