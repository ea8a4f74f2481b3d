"""The port to guests: the requests that an appliance answers.

Two views of the same object. ``Guest`` has the files and commands of the guest,
once its filesystems are mounted; customizations use it. ``Appliance`` adds
disks, partitions and filesystems, for growth and for making templates.

Paths given to a ``Guest`` are absolute paths inside the guest. Symbolic links
are followed inside the guest, never into the appliance: libguestfs itself
loses data silently through absolute links in ``cp_a``, ``mv``, ``rm_rf`` and
``tar_in`` (``docs/threat-model.md`` F19), so implementations resolve first.

A guest may be hostile and has a budget: there is a limit for everything that is
read from it. A larger file or a longer list is refused, and so is anything but
a regular file where one is expected (a pipe would never end).

All methods raise ``GuestCallError`` when the request fails, ``ApplianceError``
when the appliance died or did not answer in time, and ``Interrupted`` when a
signal stopped the build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imgbuilder.guests.registry import RegistryKey, RegistryValue

LARGEST_TEXT = 4 << 20
"""Default limit in bytes for a file that is read whole, such as configuration."""


@dataclass(frozen=True)
class FileStatus:
    """Facts about a file in the guest."""

    mode: int
    uid: int
    gid: int
    size: int


@dataclass(frozen=True)
class CommandResult:
    """The result of a command in the guest."""

    status: int
    """Exit status, 0 to 255; 128 plus the signal's number when a signal ended it."""
    output: str
    """The last part of its standard output and error, mixed, at most 64 KiB."""


@dataclass(frozen=True)
class FilesystemUse:
    """Space of one mounted filesystem in bytes, and its path in the guest."""

    total: int
    free: int
    path: str = "/"


@dataclass(frozen=True)
class ProbedDevice:
    """A partition, volume, array, opened container, or disk without partitions, as libblkid sees it."""

    name: str
    kind: str = ""
    """Type of its content, such as ``ext4`` or ``LVM2_member``; empty if unknown."""
    uuid: str = ""
    member: str = ""
    """UUID of the device itself, if several devices share a UUID."""
    label: str = ""
    partuuid: str = ""
    partlabel: str = ""
    array: str = ""
    """The name inside an array, such as ``host:0``."""
    array_uuid: str = ""
    """UUID of an array; empty for other devices."""


