"""Requests about disks and filesystems: partitions, what blkid would say, space, growth."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.appliance.hostside.connection import open_hostside
from imgbuilder.appliance.hostside.devices import Disk
from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.appliance.options import Attachment
from imgbuilder.errors import UnfitError
from imgbuilder.guests.ports import ProbedDevice
from tests.unit.imgbuilder.appliance.hostside.conftest import check, make_image

_MIB = 1 << 20
_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_TABLE = f"""label: gpt
size=1MiB, type=21686148-6449-6E6F-744E-656564454649
size=8MiB, type={_ESP}, uuid=11111111-2222-3333-4444-555555555555, name=esp
size=8MiB, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F
size=64MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="the root"
"""


def _put(part: Path, disk: Path, mib: int) -> None:
    with part.open("rb") as source, disk.open("r+b") as target:
        target.seek(mib * _MIB)
        target.write(source.read())


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with a boot loader's partition, an ESP, swap, and a root with room behind it."""
    disk = tmp_path / "disk.img"
    subprocess.run(["truncate", "-s", "96M", disk], check=True)
    subprocess.run(["sfdisk", "-q", disk], input=_TABLE.encode(), check=True)
    _put(
        make_image(
            tmp_path / "root",
            "-t",
            "ext4",
            "-L",
            "rootfs",
            "-U",
            "01234567-89ab-cdef-0123-456789abcdef",
            size="32M",
        ),
        disk,
        18,
    )
    esp = tmp_path / "esp"
    subprocess.run(["truncate", "-s", "8M", esp], check=True)
    subprocess.run(["mkfs.vfat", "-n", "UEFI", "-i", "ABCD1234", esp], check=True, capture_output=True)
    _put(esp, disk, 2)
    swap = tmp_path / "swap"
    subprocess.run(["truncate", "-s", "8M", swap], check=True)
    subprocess.run(
        ["mkswap", "-L", "swapped", "-U", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", swap],
        check=True,
        capture_output=True,
    )
    _put(swap, disk, 10)
    with disk.open("r+b") as file:
        file.seek(_MIB)
        file.write(b"a boot loader")
    return disk


@pytest.fixture
def appliance(disk: Path) -> Iterator[LibguestfsAppliance]:
    with open_hostside(Attachment(disk, "raw")) as opened:
        yield opened


def test_partitions(appliance: LibguestfsAppliance) -> None:
    assert appliance.disks() == ["/dev/sda"]
    assert appliance.partitions() == ["/dev/sda1", "/dev/sda2", "/dev/sda3", "/dev/sda4"]
    assert appliance.device_size("/dev/sda") == 96 * _MIB
    assert appliance.device_size("/dev/sda4") == 64 * _MIB


def test_what_the_partitions_hold(appliance: LibguestfsAppliance) -> None:
    _, esp, swap, root = appliance.block_devices()
    assert esp == ProbedDevice(
        "/dev/sda2",
        kind="vfat",
        uuid="ABCD-1234",
        label="UEFI",
        partuuid="11111111-2222-3333-4444-555555555555",
        partlabel="esp",
    )
    assert (swap.kind, swap.uuid, swap.label) == ("swap", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "swapped")
    assert (root.kind, root.uuid, root.label, root.partlabel) == (
        "ext4",
        "01234567-89ab-cdef-0123-456789abcdef",
        "rootfs",
        "the root",
    )


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_facts_are_those_of_blkid(tmp_path: Path, kind: str) -> None:
    image = make_image(tmp_path / "disk", "-t", kind, "-L", "a label")
    shown = subprocess.run(["blkid", "-p", "-o", "export", image], check=True, capture_output=True, text=True)
    facts = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    disk = Disk(image)
    found = disk.facts(disk.whole)
    assert found == {"TYPE": kind, "UUID": facts["UUID"], "LABEL": "a label"} | {
        name: value for name, value in found.items() if name.startswith("PART")
    }


@pytest.mark.parametrize("bits", ["12", "16", "32"])
def test_space_of_fat(tmp_path: Path, bits: str) -> None:
    image = tmp_path / "fat"
    subprocess.run(["truncate", "-s", "64M" if bits != "12" else "4M", image], check=True)
    subprocess.run(["mkfs.vfat", "-F", bits, "-n", "NAME", image], check=True, capture_output=True)
    subprocess.run(["mcopy", "-i", image, "/etc/services", "::/"], check=True)
    disk = Disk(image)
    size, clusters, free = disk.fat_usage(disk.whole)
    shown = subprocess.run(["minfo", "-i", image, "::"], capture_output=True, text=True).stdout
    used = -(-Path("/etc/services").stat().st_size // size)
    assert clusters - free == used + (bits == "32"), shown  # FAT32 keeps its root folder in a cluster
    assert disk.facts(disk.whole)["LABEL"] == "NAME"


def test_unknown_content_needs_an_appliance(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(b"no known filesystem" + bytes(_MIB))
    disk = Disk(image)
    with pytest.raises(UnfitError):
        disk.content(disk.whole)


def test_paths_into_another_filesystem_need_an_appliance(appliance: LibguestfsAppliance) -> None:
    appliance.mount("/dev/sda4", "/")
    appliance.mkdir_p("/boot/efi")
    appliance.symlink("/boot/efi", "/link")
    appliance.mount("/dev/sda2", "/boot/efi")
    assert appliance.mounted() == {"/dev/sda4": "/", "/dev/sda2": "/boot/efi"}
    assert appliance.ls("/boot") == ["efi"]
    for path in ("/boot/efi", "/boot/efi/f", "/link/f"):
        with pytest.raises(UnfitError):
            appliance.exists(path) and appliance.is_dir(path)
    with pytest.raises(UnfitError):
        appliance.files_below("/boot")
    with pytest.raises(UnfitError):
        appliance.remove("/boot")


def test_space_of_all_mounted_filesystems(appliance: LibguestfsAppliance) -> None:
    appliance.mount("/dev/sda4", "/")
    appliance.mkdir_p("/boot/efi")
    appliance.mount("/dev/sda2", "/boot/efi")
    root, esp = appliance.filesystem_use()
    assert 20 * _MIB < root.free < root.total < 32 * _MIB
    assert esp.path == "/boot/efi"
    assert 7 * _MIB < esp.free <= esp.total < 8 * _MIB


def test_a_mounted_filesystem_grows(disk: Path, tmp_path: Path) -> None:
    with open_hostside(Attachment(disk, "raw")) as appliance:
        appliance.mount("/dev/sda4", "/")
        appliance.mkdir_p("/boot/efi")
        appliance.mount("/dev/sda2", "/boot/efi")
        appliance.write("/before", b"1")
        before = appliance.filesystem_use()[0].total
        appliance.grow_ext("/dev/sda4")
        assert appliance.filesystem_use()[0].total > before + 25 * _MIB
        assert appliance.read("/before") == b"1"
        appliance.write("/after", b"2")
        with pytest.raises(UnfitError):
            appliance.exists("/boot/efi/f")
        appliance.shutdown()
    assert disk.stat().st_size == 96 * _MIB
    subprocess.run(["sfdisk", "--verify", disk], check=True, capture_output=True)
    with disk.open("rb") as file:
        file.seek(18 * _MIB)
        (tmp_path / "root").write_bytes(file.read(64 * _MIB))
    check(tmp_path / "root")


def test_a_damaged_result_is_not_delivered(disk: Path) -> None:
    with open_hostside(Attachment(disk, "raw")) as appliance:
        appliance.mount("/dev/sda4", "/")
        appliance.write("/f", b"x")
        appliance.unmount_all()
        damage = ["debugfs", "-w", "-R", "set_inode_field /f links_count 5", f"{disk}?offset={18 * _MIB}"]
        subprocess.run(damage, check=True, capture_output=True)
        with pytest.raises(UnfitError):
            appliance.shutdown()


def test_what_is_no_raw_disk(disk: Path) -> None:
    for attachment in (
        Attachment(disk, "qcow2"),
        Attachment(disk, "raw", readonly=True),
        Attachment(disk, "raw", sector_size=4096),
        Attachment(Path("/dev/null"), "raw"),
    ):
        with pytest.raises(UnfitError), open_hostside(attachment):
            pass
