"""Finding the root: a quick check first, inspection as the fallback; and mounting its filesystems."""

from __future__ import annotations

import pytest

from imgbuilder.errors import GuestError
from imgbuilder.events import Event, Notice, Severity, ignore
from imgbuilder.growth.session import open_guest
from imgbuilder.guests.mounting import mount_guest
from tests.fakes.appliance import FakeAppliance, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest
from tests.fakes.template import tiny_guest


def appliance(guest: FakeGuest, roots: dict[str, dict[str, str]] | None = None) -> FakeAppliance:
    return FakeAppliance(
        [FakeDisk({1: FakeFilesystem("swap"), 2: FakeFilesystem("ext4", guest)}, roots or {})]
    )


def guest_with(fstab: str) -> FakeGuest:
    guest = tiny_guest()
    guest.add("/etc/fstab", fstab)
    for folder in ("/boot", "/data"):
        guest.add_dir(folder)
    return guest


@pytest.mark.parametrize("expand", ["/dev/sda2", "/dev/vda2", "/dev/nvme0n1p2"])
def test_the_index_names_the_root(expand: str) -> None:
    opened = appliance(tiny_guest())
    root = open_guest(opened, expand=expand, lvexpand=None, growth=None, keys=[], on_event=ignore)
    assert root == "/dev/sda2"
    assert opened.log == [("mount", "/dev/sda2")], "one request, no inspection"
    assert opened.is_file("/etc/os-release")


def test_a_device_of_another_disk_in_the_index_is_ignored() -> None:
    opened = appliance(tiny_guest(), {"/dev/sda2": {}})
    root = open_guest(opened, expand="/dev/sdb1", lvexpand=None, growth=None, keys=[], on_event=ignore)
    assert root == "/dev/sda2"
    assert opened.log == [("unmount_all", ""), ("mount", "/dev/sda2")]


@pytest.mark.parametrize("hint", [None, "/dev/sda1", "/dev/sda7", "/dev/vg/root"])
def test_inspection_is_the_fallback(hint: str | None) -> None:
    opened = appliance(tiny_guest(), {"/dev/sda2": {}})
    assert mount_guest(opened, hint, ignore) == "/dev/sda2"
    assert opened.is_file("/etc/os-release")


@pytest.mark.parametrize("spec", ["/dev/sda" + "9" * 5000, "UUID=" + "x" * 60_000])
def test_names_of_devices_without_end_are_none(spec: str) -> None:
    guest = tiny_guest()
    guest.add("/etc/fstab", f"{spec} /srv ext4 defaults,nofail 0 2\n")
    assert mount_guest(appliance(guest, {"/dev/sda2": {}}), "/dev/sda2", ignore) == "/dev/sda2"
    guest.add("/etc/fstab", f"{spec} /srv ext4 defaults 0 2\n")
    with pytest.raises(GuestError, match="was not found"):
        mount_guest(appliance(guest, {"/dev/sda2": {}}), "/dev/sda2", ignore)


def test_a_filesystem_without_release_file_is_not_the_root() -> None:
    with pytest.raises(GuestError, match="no operating system"):
        mount_guest(appliance(FakeGuest()), "/dev/sda2", ignore)


@pytest.mark.row("B17")
@pytest.mark.parametrize(
    "spec",
    [
        "PARTUUID=ABCD-01", "PARTLABEL=the\\040boot", "LABEL=boot", "UUID=boot-uuid", "/dev/vda1",
        "/dev/mapper/vg-boot", "/dev/vg/boot",
    ],
)  # fmt: skip
@pytest.mark.parametrize("hint", ["/dev/sda2", None])
def test_names_need_no_inspection(spec: str, hint: str | None) -> None:
    guest = guest_with(f"{spec} /boot ext4 defaults 0 2\n")
    disk = FakeDisk(
        {1: FakeFilesystem("ext4", uuid="boot-uuid", label="boot"), 2: FakeFilesystem("ext4", guest)},
        {"/dev/sda2": {}}, guids={1: "abcd-01"}, names={1: "the boot"},
        others={"/dev/vg/boot": FakeFilesystem("ext4")}, volumes={"/dev/vg/boot": "/dev/sda3"},
    )  # fmt: skip
    opened = FakeAppliance([disk])
    mount_guest(opened, hint, ignore)
    boot = "/dev/vg/boot" if "vg" in spec else "/dev/sda1"
    assert opened.log[-2:] == [("mount", "/dev/sda2"), ("mount", boot)]


@pytest.mark.parametrize("hint", ["/dev/sda2", None])
@pytest.mark.parametrize(
    "spec", ["/dev/vdb1", "/dev/sdb2", "/dev/nvme1n1p1", "UUID=elsewhere", "/dev/disk/by-path/pci-1-part1"]
)
@pytest.mark.parametrize("options", ["defaults", "defaults,nofail"])
def test_filesystems_of_other_disks_are_not_mounted(spec: str, options: str, hint: str | None) -> None:
    guest = guest_with(f"UUID=1 / ext4 defaults 0 1\n{spec} /data auto {options} 0 2\n")
    disk = FakeDisk({1: FakeFilesystem("ext4"), 2: FakeFilesystem("ext4", guest)}, {"/dev/sda2": {}})
    opened = FakeAppliance([disk])
    events: list[Event] = []
    if "nofail" not in options:
        with pytest.raises(
            GuestError, match=f"{spec}, which the guest mounts on /data, was not found"
        ) as caught:
            mount_guest(opened, hint, events.append)
        assert "nofail" in (caught.value.hint or "")
        return
    mount_guest(opened, hint, events.append)
    assert [name for action, name in opened.log if action == "mount"] == ["/dev/sda2"]
    warnings = [event for event in events if isinstance(event, Notice) and event.severity is Severity.WARNING]
    assert len(warnings) == 1
    assert spec in warnings[0].text