class Guest(Protocol):
    """The files and commands of a mounted guest."""

    def exists(self, path: str) -> bool:
        """Return whether ``path`` exists (links followed)."""

    def is_file(self, path: str) -> bool:
        """Return whether ``path`` is a regular file (links followed)."""

    def is_dir(self, path: str) -> bool:
        """Return whether ``path`` is a directory (links followed)."""

    def is_symlink(self, path: str) -> bool:
        """Return whether ``path`` itself is a symbolic link."""

    def realpath(self, path: str) -> str:
        """Resolve all links inside the guest; the file must exist."""

    def readlink(self, path: str) -> str:
        """Return the target of the symbolic link ``path``."""

    def stat(self, path: str) -> FileStatus:
        """Return facts about ``path`` (links followed)."""

    def ls(self, path: str) -> list[str]:
        """Return the names in the directory ``path``, sorted; a few MiB of names at most."""

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match a shell pattern, sorted; a few MiB at most."""

    def read(self, path: str, *, limit: int = LARGEST_TEXT) -> bytes:
        """Return the content of a regular file; a file of more than ``limit`` bytes is refused."""

    def write(self, path: str, content: bytes) -> None:
        """Replace or create a file; an existing one keeps its mode and owner."""

    def append(self, path: str, content: bytes) -> None:
        """Append to a file, which is created if missing."""

    def upload(self, local: Path, path: str) -> None:
        """Copy a local file into the guest; the parent directory must exist."""

    def download(self, path: str, local: Path, *, limit: int, last: bool = False) -> None:
        """Copy a regular file of the guest to a local file.

        Args:
            path: The file.
            local: The destination.
            limit: Most bytes that are written.
            last: Whether to copy the end of a larger file instead of refusing it.
        """

    def copy_in(self, local: Path, directory: str, *, name: str | None = None) -> None:
        """Copy a local file or tree into an existing directory of the guest, keeping modes.

        Links on the host are followed. New files belong to root and keep their capabilities; existing
        directories keep their owners and modes.
        """

    def tar_in(self, local: Path, directory: str, *, compress: str | None = None) -> None:
        """Unpack a local tar file into a directory of the guest, with owners, modes and attributes.

        Where a folder is a link in the guest, members go to the link's target (``docs/threat-model.md`` F19).

        Args:
            local: The tar file.
            directory: An existing directory.
            compress: ``gzip``, ``bzip2`` or ``xz``; None if it is not compressed.
        """

    def replace(self, path: str, content: bytes) -> None:
        """Replace an existing regular file at once, keeping mode, owner and extended attributes.

        Links are followed. The new content goes to a temporary file that is renamed over the old one, so a
        reader never sees half of it. A file with several names is written in place, so that all show it.
        """

    def touch(self, path: str) -> None:
        """Create an empty file, or set the times of an existing one."""

    def truncate(self, path: str) -> None:
        """Make an existing file empty."""

    def scrub(self, path: str) -> None:
        """Overwrite the content of a regular file on the disk, and remove it."""

    def files_below(self, path: str) -> list[str]:
        """Return the paths of all regular files below a directory, sorted; links are not followed.

        There may be a few MiB of paths at most.
        """

    def mkdir_p(self, path: str) -> None:
        """Create a directory and its parents; an existing directory is fine."""

    def mkdir_mode(self, path: str, mode: int) -> None:
        """Create one directory with exactly this mode; the parent must exist."""

    def chmod(self, mode: int, path: str) -> None:
        """Set permission bits."""

    def chown(self, uid: int, gid: int, path: str) -> None:
        """Set owner and group by number."""

    def remove(self, path: str) -> None:
        """Remove a file or tree (a link itself, not its target); a missing one is fine."""

    def copy(self, source: str, destination: str) -> None:
        """Copy a file or tree inside the guest like ``cp -a``."""

    def move(self, source: str, destination: str) -> None:
        """Rename inside the guest like ``mv``."""

    def symlink(self, target: str, link: str) -> None:
        """Make ``link`` point to ``target``; replace a file or link, but refuse to replace a directory."""

    def relabel(self, specification: str, excluded: Sequence[str] = ()) -> bool:
        """Set the SELinux labels on mounted filesystems; return False if the appliance has no setfiles."""

    def mount_memory(self, path: str) -> None:
        """Mount an empty filesystem in the appliance's memory on a directory; only root may enter it."""

    def unmount(self, path: str) -> None:
        """Unmount a filesystem of ``mount_memory``; its content is lost."""

    def start_of(self, path: str, size: int) -> bytes:
        """Return the first ``size`` bytes of a regular file, or all of a shorter file; at most 2 MiB."""

    def end_of(self, path: str, size: int) -> bytes:
        """Return the last ``size`` bytes of a regular file, or all of a shorter file; at most 2 MiB."""

    def read_registry(self, hive: str, key: Sequence[str]) -> dict[str, RegistryValue] | None:
        """Return the values of a key in a file of Windows' registry; None if the key is missing.

        The names of keys are found whatever their case.
        """

    def edit_registry(self, hive: str, keys: Sequence[RegistryKey]) -> None:
        """Change keys in a file of Windows' registry, all or none."""

    def sh(
        self,
        script: str,
        *,
        follow: str | None = None,
        limit: float | None = None,
        patience: float | None = 600.0,
    ) -> CommandResult:
        """Run a shell script in the guest with ``/bin/sh``; its failure is a result, not an error.

        Args:
            script: The script, of any length. Its standard input is ``/dev/null``.
            follow: A file in the guest whose new lines are reported as debug notices while the script runs
                (afterwards, if the guest's tail cannot follow).
            limit: Seconds after which it is stopped with its children; None for no limit.
            patience: Seconds after which the appliance is stopped if there is no ``limit``; None for the
                user's commands, which may take any time.
        """


