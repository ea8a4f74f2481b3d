"""Block devices of the host as output for images (``docs/threat-model.md`` B13)."""

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

_SYSFS = Path("/sys/dev/block")
_HINTS = {
    errno.EBUSY: "unmount it, and take it out of swap, RAID and LVM: lsblk shows what uses it",
    errno.EACCES: "only its owner and root may write to it; to build a file as an ordinary user: -o FILE",
    errno.EPERM: "only its owner and root may write to it; to build a file as an ordinary user: -o FILE",
    errno.EROFS: "it is read-only: blockdev --setrw DEVICE",
    errno.ENXIO: "nothing is behind this device node",
    errno.ENOMEDIUM: "there is no medium in it",
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

    Raises:
        WorkspaceError: It is in use, or cannot be written to.
        DiskError: A running machine uses it.
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