def test_an_fstab_without_end_is_refused() -> None:
    lines = "".join(f"LABEL=x /data/{number} ext4 nofail 0 2\n" for number in range(1000))
    with pytest.raises(GuestError, match="1000 filesystems"):
        mount_guest(appliance(guest_with(lines)), "/dev/sda2", ignore)


def test_a_folder_that_is_a_link_is_followed_in_the_guest() -> None:
    guest = guest_with("LABEL=boot /link ext4 defaults 0 2\n")
    guest.add_link("/link", "/data")
    disk = FakeDisk({1: FakeFilesystem("ext4", label="boot"), 2: FakeFilesystem("ext4", guest)})
    opened = FakeAppliance([disk])
    mount_guest(opened, "/dev/sda2", ignore)
    assert opened.mounted() == {"/dev/sda2": "/", "/dev/sda1": "/data"}


@pytest.mark.row("B17")
def test_several_systems_are_refused() -> None:
    with pytest.raises(GuestError, match="several"):
        mount_guest(appliance(tiny_guest(), {"/dev/sda1": {}, "/dev/sda2": {}}), None, ignore)


def test_an_attached_sibling_is_not_looked_at() -> None:
    """It has the same labels and also a system."""
    guest = guest_with("LABEL=boot /boot ext4 defaults 0 2\n")
    disks = [
        FakeDisk(
            {1: FakeFilesystem("ext4", label="boot"), 2: FakeFilesystem("ext4", guest)},
            {f"/dev/sd{letter}2": {}},
        )
        for letter in "ab"
    ]
    opened = FakeAppliance(disks, attached=[1])
    assert mount_guest(opened, None, ignore) == "/dev/sda2"
    assert opened.mounted() == {"/dev/sda2": "/", "/dev/sda1": "/boot"}


def snapshots(roots: list[str], fstab: str, default: str = "") -> FakeAppliance:
    guests = {root: guest_with(fstab) for root in roots if root.startswith("btrfsvol:")}
    disk = FakeDisk(
        {2: FakeFilesystem("btrfs", guest_with(fstab), subvolume=default)},
        {root: {} for root in roots},
        others={root: FakeFilesystem("btrfs", guest) for root, guest in guests.items()},
    )
    return FakeAppliance([disk])


FIRST, SECOND, AT, OLD = (
    f"btrfsvol:/dev/sda2/{path}"
    for path in ("@/.snapshots/1/snapshot", "@/.snapshots/2/snapshot", "@", "timeshift/1/@")
)


@pytest.mark.parametrize(
    ("roots", "fstab", "default", "expected"),
    [
        (["/dev/sda2", SECOND, FIRST], "", "@/.snapshots/1/snapshot", FIRST),
        (["/dev/sda2", SECOND], "", "@/.snapshots/1/snapshot", "/dev/sda2"),
        ([OLD, AT], "UUID=1 / btrfs subvol=/@ 0 0\n", "", AT),
    ],
)
def test_of_a_system_and_its_snapshots_one_is_chosen(
    events: list[Event], roots: list[str], fstab: str, default: str, expected: str
) -> None:
    assert mount_guest(snapshots(roots, fstab, default), None, events.append) == expected
    (warning,) = [
        event.text for event in events if isinstance(event, Notice) and event.severity is Severity.WARNING
    ]
    (other,) = {*roots} - {expected, "/dev/sda2"}
    assert warning.endswith(f"left alone: {other}")


def test_two_systems_on_one_btrfs_are_two() -> None:
    with pytest.raises(GuestError, match="several"):
        mount_guest(snapshots([AT, FIRST], "UUID=1 / btrfs defaults 0 0\n"), None, ignore)


def test_a_system_of_ostree_is_named_as_such() -> None:
    guest = FakeGuest()
    guest.add_dir("/ostree/deploy/fedora-coreos/deploy")
    with pytest.raises(GuestError, match="ostree") as caught:
        mount_guest(appliance(guest), "/dev/sda2", ignore)
    assert "Ignition" in (caught.value.hint or "")


@pytest.mark.parametrize("expand", ["/dev/sda1", None])
def test_a_template_whose_root_cannot_be_written_is_refused(expand: str | None) -> None:
    disk = FakeDisk({1: FakeFilesystem("squashfs", tiny_guest())}, {"/dev/sda1": {"type": "linux"}})
    with pytest.raises(GuestError, match="is a squashfs file system, which is read-only"):
        mount_guest(FakeAppliance([disk]), expand, ignore)
