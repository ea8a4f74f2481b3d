"""Recognises the content of a disk or partition by the marks at its start; the host parses nothing else."""

from __future__ import annotations

import enum
import struct
from pathlib import Path

from imgbuilder.disk import diskimage
from imgbuilder.disk.diskimage import DiskFormat

HEAD = 68 * 1024
"""Bytes at the start of a partition in which all marks lie; btrfs has the last, at 64 KiB."""
_EXT = 1024
"""Byte at which the superblock of ext2/3/4 starts."""
_EXT_VALID, _EXT_ERRORS = 0x1, 0x2
"""Bits of ``s_state``: cleanly unmounted; errors were found (kernel, fs/ext4/ext4.h)."""
_EXT_NEEDS_RECOVERY = 0x4
"""Bit of ``s_feature_incompat``: the journal must be replayed, which mounting does."""


class Content(enum.StrEnum):
    """Known content; the values are libblkid's names, which the appliance uses as well."""

    EXT = "ext"
    XFS = "xfs"
    BTRFS = "btrfs"
    F2FS = "f2fs"
    NTFS = "ntfs"
    SWAP = "swap"
    LVM = "LVM2_member"
    LUKS = "crypto_LUKS"
    FAT = "vfat"
    HIBERNATED = "swsuspend"


_MARKS: tuple[tuple[int, bytes, Content], ...] = (
    (0, b"LUKS\xba\xbe", Content.LUKS),
    (0, b"XFSB", Content.XFS),
    (3, b"NTFS    ", Content.NTFS),
    (64 * 1024 + 64, b"_BHRfS_M", Content.BTRFS),
    (1024, b"\x10\x20\xf5\xf2", Content.F2FS),
    (4096 - 10, b"SWAPSPACE2", Content.SWAP),
    (4096 - 9, b"SWAP-SPACE", Content.SWAP),
    (4096 - 10, b"S1SUSPEND", Content.HIBERNATED),
    (_EXT + 56, b"\x53\xef", Content.EXT),
    (54, b"FAT", Content.FAT),
    (82, b"FAT32", Content.FAT),
)
"""Place, mark and meaning; from the kernel's headers and libblkid's superblock table."""


def recognise(head: bytes) -> Content | None:
    """Return the content that the first bytes of a disk or partition show; None when it is not known."""
    for place, mark, meaning in _MARKS:
        if head[place : place + len(mark)] == mark:
            return meaning
    # A physical volume has its label in one of the first four sectors (LVM2, lib/label/label.c).
    for sector in range(0, 4 * 512, 512):
        label = head[sector : sector + 32]
        if label.startswith(b"LABELONE") and label.endswith(b"LVM2 001"):
            return Content.LVM
    return None


def at(image: Path, image_format: DiskFormat, start: int, end: int) -> Content | None:
    """Return the content of a part of an image.

    Args:
        image: The image.
        image_format: Its format.
        start: First byte, a multiple of 512.
        end: First byte behind the part.
    """
    return recognise(read_head(image, image_format, start, end))


def read_head(image: Path, image_format: DiskFormat, start: int, end: int) -> bytes:
    """Return the bytes of a part of an image that contain the marks."""
    length = max(0, min(HEAD, (end - start) // 512 * 512))
    return diskimage.read_range(image, image_format, start, length) if length else b""


def ext_asks_for_check(head: bytes) -> bool:
    """Tell whether an ext2/3/4 filesystem must be checked before it grows, by its superblock.

    An unreplayed journal does not need a check: mounting replays it.
    """
    (state,) = struct.unpack_from("<H", head, _EXT + 58)
    (incompatible,) = struct.unpack_from("<I", head, _EXT + 96)
    if state & _EXT_ERRORS:
        return True
    return not state & _EXT_VALID and not incompatible & _EXT_NEEDS_RECOVERY
