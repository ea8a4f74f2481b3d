"""fstab(5) of guests, and the devices that its names mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.guests.fstab import (
    GuestDevices,
    Mount,
    find_device,
    mismatch,
    name_disks,
    parse_crypttab,
    parse_fstab,
    parse_mdadm_conf,
)
from imgbuilder.guests.ports import ProbedDevice

TEXT = """
# comment
UUID=1111-2222 /boot/efi vfat umask=0077 0 1
LABEL=home\t/home ext4 defaults 0 2
/dev/vda2 / ext4 errors=remount-ro 0 1
UUID=aa /var btrfs defaults,subvol=@var,compress=zstd 0 0
/swapfile none swap sw 0 0
UUID=bb none swap sw 0 0
tmpfs /tmp tmpfs defaults 0 0
server:/export /mnt nfs defaults 0 0
//server/a=b /cifs cifs defaults 0 0
UUID=cc /data ext4 noauto 0 0
/srv /mnt/srv none bind 0 0
/dev/vdb1 /mnt/both none bind 0 0
/dev/sdb1 /with\\040blank xfs defaults,nofail 0 0
LABEL="my\\040m\\303\\274ll" /quoted auto
PARTLABEL='esp' /efi/ auto noauto,x-systemd.automount
/dev/cdrom /media/cdrom iso9660 ro 0 0
/dev/vda4 /nul\\000 ext4 defaults 0 0
short line
"""


def test_filesystems_on_disks_shortest_path_first() -> None:
    assert parse_fstab(TEXT) == [
        Mount("/dev/vda2", "/", "ext4", ""),
        Mount("UUID=aa", "/var", "btrfs", "subvol=@var"),
        Mount("PARTLABEL=esp", "/efi", "auto", "", optional=True),
        Mount("LABEL=home", "/home", "ext4", ""),
        Mount("LABEL=my müll", "/quoted", "auto", ""),
        Mount("UUID=1111-2222", "/boot/efi", "vfat", ""),
        Mount("/dev/sdb1", "/with blank", "xfs", "", optional=True),
        Mount("/dev/cdrom", "/media/cdrom", "iso9660", "", optional=True),
    ]


@pytest.mark.row("B17")
@given(st.text())
def test_any_text_is_read(text: str) -> None:
    for mount in parse_fstab(text):
        assert mount.path.startswith("/")
        assert "/../" not in mount.path
    parse_crypttab(text)
    parse_mdadm_conf(text)
    name_disks(text, "/dev/sda1", ["/dev/sda"])


OWN = (
    ProbedDevice("/dev/sda1", "ext4", "11-AA", label="boot", partuuid="abcd-01", partlabel="my boot"),
    ProbedDevice("/dev/sda2", "crypto_LUKS", "u-luks"),
    ProbedDevice("/dev/sda3", "LVM2_member", "u-pv"),
    ProbedDevice("/dev/mapper/luks-u-luks", "xfs", "u-xfs", label="twice"),
    ProbedDevice("/dev/my-vg/the-root", "ext4", "u-root", label="twice"),
    ProbedDevice("/dev/md127", "ext4", "u-md", array="host:data", array_uuid="0a:0b:0c:0d"),
    ProbedDevice("/dev/sda4", "btrfs", "u-btrfs", member="m1"),
    ProbedDevice("/dev/sda5", "btrfs", "u-btrfs", member="m2"),
    ProbedDevice("/dev/sda6", "btrfs", "u-copy", member="m3"),
    ProbedDevice("/dev/sda7", "btrfs", "u-copy", member="m3"),
)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("UUID=11-aa", "/dev/sda1"), ("LABEL=boot", "/dev/sda1"), ("LABEL=BOOT", None),
        ("PARTUUID=ABCD-01", "/dev/sda1"), ("PARTLABEL=my boot", "/dev/sda1"), ("UUID=", None),
        ("LABEL=", None), ("LABEL=twice", None), ("UUID=other", None),
        ("/dev/disk/by-uuid/11-AA", "/dev/sda1"), ("/dev/disk/by-partlabel/my\\x20boot", "/dev/sda1"),
        ("/dev/vda1", "/dev/sda1"), ("/dev/vda9", None), ("/dev/vdb1", None), ("/dev/sda1", None),
        ("/dev/nvme1n1p1", None), ("/dev/disk/by-path/pci-0000:00:07.0-part1", None),
        ("/dev/disk/by-id/ata-QEMU_HARDDISK-part1", None), ("ID=ata-QEMU_HARDDISK-part1", None),
        ("/dev/mapper/my--vg-the--root", "/dev/my-vg/the-root"),
        ("/dev/my-vg/the-root", "/dev/my-vg/the-root"),
        ("/dev/disk/by-id/dm-name-my--vg-the--root", "/dev/my-vg/the-root"), ("/dev/my/vg-the-root", None),
        ("/dev/mapper/secret", "/dev/mapper/luks-u-luks"),
        ("/dev/mapper/luks-u-luks", "/dev/mapper/luks-u-luks"),
        ("/dev/mapper/loop", None), ("/dev/mapper/elsewhere", None), ("/dev/mapper/closed", None),
        ("/dev/md/data", "/dev/md127"), ("/dev/md0", "/dev/md127"), ("/dev/md127", None), ("/dev/md1", None),
        ("UUID=u-btrfs", "/dev/sda4"), ("UUID=u-copy", None), ("/dev/dm-0", None), ("/dev/root", None),
    ],
)  # fmt: skip
def test_names_of_devices(spec: str, expected: str | None) -> None:
    crypttab = (
        "# name source\nsecret UUID=u-luks none luks\nloop /dev/mapper/loop\nelsewhere /dev/vdb2 none\n"
        "closed PARTUUID=abcd-01 none\n"
    )
    own = GuestDevices(
        OWN, {("vd", 0): "/dev/sda"}, parse_crypttab(crypttab),
        parse_mdadm_conf("ARRAY /dev/md0 metadata=1.2 UUID=0a0b:0c0d name=x:y\nDEVICE partitions\n"),
    )  # fmt: skip
    found = find_device(spec, own)
    assert (found.device.name if found.device else None) == expected
    assert bool(found.reason) is (expected is None)


@pytest.mark.parametrize(
    ("text", "root", "disks", "expected"),
    [
        ("UUID=1 / ext4\n/dev/vda2 none swap\n", "/dev/sda3", 1, {("vd", 0): 0}),
        ("UUID=1 / ext4\n/dev/vda1 /boot ext4\n/dev/sdb1 /usb auto noauto\n", "/dev/sda3", 1, {("vd", 0): 0}),
        ("UUID=1 / ext4\n/dev/vda1 /boot ext4\n/dev/sda1 /data ext4\n", "/dev/sda3", 1, {}),
        ("/dev/vda3 / ext4\n/dev/sda1 /data ext4\n", "/dev/sda3", 1, {("vd", 0): 0}),
        ("/dev/sdb3 / ext4\n/dev/sda1 /data ext4\n", "/dev/sda3", 1, {("sd", 1): 0}),
        ("/dev/sda1 / ext4\n/dev/sda2 /data ext4\n", "/dev/sda3", 1, {}),
        ("/dev/sda1 / ext4\n", "/dev/vg/root", 1, {}),
        ("/dev/vdb3 /data ext4\n", "/dev/sda3", 2, {("vd", 0): 0, ("vd", 1): 1}),
        ("/dev/vda1 / ext4\n/dev/vdb3 /data ext4\n", "/dev/sda1", 2, {("vd", 0): 0, ("vd", 1): 1}),
        ("UUID=1 / ext4\n", "/dev/sda3", 1, {}),
    ],
)  # fmt: skip
def test_the_disks_of_kernel_names(
    text: str, root: str, disks: int, expected: dict[tuple[str, int], int]
) -> None:
    names = ["/dev/sda", "/dev/sdb"][:disks]
    assert name_disks(text, root, names) == {key: names[place] for key, place in expected.items()}


SCHEMES = st.sampled_from(["sd", "vd", "hd", "xvd"])


@given(SCHEMES, st.integers(1, 25), st.integers(1, 4), st.sampled_from([1, 3]), SCHEMES, st.booleans())
def test_names_of_other_disks_match_no_disk_of_the_guest(
    scheme: str, place: int, number: int, root: int, roots_scheme: str, by_uuid: bool
) -> None:
    """Of a guest with one disk, which has a partition of each number."""
    own_root = "UUID=1" if by_uuid else f"/dev/{roots_scheme}a{root}"
    others = [
        f"/dev/{scheme}{chr(97 + place)}{number}",
        f"/dev/nvme{place}n1p{number}",
        f"/dev/mmcblk{place}p{number}",
    ]
    for other in others:
        text = f"{own_root} / ext4 defaults 0 1\n{other} /data ext4 defaults 0 2\n"
        devices = tuple(ProbedDevice(f"/dev/sda{part}", "ext4", str(part)) for part in range(1, 5))
        own = GuestDevices(devices, name_disks(text, f"/dev/sda{root}", ["/dev/sda"]))
        assert find_device(other, own).device is None


@given(st.text(), st.lists(st.sampled_from(OWN)))
def test_only_devices_of_the_guest_are_found(spec: str, devices: list[ProbedDevice]) -> None:
    found = find_device(spec, GuestDevices(tuple(devices), {("vd", 0): "/dev/sda"}))
    assert found.device is None or found.device in devices


@pytest.mark.parametrize(
    ("mount", "device", "fits"),
    [
        (Mount("/dev/vda3", "/data", "ext4", ""), ProbedDevice("/dev/sda3", "ext4"), False),
        (Mount("/dev/vda3", "/home", "btrfs", "subvol=home"), ProbedDevice("/dev/sda3", "btrfs"), True),
        (Mount("/dev/vda1", "/data", "xfs", ""), ProbedDevice("/dev/sda1", "ext4"), False),
        (Mount("/dev/vda1", "/boot", "ext2", ""), ProbedDevice("/dev/sda1", "ext4"), True),
        (Mount("/dev/vda1", "/boot", "auto", ""), ProbedDevice("/dev/sda1", "ext4"), True),
        (Mount("UUID=1", "/boot", "xfs", ""), ProbedDevice("/dev/sda1", "ext4", "1"), True),
    ],
)  # fmt: skip
def test_a_name_that_cannot_mean_the_device_found(mount: Mount, device: ProbedDevice, fits: bool) -> None:
    assert (mismatch(mount, device, "/dev/sda3") == "") is fits
