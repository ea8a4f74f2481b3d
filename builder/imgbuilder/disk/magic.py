"""Signatures: the kind of a file, and the content of a disk or partition, by the first bytes.

No format of a file is decided by them: they find files that are not what their name or source claims
(``docs/threat-model.md`` T13, X12, X17). The signatures are those of QEMU's block drivers, since a probing
program would open the file by these. Of a disk's content, the host parses nothing but its marks.
"""

from __future__ import annotations

import enum
import struct
from pathlib import Path

from imgbuilder.disk import diskimage
from imgbuilder.disk.diskimage import DiskFormat

LENGTH = 33 << 10
"""Bytes of a file's start that are read: the signature of ISO images is behind 32 KiB."""

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "qed"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
    (64, b"\xbe\xda\x10\x7f", "vdi"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
    (0, b"LUKS\xba\xbe", "luks"),
)
_DESCRIPTOR = b"# Disk DescriptorFile"


def foreign_format(head: bytes) -> str | None:
    """Return QEMU's name of the format that a file looks like; None when it may be a raw disk."""
    for offset, signature, name in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return name
    # Before a VMDK descriptor, QEMU skips blank lines and comments.
    lines = head.lstrip(b" \t\r\n")
    return "vmdk" if lines[: len(_DESCRIPTOR)].lower() == _DESCRIPTOR.lower() else None


_PACKINGS = (
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"BZh", "bzip2"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"\x02\x21\x4c\x18", "lz4"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (257, b"ustar", "tar"),
)
UNPACKING = {
    "xz": "xz -dc {file} >{disk}",
    "gzip": "gzip -dc {file} >{disk}",
    "zip": "unzip {file}",
    "zstd": "zstd -dc {file} >{disk}",
    "bzip2": "bzip2 -dc {file} >{disk}",
    "lz4": "lz4 -dc {file} >{disk}",
    "7z": "7z x {file}",
    "tar": "tar -xf {file}",
    "lzma": "xz --format=lzma -dc {file} >{disk}",
}
"""Commands that unpack the formats that ``packing_of`` names."""

_READ_ONLY = (
    (0, b"hsqs", "a squashfs file system"),
    (0, b"sqsh", "a squashfs file system"),
    (0, b"\x45\x3d\xcd\x28", "a cramfs file system"),
    (1024, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    (32769, b"CD001", "an ISO image"),
)


def packing_of(head: bytes) -> str | None:
    """Return the archive or compression format of a file by its first 512 bytes; None for a plain file."""
    for offset, signature, name in _PACKINGS:
        if head[offset:].startswith(signature):
            return name
    if head[:1] and head[0] >> 4 == 5 and head[1:4] == b"\x2a\x4d\x18":
        return "zstd"  # a skippable frame, with which pzstd begins its files
    # The old .lzma has no magic: properties, a dictionary of 64 KiB or more, and a size, mostly "unknown".
    if len(head) >= 13 and head[0] == 0x5D and head[1:3] == b"\0\0" and head[5:13] == b"\xff" * 8:
        return "lzma"
    return None


def read_only(head: bytes) -> str | None:
    """Return the name of a read-only format; None for any other file."""
    for offset, signature, name in _READ_ONLY:
        if head[offset : offset + len(signature)] == signature:
            return name
    return None


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


def content_at(image: Path, image_format: DiskFormat, start: int, end: int) -> Content | None:
    """Return the content of a part of an image."""
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
