"""The port to guests: what the rest of pybuilder may ask of an appliance.

Two views of the same object. ``Guest`` is what a customization sees: the
guest's own files and commands, once its filesystems are mounted. ``Appliance``
adds disks, partitions and filesystems, for growth and for making templates.

Paths given to a ``Guest`` are absolute paths inside the guest. Symbolic links
are followed inside the guest, never into the appliance: libguestfs itself
loses data silently through absolute links in ``cp_a``, ``mv``, ``rm_rf`` and
``tar_in`` (``docs/threat-model.md`` F19), so implementations resolve first.

A guest may be hostile, and has a budget: whatever comes out of it has a limit.
A larger file, a longer list, or what is no regular file where one is expected
(a pipe would never end) is refused.

All methods raise ``GuestCallError`` when the request fails, ``ApplianceError``
when the appliance died or did not answer in time, and ``Interrupted`` when a
signal stopped the build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

LARGEST_TEXT = 4 << 20
"""Bytes of a file that is read whole, unless another limit is given: configuration and the like."""


@dataclass(frozen=True)
class FileStatus:
    """Facts about a file in the guest.

    Attributes:
        mode: File type and permission bits, as in ``st_mode``.
        uid: Owner, as a number.
        gid: Group, as a number.
        size: Size in bytes.
    """

    mode: int
    uid: int
    gid: int
    size: int


@dataclass(frozen=True)
class CommandResult:
    """How a command in the guest ended.

    Attributes:
        status: Exit status, 0 to 255; 128 plus the signal's number when a signal ended it.
        output: The last part of its standard output and error, mixed, at most 64 KiB.
    """

    status: int
    output: str


@dataclass(frozen=True)
class FilesystemUse:
    """Space of one mounted filesystem, in bytes, and where in the guest it is mounted."""

    total: int
    free: int
    path: str = "/"


@dataclass(frozen=True)
class BlockDevice:
    """A partition, volume, array, opened container, or disk without partitions, as libblkid sees it.

    Attributes:
        name: What the appliance calls it.
        kind: What it holds, such as ``ext4`` or ``LVM2_member``; empty when nothing is known.
        uuid: UUID of what it holds.
        member: UUID of this one among several devices that share a UUID.
        label: Label of what it holds.
        partuuid: UUID of the partition.
        partlabel: Name of the partition.
        array: The name that an array has by itself, such as ``host:0``.
        array_uuid: UUID of an array; empty for other devices.
    """

    name: str
    kind: str = ""
    uuid: str = ""
    member: str = ""
    label: str = ""
    partuuid: str = ""
    partlabel: str = ""
    array: str = ""
    array_uuid: str = ""


class Guest(Protocol):
    """The files and commands of a mounted guest."""

    def exists(self, path: str) -> bool:
        """Tell whether ``path`` is there (links followed)."""

    def is_file(self, path: str) -> bool:
        """Tell whether ``path`` is a regular file (links followed)."""

    def is_dir(self, path: str) -> bool:
        """Tell whether ``path`` is a directory (links followed)."""

    def is_symlink(self, path: str) -> bool:
        """Tell whether ``path`` itself is a symbolic link."""

    def realpath(self, path: str) -> str:
        """Resolve all links inside the guest; the file must exist."""

    def readlink(self, path: str) -> str:
        """Return the target of the symbolic link ``path``."""

    def stat(self, path: str) -> FileStatus:
        """Return facts about ``path`` (links followed)."""

    def ls(self, path: str) -> list[str]:
        """Return the names in the directory ``path``, sorted; a few MiB of names at most."""

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match a shell pattern, sorted; none is no error, more than a few MiB are."""

    def read(self, path: str, *, limit: int = LARGEST_TEXT) -> bytes:
        """Return the content of a regular file; one of more than ``limit`` bytes is refused."""

    def write(self, path: str, content: bytes) -> None:
        """Replace or create a file; an existing one keeps its mode and owner."""

    def append(self, path: str, content: bytes) -> None:
        """Add to the end of a file, which is created when missing."""

    def upload(self, local: Path, path: str) -> None:
        """Copy a local file into the guest; the parent directory must exist."""

    def download(self, path: str, local: Path, *, limit: int, last: bool = False) -> None:
        """Copy a regular file of the guest to a local file.

        Args:
            path: The file.
            local: Where it goes.
            limit: Most bytes that are written.
            last: Take the last ones of a larger file, instead of refusing it.
        """

    def copy_in(self, local: Path, directory: str, *, name: str | None = None) -> None:
        """Copy a local file or tree into an existing directory of the guest, keeping modes.

        What a link on the host points to is copied. What is new belongs to root, and keeps its
        capabilities; directories that are there keep their owners and modes.

        Args:
            local: The file or tree.
            directory: The directory.
            name: Its name in there; that of ``local`` by default.
        """

    def tar_in(self, local: Path, directory: str, *, compress: str | None = None) -> None:
        """Unpack a local tar file into a directory of the guest, with owners, modes and attributes.

        Members whose folders are links in the guest go where the links lead (``docs/threat-model.md`` F19).

        Args:
            local: The tar file.
            directory: An existing directory.
            compress: How it is compressed: ``gzip``, ``bzip2``, ``xz``; None when it is not.
        """

    def replace(self, path: str, content: bytes) -> None:
        """Replace an existing regular file at once, keeping mode, owner and extended attributes.

        Links are followed first; the new content goes to a temporary sibling that is then
        renamed over the old file, so that no reader ever sees half of it. A file that has
        several names is written in place, so that all of them show it.
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
        """Create a directory and its parents; an existing directory is no error."""

    def mkdir_mode(self, path: str, mode: int) -> None:
        """Create one directory with exactly this mode; the parent must exist."""

    def chmod(self, mode: int, path: str) -> None:
        """Set permission bits."""

    def chown(self, uid: int, gid: int, path: str) -> None:
        """Set owner and group by number."""

    def remove(self, path: str) -> None:
        """Remove a file or tree (a link itself, not its target); a missing one is no error."""

    def copy(self, source: str, destination: str) -> None:
        """Copy a file or tree inside the guest like ``cp -a``."""

    def move(self, source: str, destination: str) -> None:
        """Rename inside the guest like ``mv``."""

    def symlink(self, target: str, link: str) -> None:
        """Make ``link`` point to ``target``, replacing a file or link; a directory there is an error."""

    def relabel(self, specification: str, excluded: Sequence[str] = ()) -> bool:
        """Give all files of the mounted filesystems their SELinux labels, with the appliance's setfiles.

        Args:
            specification: The policy's file of contexts, in the guest.
            excluded: Directories of the guest that are passed over, with all that is in them.

        Returns:
            False when the appliance has no setfiles; nothing was changed then.
        """

    def mount_memory(self, path: str) -> None:
        """Mount an empty filesystem in the appliance's memory on a directory; only root may enter it."""

    def unmount(self, path: str) -> None:
        """Unmount what ``mount_memory`` mounted; its content is lost."""

    def start_of(self, path: str, size: int) -> bytes:
        """Return the first ``size`` bytes of a regular file, or all of a shorter one; at most 2 MiB."""

    def end_of(self, path: str, size: int) -> bytes:
        """Return the last ``size`` bytes of a regular file, or all of a shorter one; at most 2 MiB."""

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
            script: Of any length. Standard input is ``/dev/null``.
            follow: A file in the guest; what is added to it meanwhile is reported line by line, as debug
                notices, while the script runs (in guests whose tail cannot do that, afterwards).
            limit: Seconds after which it is stopped, with all that it started; None for no limit.
            patience: Seconds after which the appliance is ended, if there is no such limit; None for the
                user's own commands, which may take as long as they like.
        """


class Appliance(Guest, Protocol):
    """A running appliance with its disks. Devices are named ``/dev/sda`` and so on."""

    def supports(self, *features: str) -> bool:
        """Tell whether the appliance has all of these libguestfs feature groups, such as ``xfs``."""

    def device_size(self, device: str) -> int:
        """Return the size of a disk, partition or volume in bytes."""

    def disks(self) -> list[str]:
        """Return all disks, such as ``/dev/sda``."""

    def partitions(self) -> list[str]:
        """Return all partitions, such as ``/dev/sda1``."""

    def filesystems(self) -> dict[str, str]:
        """Return every device that holds something, and what: ``ext4``, ``swap``, ``unknown``."""

    def filesystem_type(self, device: str) -> str:
        """Return what a device holds, such as ``ext4`` or ``LVM2_member``; empty when nothing is known."""

    def filesystem_uuid(self, device: str) -> str:
        """Return the filesystem's UUID."""

    def block_devices(self) -> list[BlockDevice]:
        """Return all that may hold files on the guest's disks, and what it is known by."""

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
        """Make swap space anew as large as its device, with the UUID and label that it had."""

    def grow_physical_volume(self, device: str) -> None:
        """Grow an LVM physical volume to its device."""

    def grow_volume(self, volume: str) -> None:
        """Give a logical volume all free space of its group; none left is no error."""

    def make_volume(self, device: str, group: str, name: str) -> str:
        """Make a volume group on a partition, and a volume that takes all of it; return its device."""

    def canonical_volume(self, device: str) -> str:
        """Return a logical volume's name as ``/dev/GROUP/VOLUME``; an error when it is none."""

    def volume_uses(self, volume: str, device: str) -> bool:
        """Tell whether the group of a logical volume (``/dev/GROUP/VOLUME``) has this physical volume."""

    def volumes(self) -> list[str]:
        """Return all logical volumes, as ``/dev/GROUP/VOLUME``."""

    def luks_uuid(self, device: str) -> str:
        """Return the UUID of a LUKS container."""

    def open_luks(self, device: str, key: str, name: str) -> None:
        """Open a LUKS container as ``/dev/mapper/NAME``."""

    def scan_volumes(self) -> None:
        """Find LVM on devices that appeared meanwhile, such as opened LUKS containers."""

    def mounted(self) -> dict[str, str]:
        """Return device to mount point for all mounted filesystems."""

    def trim(self, path: str) -> None:
        """Give the free blocks of a mounted filesystem back to the host's file."""

    def inspect_roots(self) -> list[str]:
        """Look for operating systems on all disks (slow); return their root devices."""

    def inspect_facts(self, root: str) -> dict[str, str]:
        """Return what inspection found about a root: type, arch, distro, osinfo, product_name, ..."""

    def inspect_mountpoints(self, root: str) -> dict[str, str]:
        """Return mount point to device for a root, shortest mount point first."""

    def filesystem_use(self) -> list[FilesystemUse]:
        """Return the space of each mounted filesystem."""

    def lost_writes(self) -> str | None:
        """Return what the appliance's kernel said about data that did not reach a disk; None for nothing."""

    def resolves(self, host: str) -> bool:
        """Tell whether the appliance itself can look up a host name; needs the network."""

    def default_subvolume(self, device: str) -> str:
        """Return the path of the subvolume that mounting a btrfs shows; empty for its top level."""

    def show_attached(self) -> None:
        """Let the guest's commands see the disks that are only attached: until then nothing does."""

    def hide_attached(self) -> None:
        """Hide them again; nothing may be mounted."""

    def shutdown(self) -> None:
        """Unmount, flush and stop the appliance; an error means that data may not be on the disk."""
