"""An ordinary user makes an image that is written at the end, with an attached disk, and a linked image.

virt-get-kernel is the oracle of copied kernels.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from imgbuilder.cache.links import disk_below
from tests.guest.images import copy, look_into, same_bytes
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
    with look_into(image, "qcow2") as guest:
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


def test_a_linked_image_is_changed_and_made_independent(configured: Person) -> None:
    """Each change needs an appliance, as it runs a command; the template's disk stays as it is."""
    image = configured.home / "linked.qcow2"
    configured.run(
        "pybuilder", "debian-12", "-o", image, "--linked", "--size", "3G", "--no-network",
        "--root-password", "disabled", "--run-command", "useradd -m ann",
    )  # fmt: skip
    below = disk_below(image)
    assert below is not None
    assert below.is_relative_to(configured.home / ".cache")
    template = copy(below, configured.home / "template")
    name = "id -un ann >/home/ann/name"
    configured.run("pybuilder-customize", "-a", image, "--no-network", "--run-command", name)
    assert image.stat().st_blocks * 512 < 50 << 20
    assert f"linked image: {image}" in configured.run("pybuilder", "cache", "list", "-v").stdout
    linked = copy(image, configured.home / "still-linked.qcow2")
    configured.run("pybuilder", "unlink", image)
    assert disk_below(image) is None
    subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", linked, image], check=True)
    assert same_bytes(below, template)
    with look_into(image, "qcow2") as guest:
        assert guest.read("/home/ann/name") == b"ann\n"
        assert guest.filesystem_use()[0].total > 2.8 * (1 << 30)
    assert str(image) not in configured.run("pybuilder", "cache", "list", "-v").stdout
    for path in (image, linked, template):
        path.unlink()
