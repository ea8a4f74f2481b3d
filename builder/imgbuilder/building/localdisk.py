"""The check of a disk that the user names: ``--add``, ``--attach``, ``get-kernel``, ``machine script``.

It is judged like a template before QEMU sees it: an image from another person
can name files of this host just as well (``docs/threat-model.md`` T13).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from errno import ENOENT
from pathlib import Path

from imgbuilder.appliance import Attachment
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.imageheader import check_own
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import DiskError, UsageError
from imgbuilder.host import imagelocks

_SECTOR = 512


def check_disk(
    disk: Attachment, role: Role = Role.OWN, *, backing: Sequence[Path] = (), in_use: bool = True
) -> Attachment:
    """Check a disk and its header; return it with its format and the images that it lies over.

    Args:
        disk: The disk. Without a format, the header decides it; a block device is raw.
        role: ``Role.GUEST`` for a disk of the guest, ``Role.OWN`` for any other.
        backing: Images that it may lie over.
        in_use: Whether to refuse a disk that another program uses. That is not needed where only the
            header is read.

    Raises:
        UsageError: It does not exist, may not be opened, or is not a disk.
        DiskError: It refers to other files, is damaged, its format is ambiguous, or another program uses it.
    """
    status = _status(disk)
    block = stat.S_ISBLK(status.st_mode)
    # QEMU looks for a backing file with a relative name next to the name that it opens, not next to a link.
    path = disk.path.absolute() if block else disk.path.resolve()
    if in_use:
        imagelocks.refuse_if_in_use(path, changing=not disk.readonly)
    found, below = check_own(path, disk.format, role, backing=backing)
    if block and disk.format is None and found != DiskFormat.RAW:
        raise DiskError(
            f"{path} is a block device that holds a {found} image",
            hint=f"name the format: {found}, or raw if the disk itself is meant",
        )
    size = status.st_size
    is_raw = disk.format is None and found == DiskFormat.RAW and not block
    if role is Role.OWN and is_raw and (size % _SECTOR or not size):
        raise UsageError(
            f"{path} is not a disk image: its size of {size} bytes is not a multiple of {_SECTOR}",
            hint="give a disk image; if it is a raw one that was cut off, name its format",
        )
    for image in below:
        imagelocks.refuse_if_in_use(image, changing=False)
    return replace(disk, path=path, format=DiskFormat(found), backing=below)


def _status(disk: Attachment) -> os.stat_result:
    path = disk.path
    try:
        status = path.stat()
    except OSError as error:
        hint = "check its name, or build it: pybuilder TEMPLATE -o IMAGE" if error.errno == ENOENT else None
        raise UsageError(f"{path}: {error.strerror}", hint=hint) from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise UsageError(f"{path} is not a disk image: it is neither a file nor a block device")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read", hint="check its permissions")
    if not disk.readonly and not os.access(path, os.W_OK):
        raise UsageError(f"{path} cannot be written", hint="check its permissions, or use --dry-run")
    return status
