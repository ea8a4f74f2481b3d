"""The file or block device that an image is written to, checked before any work.

A link is followed: its target is replaced and the link stays. A regular file is
replaced as a whole at the very end, and a block device is written at the very
end. Anything else is refused (docs/threat-model.md B12 to B14), and so are the
files and links of other users in a folder where everyone may write, such as
/tmp. The kernel refuses to open those (``fs.protected_symlinks`` and
``fs.protected_regular`` in proc_sys_fs(5)), but not to read the link or to
replace the file by its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import WorkspaceError
from imgbuilder.host import imagelocks
from imgbuilder.host.workspace import follow, is_strange, try_folder

_SYSFS = Path("/sys/dev/block")
_HINTS = {
    errno.EBUSY: "unmount it, and take it out of swap, RAID and LVM: lsblk shows what uses it",
    errno.EACCES: "only its owner and root may write to it; to build a file as an ordinary user: -o FILE",
    errno.EPERM: "only its owner and root may write to it; to build a file as an ordinary user: -o FILE",
    errno.EROFS: "it is read-only: blockdev --setrw DEVICE",
    errno.ENXIO: "nothing is behind this device node",
    errno.ENOMEDIUM: "insert a medium",
}


@dataclass(frozen=True)
class BlockDevice:
    """A block device that is not in use.

    Attributes:
        path: Its node, links resolved.
        size: Bytes.
        is_partition: True for a partition of another device.
    """

    path: Path
    size: int
    is_partition: bool


def look_at(path: Path) -> BlockDevice:
    """Check that a block device can be written to, without writing; return its facts.

    Raises:
        WorkspaceError: It is in use, not writable, or has no size.
        DiskError: A running machine uses it.
    """
    with claim(path) as descriptor:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        number = os.fstat(descriptor).st_rdev
    if size == 0:
        raise WorkspaceError(f"the output {path} has no size", hint=_HINTS[errno.ENXIO])
    entry = _SYSFS / f"{os.major(number)}:{os.minor(number)}" / "partition"
    return BlockDevice(path, size, is_partition=entry.exists())


@contextlib.contextmanager
def claim(path: Path) -> Iterator[int]:
    """Hold a block device so that it cannot be mounted or used otherwise meanwhile.

    The kernel refuses this when the device, or a partition of it, is mounted or in use. Machines that have it
    as their disk do not claim it, but lock it.

    Yields:
        A descriptor open for reading and writing; ``imagelocks.release`` it before a program writes there.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        reason = "it is in use" if error.errno == errno.EBUSY else error.strerror
        raise WorkspaceError(
            f"cannot write to the block device {path}: {reason}", hint=_HINTS.get(error.errno or 0)
        ) from error
    try:
        if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
            raise WorkspaceError(f"{path} is no longer a block device")
        imagelocks.hold(descriptor, path, changing=True)
        yield descriptor
    finally:
        os.close(descriptor)


_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True)
class OutputTarget:
    """The file or block device that an image is written to.

    Attributes:
        path: Its absolute path, links followed.
        device: Facts about a block device; None for a file.
        replaced: A file is there, which the image replaces.
    """

    path: Path
    device: BlockDevice | None = None
    replaced: bool = False


def find_target(output: Path) -> OutputTarget:
    """Check that ``output`` can be written; nothing is created.

    Raises:
        WorkspaceError: Its folder is missing or not writable, or it is not a file that may be replaced.
        DiskError: It is the disk of a running machine, or another program uses it.
    """
    try:
        path = follow(output)
        mode = _mode_of(path)
    except OSError as error:
        hint = "choose another path for the image"
        raise WorkspaceError(f"{output}: {error.strerror}", hint=hint) from error
    except ValueError as error:
        raise WorkspaceError(f"{str(output)!r} is not a valid file name") from error
    if stat.S_ISDIR(mode):
        raise WorkspaceError(
            f"the output {output} is a folder",
            hint=f"name a file in it, for example {output / 'disk.img'}",
        )
    if stat.S_ISBLK(mode):
        return OutputTarget(path, look_at(path))
    if not stat.S_ISREG(mode):
        raise WorkspaceError(
            f"the output {output} is {_KINDS.get(stat.S_IFMT(mode), 'not a file')}",
            hint="name a file or a block device",
        )
    imagelocks.refuse_if_in_use(path, changing=True)
    if not path.parent.is_dir():
        raise WorkspaceError(
            f"the folder of the output {output} does not exist",
            hint=f"create it first: mkdir -p {path.parent}",
        )
    try_folder(path)
    return OutputTarget(path, replaced=os.path.lexists(path))


def _mode_of(path: Path) -> int:
    """Return the mode of a file; of an ordinary file if there is none."""
    try:
        facts = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return stat.S_IFREG
    if stat.S_ISREG(facts.st_mode) and is_strange(facts, path.parent):
        raise WorkspaceError(
            f"{path} belongs to another user, in a folder where everyone may write",
            hint="remove it, or choose another path",
        )
    return facts.st_mode


def find_file_target(output: Path) -> Path:
    """Check that a file can be written, and return its path; a block device is refused."""
    target = find_target(output)
    if target.device is not None:
        raise WorkspaceError(f"the output {output} is a block device", hint="name a file")
    return target.path
