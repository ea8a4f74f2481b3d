"""What kind of disk image a file looks like by its first bytes. Pure.

This decides no format: it finds files that are not what they are said to be
(``reliability.md`` T13, X12, X17). The signatures are those of qemu's block
drivers, since these are what a probing program would open the file as.
"""

from __future__ import annotations

LENGTH = 128
"""Bytes of a file's start that are looked at."""

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
    """Name the format that a file looks like.

    Args:
        head: Its first ``LENGTH`` bytes, or all of them when it is shorter.

    Returns:
        qemu's name of the format; None when nothing speaks against a raw disk.
    """
    for offset, signature, name in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return name
    # Before a VMDK descriptor, qemu passes over blank lines and comments.
    lines = head.lstrip(b" \t\r\n")
    return "vmdk" if lines[: len(_DESCRIPTOR)].lower() == _DESCRIPTOR.lower() else None
