"""A bootable disk from a system in a tar archive, made in one session of the appliance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgbuilder.errors import GuestError, UsageError
from imgbuilder.sizes import human_size

if TYPE_CHECKING:
    from pathlib import Path

    from imgbuilder.guest import Appliance

SMALLEST_DISK = 1 << 30
"""Bytes; a smaller disk does not hold the smallest system and what its packages need to be upgraded."""

_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
_LINUX_FILESYSTEM = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
_SECTOR = 512
_ALIGNMENT = (1 << 20) // _SECTOR
_ROOT = "/dev/sda2"
_ROOM = 96 << 20
"""Bytes that the filesystem's own tables, its journal and GRUB take beside the archive."""

# GRUB comes from the guest itself, so that its version fits the modules that later upgrades bring.
_INSTALL_GRUB = """\
set -eu
grub-install --target=i386-pc --no-floppy --modules='part_gpt ext2' /dev/sda
update-grub
: >/etc/machine-id
"""


def check_size(size: int) -> None:
    """Refuse a disk size that cannot work, before anything is downloaded.

    Args:
        size: Bytes.

    Raises:
        UsageError: It is too small, or no whole number of MiB.
    """
    if size < SMALLEST_DISK:
        raise UsageError(
            f"a disk of {human_size(size)} is too small for a template",
            hint=f"the smallest is {human_size(SMALLEST_DISK)}",
        )
    if size % (1 << 20):
        raise UsageError(f"the disk size {size} is no whole number of MiB", hint="give for example --size 2G")


def partitions(size: int) -> tuple[tuple[int, int, str], ...]:
    """Return the layout as (first sector, last sector, type): GRUB's own partition, and the root.

    The root is the last partition, so that it can grow in place. One MiB stays free behind it for the
    second copy of the partition table.

    Args:
        size: Size of the disk in bytes.
    """
    first = 2 * _ALIGNMENT
    return (
        (_ALIGNMENT, first - 1, _BIOS_BOOT),
        (first, size // _SECTOR - _ALIGNMENT - 1, _LINUX_FILESYSTEM),
    )


def check_room(archive: Path, size: int) -> None:
    """Check that a system fits on a disk.

    Raises:
        UsageError: It does not.
    """
    needed = archive.stat().st_size + _ROOM
    if needed > size:
        raise UsageError(
            f"the system does not fit on a disk of {human_size(size)}: it needs {human_size(needed)}",
            hint="give a larger --size",
        )


def install_system(appliance: Appliance, archive: Path) -> None:
    """Partition the appliance's empty first disk, unpack a system onto it and make it bootable by BIOS.

    Args:
        appliance: A launched appliance with the disk; shut down when this returns.
        archive: The system as a tar archive.

    Raises:
        GuestError: A step failed.
    """
    appliance.make_gpt("/dev/sda", partitions(appliance.device_size("/dev/sda")))
    appliance.make_filesystem("ext4", _ROOT, label="root")
    appliance.mount(_ROOT, "/")
    appliance.tar_in(archive, "/")
    identity = appliance.filesystem_uuid(_ROOT)
    appliance.write("/etc/fstab", f"UUID={identity} / ext4 errors=remount-ro 0 1\n".encode())
    result = appliance.sh(_INSTALL_GRUB)
    if result.status != 0:
        raise GuestError(f"GRUB cannot be installed in the template: {result.output.strip()}")
    if f"root=UUID={identity}".encode() not in appliance.read("/boot/grub/grub.cfg"):
        raise GuestError("GRUB's menu does not name the template's root filesystem by its UUID")
    appliance.trim("/")
    appliance.unmount_all()
    appliance.shutdown()
