"""The structures of libext2fs, as its headers have them."""

from __future__ import annotations

import ctypes

import pytest

from imgbuilder.appliance.hostside.libext2fs import Handle, Inode, Superblock


@pytest.mark.parametrize(
    ("structure", "field", "offset"),
    [
        (Superblock, "first_data_block", 0x14),
        (Superblock, "magic", 0x38),
        (Superblock, "revision", 0x4C),
        (Superblock, "inode_size", 0x58),
        (Superblock, "compat", 0x5C),
        (Superblock, "reserved_gdt_blocks", 0xCE),
        (Superblock, "journal_inode", 0xE0),
        (Superblock, "blocks_high", 0x150),
        (Superblock, "want_extra_isize", 0x15E),
        (Superblock, "overhead_clusters", 0x248),
        (Inode, "links", 0x1A),
        (Inode, "block", 0x28),
        (Inode, "uid_high", 0x78),
        (Inode, "extra_isize", 0x80),
        (Inode, "crtime", 0x90),
    ],
)
def test_fields_are_at_their_places(structure: type[ctypes.Structure], field: str, offset: int) -> None:
    assert getattr(structure, field).offset == offset


def test_sizes() -> None:
    assert ctypes.sizeof(Inode) == 160
    assert Handle.superblock.offset == 32


@pytest.mark.parametrize("seconds", [0, 1, 2**31 - 1, 2**31, 2**32 + 5, 3 * 2**32, -1, -(2**31)])
def test_times_beyond_2038(seconds: int) -> None:
    inode = Inode()
    inode.extra_isize = 32
    inode.stamp("mtime", seconds * 10**9 + 123)
    assert inode.time("mtime") == seconds * 10**9 + 123


def test_an_old_inode_has_whole_seconds() -> None:
    inode = Inode()
    inode.stamp("mtime", 5 * 10**9 + 123)
    assert inode.time("mtime") == 5 * 10**9
