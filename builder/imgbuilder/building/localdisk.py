"""Disks of the user's own for the appliance, only to be read: ``--attach``, ``--get-kernel``.

They are judged like templates before QEMU sees them: an image that somebody
sent can name files of this host just as well (``docs/threat-model.md`` T13).
"""

from __future__ import annotations

import os
import stat
from errno import ENOENT
from pathlib import Path

from imgbuilder.appliance import Attachment
from imgbuilder.disk import magic
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.imageheader import Role, check_own
from imgbuilder.errors import DiskError, UsageError
from imgbuilder.host import imagelocks
from imgindex.files import open_regular

_SECTOR = 512


def local_disk(
    path: Path, disk_format: DiskFormat | None, option: str, *, content: bool = True
) -> Attachment:
    """Look at a disk of the user's, and make it ready to be attached.

    Args:
        path: An image file or a block device.
        disk_format: Its format; None to decide it by its header.
        option: The option that names it, for messages.
        content: Whether what is on it will be read, which nobody may change meanwhile.

    Raises:
        UsageError: It is not there, cannot be read, or is no disk.
        DiskError: It refers to other files, is damaged, might be something else, or another program uses it.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISBLK(mode):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        else:
            descriptor = open_regular(path)
    except OSError as error:
        hint = (
            "look for its name, or build it: pybuilder TEMPLATE -o IMAGE" if error.errno == ENOENT else None
        )
        raise UsageError(f"{option} {path}: {error.strerror}", hint=hint) from error
    try:
        head, size = os.pread(descriptor, magic.LENGTH, 0), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    if content:
        imagelocks.refuse_if_in_use(path, changing=False)
    if stat.S_ISBLK(mode):
        _check_device(path, disk_format, magic.foreign_format(head))
        return Attachment(path, DiskFormat.RAW, readonly=True)
    found = DiskFormat(check_own(path, disk_format, Role.OWN)[0])
    if disk_format is None and found is DiskFormat.RAW and (size % _SECTOR or not size):
        raise UsageError(
            f"{option} {path}: its {size} bytes are no whole number of sectors, so it is no disk image",
            hint="give a disk image; if it is a raw one that was cut off, name its format",
        )
    return Attachment(path, found, readonly=True)


def _check_device(path: Path, disk_format: DiskFormat | None, looks: str | None) -> None:
    if disk_format is DiskFormat.QCOW2 or (disk_format is None and looks is not None):
        raise DiskError(
            f"{path} is a block device that holds {looks or 'no qcow2 image'}; only raw ones can be read",
            hint="if it is a raw disk, name its format; else convert it to a file with qemu-img",
        )
