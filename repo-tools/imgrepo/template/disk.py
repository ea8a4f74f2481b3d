"""The disk of a template: its layout, and a bootable system on it from a tar archive.

The root is always last on the disk, so that it can grow in place. With LVM the
root is a logical volume that has the whole last partition.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import GuestError, UsageError
from imgbuilder.guests.ports import Appliance
from imgbuilder.sizes import human_size

_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
_EFI_SYSTEM = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_LINUX_FILESYSTEM = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
_LINUX_LVM = "E6D6D379-F507-44C2-A23C-238F2A3DF928"
_SECTOR = 512
_ALIGNMENT = (1 << 20) // _SECTOR
_EFI_SECTORS = 64 * _ALIGNMENT
"""More than GRUB needs: FAT32 requires it, and other boot loaders may follow."""

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
    """A disk: its root's filesystem, if it starts from UEFI as well as by BIOS, and if it uses LVM."""

    root: RootKind = RootKind.EXT4
    uefi: bool = True
    lvm: bool = False

    def table(self, size: int) -> tuple[tuple[int, int, str], ...]:
        """Return the partitions as (first sector, last sector, type): GRUB's, EFI's if any, the root's.

        One MiB stays free behind the root for the second copy of the partition table.
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
        """Bytes of the disk that are not the root's, besides the first and the last MiB."""
        return (_EFI_SECTORS * _SECTOR if self.uefi else 0) + ((4 << 20) if self.lvm else 0)


SMALLEST_DISK = 1 << 30
"""Bytes; a smaller disk has no room for the smallest system and the upgrade of its packages."""

_ROOM = 96 << 20
"""Bytes that the filesystem's own tables, its journal and GRUB take besides the archive."""

_MACHINES = {"amd64": "x86_64-efi", "i386": "i386-efi"}
"""GRUB's name of UEFI on each architecture."""

_FIND_DISK = """\
disk=$(lsblk -nrpso NAME,TYPE "$(findmnt -nvo SOURCE /)" | sed -n 's/ disk$//p' | head -n 1)
[ -b "$disk" ] || { echo "the disk of the root is not found" >&2; exit 1; }"""
"""The kernel may name the appliance's disks in any order; libguestfs hides that, but not from commands."""


def grub_script(layout: Layout, arch: str) -> str:
    """Return the commands that make a system start; they run inside it.

    GRUB comes from the guest itself, so that its version fits the modules of later upgrades. For UEFI it gets
    the default name that firmware looks for.
    """
    modules = f"part_gpt {'lvm ' if layout.lvm else ''}{layout.root.grub_module}"
    lines = [_FIND_DISK, f"grub-install --target=i386-pc --no-floppy --modules='{modules}' \"$disk\""]
    if layout.uefi:
        lines.append(
            f"grub-install --target={_MACHINES[arch]} --efi-directory=/boot/efi --removable --no-nvram "
            f"--modules='{modules}'"
        )
    return "\n".join(["set -eu", *lines, "update-grub", ": >/etc/machine-id", ""])


def check_size(size: int) -> None:
    """Check the disk size before anything is downloaded."""
    if size < SMALLEST_DISK:
        raise UsageError(
            f"a disk of {human_size(size)} is too small for a template",
            hint=f"the smallest is {human_size(SMALLEST_DISK)}",
        )
    if size % (1 << 20):
        raise UsageError(
            f"the disk size {size} is not a whole number of MiB", hint="give for example --size 2G"
        )


def check_room(archive: Path, size: int, layout: Layout) -> None:
    """Check that a system fits on a disk."""
    needed = archive.stat().st_size + _ROOM + layout.overhead
    if needed > size:
        raise UsageError(
            f"the system does not fit on a disk of {human_size(size)}: it needs {human_size(needed)}",
            hint="give a larger --size",
        )


def install_system(appliance: Appliance, archive: Path, layout: Layout, arch: str) -> None:
    """Partition the appliance's empty first disk, unpack a system onto it and make it bootable."""
    appliance.make_gpt("/dev/sda", layout.table(appliance.device_size("/dev/sda")))
    root = layout.last_partition
    if layout.lvm:
        root = appliance.make_volume(root, GROUP, VOLUME)
    appliance.make_filesystem(layout.root.value, root, label="root")
    appliance.mount(root, "/")
    appliance.tar_in(archive, "/")
    identity = appliance.filesystem_uuid(root)
    line = f"UUID={identity} / {layout.root.value} {layout.root.fstab}\n"
    appliance.write("/etc/fstab", line.encode())
    if layout.efi_partition is not None:
        # Not in fstab: nothing in the running system needs it, and one more mount can fail.
        appliance.make_filesystem("vfat", layout.efi_partition)
        appliance.mkdir_p("/boot/efi")
        appliance.mount(layout.efi_partition, "/boot/efi")
    result = appliance.sh(grub_script(layout, arch))
    if result.status != 0:
        raise GuestError(f"GRUB cannot be installed in the template: {result.output.strip()}")
    named = f"/dev/mapper/{GROUP}-{VOLUME}" if layout.lvm else f"UUID={identity}"
    if f"root={named}".encode() not in appliance.read("/boot/grub/grub.cfg"):
        raise GuestError(f"GRUB's menu does not name the template's root filesystem as {named}")
    appliance.trim("/")
    appliance.unmount_all()
    appliance.shutdown()
