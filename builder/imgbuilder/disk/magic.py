"""Signatures of file formats: the kind of a file by its first bytes.

No format is decided by them: they find files that are not what their name or source claims
(``docs/threat-model.md`` T13, X12, X17). The signatures are those of QEMU's block drivers, since a probing
program would open the file by these.
"""

from __future__ import annotations

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
    """Return the format that a file looks like.

    Args:
        head: Its first ``LENGTH`` bytes, or all of them when it is shorter.

    Returns:
        QEMU's name of the format; None when it may be a raw disk.
    """
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
