"""Finding the root: a quick look first, inspection as the fallback."""

from __future__ import annotations

import pytest

from imgbuilder.errors import GuestError
from imgbuilder.events import ignore
from imgbuilder.mounting import appliance_device, mount_guest
from tests.fakes.appliance import FakeAppliance, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest
from tests.fakes.template import tiny_guest


def appliance(guest: FakeGuest, roots: dict[str, dict[str, str]] | None = None) -> FakeAppliance:
    return FakeAppliance(
        [FakeDisk({1: FakeFilesystem("swap"), 2: FakeFilesystem("ext4", guest)}, roots or {})]
    )


@pytest.mark.parametrize("hint", ["/dev/sda2", "/dev/vda2", "/dev/nvme0n1p2"])
def test_the_index_names_the_root(hint: str) -> None:
    opened = appliance(tiny_guest())
    assert mount_guest(opened, hint, ignore) == "/dev/sda2"
    assert opened.log == [("mount", "/dev/sda2")], "one request, no inspection"
    assert opened.is_file("/etc/os-release")


@pytest.mark.parametrize("hint", [None, "/dev/sda1", "/dev/sda7", "/dev/vg/root"])
def test_inspection_is_the_fallback(hint: str | None) -> None:
    opened = appliance(tiny_guest(), {"/dev/sda2": {}})
    assert mount_guest(opened, hint, ignore) == "/dev/sda2"
    assert opened.is_file("/etc/os-release")


def test_a_filesystem_without_release_file_is_not_the_root() -> None:
    with pytest.raises(GuestError, match="no operating system"):
        mount_guest(appliance(FakeGuest()), "/dev/sda2", ignore)


def test_b17_an_fstab_that_is_not_understood_needs_inspection() -> None:
    guest = tiny_guest()
    guest.add("/etc/fstab", b"PARTLABEL=boot /boot ext4 defaults 0 2\n")
    opened = appliance(guest, {"/dev/sda2": {}})
    mount_guest(opened, "/dev/sda2", ignore)
    assert [name for name, _ in opened.log] == ["mount", "unmount_all", "mount"]


@pytest.mark.parametrize(
    "spec",
    ["PARTUUID=ABCD-01", "/dev/vda1", "/dev/mapper/vg-boot", "/dev/vg/boot"],
)
def test_names_that_need_no_inspection(spec: str) -> None:
    guest = tiny_guest()
    guest.add("/etc/fstab", f"{spec} /boot ext4 defaults 0 2\n".encode())
    disk = FakeDisk(
        {1: FakeFilesystem("ext4"), 2: FakeFilesystem("ext4", guest)}, guids={1: "abcd-01"},
        others={"/dev/vg/boot": FakeFilesystem("ext4")}, volumes={"/dev/vg/boot": "/dev/sda3"},
    )  # fmt: skip
    opened = FakeAppliance([disk])
    mount_guest(opened, "/dev/sda2", ignore)
    boot = "/dev/vg/boot" if "vg" in spec else "/dev/sda1"
    assert opened.log == [("mount", "/dev/sda2"), ("mount", boot)]


def test_b17_several_systems_are_refused() -> None:
    with pytest.raises(GuestError, match="several"):
        mount_guest(appliance(tiny_guest(), {"/dev/sda1": {}, "/dev/sda2": {}}), None, ignore)


def test_device_names() -> None:
    assert appliance_device("/dev/vda3") == "/dev/sda3"
    assert appliance_device("/dev/vg/root") == "/dev/vg/root"