class Appliance(Guest, Protocol):
    """A running appliance with its disks. Devices are named ``/dev/sda`` and so on."""

    def supports(self, *features: str) -> bool:
        """Return whether the appliance has all of these libguestfs feature groups, such as ``xfs``."""

    def device_size(self, device: str) -> int:
        """Return the size of a disk, partition or volume in bytes."""

    def disks(self) -> list[str]:
        """Return all disks, such as ``/dev/sda``."""

    def partitions(self) -> list[str]:
        """Return all partitions, such as ``/dev/sda1``."""

    def filesystems(self) -> dict[str, str]:
        """Return the type of each device's content: ``ext4``, ``swap``, ``unknown``."""

    def filesystem_type(self, device: str) -> str:
        """Return the type of a device's content, such as ``ext4`` or ``LVM2_member``; empty if unknown."""

    def filesystem_uuid(self, device: str) -> str:
        """Return the filesystem's UUID."""

    def set_filesystem_uuid(self, device: str, new: str) -> None:
        """Give an unmounted filesystem or swap space another UUID."""

    def block_devices(self) -> list[ProbedDevice]:
        """Return all devices that may hold data, with the facts that identify them."""

    def make_gpt(self, device: str, partitions: Sequence[tuple[int, int, str]]) -> None:
        """Write a GPT with (first sector, last sector, type GUID) per partition."""

    def make_filesystem(self, kind: str, device: str, *, label: str | None = None) -> None:
        """Make a filesystem."""

    def mount(self, device: str, path: str, *, options: str = "") -> None:
        """Mount a filesystem of the guest."""

    def unmount_all(self) -> None:
        """Unmount everything; data is on the disk afterwards."""

    def check_ext(self, device: str) -> None:
        """Check and repair an unmounted ext2/3/4 filesystem."""

    def grow_ext(self, device: str) -> None:
        """Grow an ext2/3/4 filesystem to its device, mounted or not."""

    def grow_xfs(self, path: str) -> None:
        """Grow the XFS that is mounted at ``path`` to its device."""

    def grow_btrfs(self, path: str) -> None:
        """Grow the btrfs that is mounted at ``path`` to its device."""

    def grow_f2fs(self, device: str) -> None:
        """Grow an unmounted F2FS to its device."""

    def grow_ntfs(self, device: str) -> None:
        """Grow an unmounted NTFS to its device."""

    def grow_swap(self, device: str) -> None:
        """Recreate swap space in the size of its device, with the same UUID and label."""

    def grow_physical_volume(self, device: str) -> None:
        """Grow an LVM physical volume to its device."""

    def grow_volume(self, volume: str) -> None:
        """Give a logical volume all free space of its group, if there is any."""

    def make_volume(self, device: str, group: str, name: str) -> str:
        """Make a volume group on a partition and one volume of its whole size; return its device."""

    def canonical_volume(self, device: str) -> str:
        """Return a logical volume's name as ``/dev/GROUP/VOLUME``; an error if it is not a volume."""

    def volume_uses(self, volume: str, device: str) -> bool:
        """Return whether the group of a logical volume (``/dev/GROUP/VOLUME``) has this physical volume."""

    def volumes(self) -> list[str]:
        """Return all logical volumes, as ``/dev/GROUP/VOLUME``."""

    def lvm_uuids(self) -> dict[str, str]:
        """Return the UUIDs of all physical volumes and volume groups, by their devices and names."""

    def renew_lvm_uuids(self) -> None:
        """Give all physical volumes and volume groups new UUIDs; nothing on them may be mounted."""

    def luks_uuid(self, device: str) -> str:
        """Return the UUID of a LUKS container."""

    def open_luks(self, device: str, key: str, name: str) -> None:
        """Open a LUKS container as ``/dev/mapper/NAME``."""

    def scan_volumes(self) -> None:
        """Find LVM on new devices, such as opened LUKS containers."""

    def mounted(self) -> dict[str, str]:
        """Return the mount point of each mounted device."""

    def trim(self, path: str) -> None:
        """Give the free blocks of a mounted filesystem back to the host's file."""

    def inspect_roots(self) -> list[str]:
        """Search all disks for operating systems (slow); return their root devices."""

    def inspect_facts(self, root: str) -> dict[str, str]:
        """Return the facts of inspection about a root: type, arch, distro, osinfo, product_name, ..."""

    def inspect_windows(self, root: str) -> dict[str, str]:
        """Return the facts of inspection about a root with Windows: systemroot, system_hive, drive, ..."""

    def probe_ntfs(self, device: str) -> int:
        """Return the answer of ntfs-3g.probe(8) about writing to an unmounted NTFS; 0 means yes."""

    def inspect_mountpoints(self, root: str) -> dict[str, str]:
        """Return the device of each mount point of a root, shortest mount point first."""

    def is_read_only(self, path: str) -> bool:
        """Return whether the filesystem that is mounted on a path can only be read."""

    def filesystem_use(self) -> list[FilesystemUse]:
        """Return the space of each mounted filesystem."""

    def lost_writes(self) -> str | None:
        """Return the kernel's first message about data that did not reach a disk; None if there is none."""

    def resolves(self, host: str) -> bool:
        """Return whether the appliance can resolve a host name; needs the network."""

    def default_subvolume(self, device: str) -> str:
        """Return the path of the default subvolume of a btrfs; empty for its top level."""

    def show_attached(self) -> None:
        """Show the attached disks, which are hidden until then, to the guest's commands."""

    def hide_attached(self) -> None:
        """Hide the attached disks again; nothing may be mounted."""

    def shutdown(self) -> None:
        """Unmount, flush and stop the appliance; an error means that data may not be on the disk."""
