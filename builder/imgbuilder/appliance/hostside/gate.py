"""Decides from a partition table and a superblock which filesystems can be written without an appliance.

Features are allowed by name, so that a filesystem of tomorrow goes to the appliance. What a superblock does
not show, such as a damaged folder, is found by e2fsck (``programs``), which every filesystem has to pass.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from imgbuilder.disk.partition import GPT, MBR, PartitionTable
from imgbuilder.errors import UnfitError

SUPERBLOCK = 1024
"""Bytes before the superblock of a filesystem, and its length."""

_MAGIC = 0xEF53
_CLEAN = 1
"""The state of a filesystem that was unmounted, and in which no error was found."""
_LINUX = 0
_DYNAMIC = 1
"""The revision that has features and a size of inodes."""
_JOURNAL_INODE = 8
_TEST_FILESYSTEM = 4
_CRC32C = 1

_HAS_JOURNAL, _RESIZE_INODE = 0x4, 0x10
_64BIT, _FLEX_GROUPS, _CHECKSUM_SEED = 0x80, 0x200, 0x2000
_GROUP_CHECKSUMS, _EXTRA_SIZE, _CHECKSUMS = 0x10, 0x40, 0x400
_ALLOWED = {
    # has_journal, ext_attr, resize_inode, dir_index, orphan_file
    "compat": 0x103C,
    # filetype, extent, 64bit, flex_bg, metadata_csum_seed
    "incompat": 0x22C2,
    # sparse_super, large_file, huge_file, uninit_bg, dir_nlink, extra_isize, metadata_csum
    "ro_compat": 0x047B,
}
_NAMES = {
    "compat": {
        0x1: "dir_prealloc",
        0x2: "imagic_inodes",
        0x40: "lazy_bg",
        0x200: "sparse_super2",
        0x400: "fast_commit",
        0x800: "stable_inodes",
    },
    "incompat": {
        0x1: "compression",
        0x4: "needs_recovery",
        0x8: "journal_dev",
        0x10: "meta_bg",
        0x100: "mmp",
        0x400: "ea_inode",
        0x1000: "dirdata",
        0x4000: "large_dir",
        0x8000: "inline_data",
        0x10000: "encrypt",
        0x20000: "casefold",
    },
    "ro_compat": {
        0x100: "quota",
        0x200: "bigalloc",
        0x1000: "read-only",
        0x2000: "project",
        0x4000: "shared_blocks",
        0x8000: "verity",
        0x10000: "orphan_present",
    },
}
"""Names that mke2fs gives features that are not allowed."""


@dataclass(frozen=True)
class Place:
    """The bytes of a disk that a filesystem may use."""

    offset: int
    size: int


def place_of(table: PartitionTable | None, number: int | None, disk_size: int) -> Place:
    """Return the place of a partition; of the whole disk without a table.

    Raises:
        UnfitError: The table is of another kind, or the partition is not an ordinary one within the disk.
    """
    if table is None or number is None:
        if table is not None or number is not None:
            raise UnfitError("the disk has partitions" if table is not None else "the disk has no partitions")
        return Place(0, disk_size)
    if table.label not in {GPT, MBR}:
        raise UnfitError(f"the partition table is of the kind {table.label}")
    part = table.find(number)
    if part is None or part.is_container or part.end * table.sector_size > disk_size:
        raise UnfitError(f"partition {number} is not an ordinary partition within the disk")
    holder = table.container(part)
    for other in table.partitions:
        if other not in (part, holder) and other.start < part.end and part.start < other.end:
            raise UnfitError(f"partition {number} overlaps partition {other.number}")
    return Place(part.start * table.sector_size, part.size * table.sector_size)


@dataclass(frozen=True)
class Superblock:
    """The fields of a superblock that decide, with the names of the kernel's documentation."""

    raw: bytes

    def _number(self, layout: str, offset: int) -> int:
        value: int = struct.unpack_from(layout, self.raw, offset)[0]
        return value

    def word(self, offset: int) -> int:
        """Return a field of 32 bits."""
        return self._number("<I", offset)

    def half(self, offset: int) -> int:
        """Return a field of 16 bits."""
        return self._number("<H", offset)

    def byte(self, offset: int) -> int:
        """Return a field of 8 bits."""
        return self.raw[offset]

    @property
    def compat(self) -> int:
        """Features that any program may ignore."""
        return self.word(0x5C)

    @property
    def incompat(self) -> int:
        """Features that a program must know."""
        return self.word(0x60)

    @property
    def ro_compat(self) -> int:
        """Features that a program must know before it writes."""
        return self.word(0x64)

    @property
    def block_size(self) -> int:
        """Bytes of a block."""
        return 1024 << self.word(0x18)

    @property
    def blocks(self) -> int:
        """Blocks of the filesystem."""
        return self.word(0x4) | (self.word(0x150) << 32 if self.incompat & _64BIT else 0)

    @property
    def first_block(self) -> int:
        """The block with the superblock."""
        return self.word(0x14)

    @property
    def group_blocks(self) -> int:
        """Blocks of a group."""
        return self.word(0x20)

    @property
    def descriptor_size(self) -> int:
        """Bytes of the descriptor of a group."""
        return self.half(0xFE) if self.incompat & _64BIT else 32

    def groups(self, blocks: int) -> int:
        """Return how many groups so many blocks make."""
        return -(-(blocks - self.first_block) // self.group_blocks)

    def descriptor_blocks(self, blocks: int) -> int:
        """Return how many blocks the descriptors of all groups take."""
        return -(-self.groups(blocks) * self.descriptor_size // self.block_size)


def require_fit(image: int, place: Place, grown: int | None = None) -> None:
    """Judge the filesystem in a part of an open image, as ``objections`` does.

    Raises:
        UnfitError: Something speaks against it.
    """
    found = objections(os.pread(image, SUPERBLOCK, place.offset + SUPERBLOCK), place.size, grown)
    if found:
        raise UnfitError(f"the filesystem is not fit: {', '.join(found)}")


def objections(raw: bytes, size: int, grown: int | None = None) -> tuple[str, ...]:
    """Return what speaks against writing a filesystem without an appliance; nothing if it is fit.

    Args:
        raw: The 1024 bytes of its superblock.
        size: Bytes of its partition.
        grown: Bytes that the partition will have; None if it does not grow.
    """
    if len(raw) != SUPERBLOCK:
        return ("the filesystem has no superblock",)
    block = Superblock(raw)
    for judge in (_kind, _features, _state, _geometry):
        found = tuple(judge(block))
        if found:
            return found  # the next ones compute with what these have found good
    return tuple(_size(block, size, grown))


def _kind(block: Superblock) -> Iterator[str]:
    if block.half(0x38) != _MAGIC:
        yield "it is not an ext2/3/4 filesystem"
    elif block.word(0x4C) != _DYNAMIC:
        yield f"its revision is {block.word(0x4C)}"
    elif block.word(0x48) != _LINUX:
        yield "it was not made by Linux"
    elif block.half(0x5A) != 0:
        yield "its superblock is a backup"


def _features(block: Superblock) -> Iterator[str]:
    for kind, present in (
        ("compat", block.compat),
        ("incompat", block.incompat),
        ("ro_compat", block.ro_compat),
    ):
        left = present & ~_ALLOWED[kind]
        while left:
            bit = left & -left
            left ^= bit
            yield f"it has the feature {_NAMES[kind].get(bit, f'{kind} {bit:#x}')}"
    if block.ro_compat & _CHECKSUMS:
        if block.ro_compat & _GROUP_CHECKSUMS:
            yield "it has two kinds of checksums"
        if block.byte(0x175) != _CRC32C:
            yield "its checksums are of an unknown kind"
        elif crc32c(block.raw[:-4]) != block.word(0x3FC):
            yield "the checksum of its superblock is wrong"
    elif block.incompat & _CHECKSUM_SEED:
        yield "it has a seed for checksums, but no checksums"


def _state(block: Superblock) -> Iterator[str]:
    if block.half(0x3A) != _CLEAN or block.word(0x194) != 0:
        yield "it was not unmounted cleanly, or has errors"
    if block.word(0xE8) != 0:
        yield "it has removed files that were open"
    if block.word(0x160) & _TEST_FILESYSTEM:
        yield "it is marked as a test"
    if block.compat & _HAS_JOURNAL and (block.word(0xE0) != _JOURNAL_INODE or block.word(0xE4) != 0):
        yield "its journal is in an unusual place"


def _geometry(block: Superblock) -> Iterator[str]:
    if block.word(0x18) > 6 or block.word(0x1C) != block.word(0x18):
        yield "its blocks are of an unsupported size"
        return
    if not (_usual_groups(block) and _usual_inodes(block) and _usual_descriptors(block)):
        yield "its geometry is unusual"


def _usual_groups(block: Superblock) -> bool:
    most = 8 * block.block_size  # bits of a block
    return (
        block.first_block == (1 if block.block_size == 1024 else 0)
        and block.first_block < block.blocks
        and block.group_blocks == block.word(0x24)  # without clusters
        and 0 < block.group_blocks <= most
        and block.group_blocks % 8 == 0
    )


def _usual_inodes(block: Superblock) -> bool:
    most = 8 * block.block_size
    of_group, size, first = block.word(0x28), block.half(0x58), block.word(0x54)
    return (
        0 < of_group <= most
        and of_group % 8 == 0
        and block.word(0x0) == block.groups(block.blocks) * of_group
        and 128 <= size <= block.block_size
        and size & (size - 1) == 0
        and first == 11
        and (
            not block.ro_compat & _EXTRA_SIZE
            or size == 128
            or max(block.half(0x15C), block.half(0x15E)) <= size - 128
        )
    )


def _usual_descriptors(block: Superblock) -> bool:
    reserved, flex_groups = block.half(0xCE), block.byte(0x174)
    return (
        block.descriptor_size == (64 if block.incompat & _64BIT else 32)
        and reserved <= block.block_size // 4
        and flex_groups < (32 if block.incompat & _FLEX_GROUPS else 1)
    )


def _size(block: Superblock, size: int, grown: int | None) -> Iterator[str]:
    if block.blocks * block.block_size > size:
        yield "it is larger than its partition"
    if grown is None:
        return
    blocks = grown // block.block_size
    if blocks < block.blocks:
        yield "it would have to shrink"
    elif blocks >= 1 << 32 and not block.incompat & _64BIT:
        yield "it cannot have so many blocks"
    else:
        reserved = block.half(0xCE) if block.compat & _RESIZE_INODE else 0
        if block.descriptor_blocks(blocks) > block.descriptor_blocks(block.blocks) + reserved:
            yield "it has no room reserved to grow so much"


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C_TABLE = _crc32c_table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C as ext4 uses it: begun with all bits set, and not inverted at its end."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C_TABLE[(value ^ byte) & 0xFF]
    return value
