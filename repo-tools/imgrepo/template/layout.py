"""How the disk of a template is laid out. Pure.

The root is always last on the disk, so that it can grow in place. With LVM the
root is a logical volume that has the whole last partition.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
_EFI_SYSTEM = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_LINUX_FILESYSTEM = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
_LINUX_LVM = "E6D6D379-F507-44C2-A23C-238F2A3DF928"
_SECTOR = 512
_ALIGNMENT = (1 << 20) // _SECTOR
_EFI_SECTORS = 64 * _ALIGNMENT
"""FAT32 needs more than GRUB does, and other loaders may come."""

GROUP, VOLUME = "system", "root"
"""Names of the volume group and the logical volume, with LVM."""


class RootKind(enum.Enum):
    """Filesystem of the root."""

    EXT4 = "ext4"
    BTRFS = "btrfs"
    XFS = "xfs"

    @property
    def package(self) -> str:
        """Name of the Debian package with its programs."""
        return {"ext4": "e2fsprogs", "btrfs": "btrfs-progs", "xfs": "xfsprogs"}[self.value]

    @property
    def grub_module(self) -> str:
        """GRUB's name of it."""
        return {"ext4": "ext2"}.get(self.value, self.value)

    @property
    def fstab(self) -> str:
        """Options and the last two fields of the root's line in the table of filesystems."""
        return {"ext4": "errors=remount-ro 0 1"}.get(self.value, "defaults 0 0")


@dataclass(frozen=True)
class Layout:
    """A disk.

    Attributes:
        root: Filesystem of the root.
        uefi: Whether there is an EFI system partition, to start from UEFI as well as by BIOS.
        lvm: Whether the root is a logical volume.
    """

    root: RootKind = RootKind.EXT4
    uefi: bool = True
    lvm: bool = False

    def table(self, size: int) -> tuple[tuple[int, int, str], ...]:
        """Give the partitions as (first sector, last sector, type): GRUB's own, perhaps EFI's, the root's.

        One MiB stays free behind the root for the second copy of the partition table.

        Args:
            size: Size of the disk in bytes.
        """
        first = 2 * _ALIGNMENT
        found = [(_ALIGNMENT, first - 1, _BIOS_BOOT)]
        if self.uefi:
            found.append((first, first + _EFI_SECTORS - 1, _EFI_SYSTEM))
            first += _EFI_SECTORS
        kind = _LINUX_LVM if self.lvm else _LINUX_FILESYSTEM
        return (*found, (first, size // _SECTOR - _ALIGNMENT - 1, kind))

    @property
    def last_partition(self) -> str:
        """The partition that holds the root, as the appliance names it."""
        return "/dev/sda3" if self.uefi else "/dev/sda2"

    @property
    def efi_partition(self) -> str | None:
        """The EFI system partition; None without."""
        return "/dev/sda2" if self.uefi else None

    @property
    def overhead(self) -> int:
        """Bytes of the disk that are not the root's, beside the first and the last MiB."""
        return (_EFI_SECTORS * _SECTOR if self.uefi else 0) + ((4 << 20) if self.lvm else 0)
