"""An ext2/3/4 filesystem in an open image: inodes, folders, content and attributes.

``tree`` adds paths to it. Only the worker imports this: it runs in an isolated interpreter, so this needs the
standard library only. All that is not certainly handled as the kernel would raises ``Unfit``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import stat
from ctypes import byref, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any

from imgbuilder.appliance.hostside import libext2fs
from imgbuilder.appliance.hostside.libext2fs import FOLDER, INODE_BYTES, Entry, Handle, Inode, Unfit, do

ROOT = 2
"""The root folder's inode."""
_MAGIC, _UMASK = 0xEF53, 0o22
_EXTENTS, _INDEX = 0x80000, 0x1000
"""Flags of an inode: a tree of extents, a folder with an index. No others are accepted."""
_EMPTY_EXTENTS = (0xF30A, 4)
"""The head of an empty list of extents, with room for four."""
_MOST_ATTRIBUTES = 256
_HAS_EXTENTS, _HAS_64_BITS = 0x40, 0x80
_LARGEST_FILE = 1 << 43
_FILE_TYPES = {
    stat.S_IFREG: 1, stat.S_IFDIR: FOLDER, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6, stat.S_IFLNK: 7,
}  # fmt: skip
"""File types in the entries of folders."""


class Ext2:
    """An open filesystem.

    Args:
        descriptor: The image; it stays open.
        offset: The byte at which the filesystem starts.
        seed: Source of the inodes' generation numbers.
        writable: Whether it may be changed.
    """

    def __init__(self, descriptor: int, offset: int, seed: bytes = b"", *, writable: bool = True) -> None:
        self._filesystem = c_void_p()
        # Some versions of libext2fs close their descriptor at the end, others do not.
        self._own = os.dup(descriptor)
        flags = libext2fs.SIXTY_FOUR_BITS | libext2fs.ONE_SUPERBLOCK | (libext2fs.RW if writable else 0)
        do(
            "open2",
            str(self._own).encode(),
            f"offset={offset}".encode(),
            flags,
            0,
            0,
            libext2fs.MANAGER,
            byref(self._filesystem),
        )
        handle = ctypes.cast(self._filesystem, ctypes.POINTER(Handle)).contents
        self._handle, self._super = handle, handle.superblock.contents
        if self._super.magic != _MAGIC or handle.umask != _UMASK:
            raise Unfit("this libext2fs has other structures")
        self.now = 0
        self._seed, self._generations = seed[:64], 0
        self.block_size = int(handle.block_size)
        self._inode_size = int(self._super.inode_size) if self._super.revision else INODE_BYTES
        do("read_bitmaps", self._filesystem)

    def begin(self, now: int) -> None:
        """Set the time of the next request, in nanoseconds since 1970."""
        self.now = now
        self._handle.now = now // 1_000_000_000

    def close(self) -> None:
        """Write what is in memory, and close the filesystem."""
        filesystem, self._filesystem = self._filesystem, c_void_p()
        if filesystem:
            do("close_free", byref(filesystem))
            with contextlib.suppress(OSError):
                os.close(self._own)

    # Space

    def free_blocks(self) -> int:
        """Return the number of free blocks."""
        return int(libext2fs.free_blocks_count(self._handle.superblock))

    def require(self, blocks: int, inodes: int = 0) -> None:
        """Check that there is room; where it is nearly full, only the kernel knows what still fits."""
        free = self.free_blocks()
        # The kernel keeps 2 %, or 4096 blocks, for itself.
        kept = min(self._blocks() // 50, 4096)
        if blocks > free or inodes > self._super.free_inodes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if blocks + blocks // 64 + 16 > free - kept:
            raise Unfit("the filesystem is nearly full")

    def _blocks(self) -> int:
        high = int(self._super.blocks_high) if self._super.incompat & _HAS_64_BITS else 0
        return int(self._super.blocks_low) | high << 32

    def usage(self) -> tuple[int, int, int]:
        """Return the size of a block, the number of blocks for files, and the number of free blocks."""
        blocks, overhead = self._blocks(), int(self._super.overhead_clusters)
        if not 0 < overhead <= blocks:
            overhead = self._overhead()
        return self.block_size, blocks - overhead, self.free_blocks()

    def _overhead(self) -> int:
        """Count the blocks of metadata, as the kernel does where the superblock has no number."""
        with_super = sum(
            bool(libext2fs.has_super(self._filesystem, group)) for group in range(self._handle.groups)
        )
        each = self._handle.inode_blocks_per_group + 2
        tables = 1 + self._handle.descriptor_blocks + self._super.reserved_gdt_blocks
        journal = self._super.journal_inode
        size = self.load(journal).size // self.block_size if journal else 0
        return int(self._super.first_data_block + self._handle.groups * each + with_super * tables + size)

    # Inodes

    def load(self, number: int) -> Inode:
        """Read an inode."""
        buffer = ctypes.create_string_buffer(max(self._inode_size, ctypes.sizeof(Inode)))
        do("read_inode_full", self._filesystem, number, buffer, self._inode_size)
        inode = Inode.from_buffer(buffer)
        if inode.flags & ~(_EXTENTS | _INDEX):
            raise Unfit(f"inode {number} has the flags {inode.flags:#x}")
        if inode.links == 0 or inode.dtime:
            raise Unfit(f"inode {number} is not in use")
        if self._inode_size == INODE_BYTES:
            inode.extra_isize = 0
        elif inode.extra_isize > self._inode_size - INODE_BYTES:
            raise Unfit(f"inode {number} is damaged")
        return inode

    def save(self, number: int, inode: Inode) -> None:
        """Write an inode that ``load`` returned; nothing else may have changed it since."""
        do("write_inode_full", self._filesystem, number, byref(inode), self._inode_size)

    def stamp(self, number: int, names: str) -> None:
        """Set times of a file to the request's time."""
        inode = self.load(number)
        inode.stamp(names, self.now)
        self.save(number, inode)

    def add_links(self, number: int, change: int) -> int:
        """Change the number of a file's names; return the new number."""
        inode = self.load(number)
        inode.links += change
        inode.stamp("ctime", self.now)
        self.save(number, inode)
        return int(inode.links)

    def new(self, folder: int, mode: int, uid: int, gid: int, *, device: int = 0) -> int:
        """Make an inode that has one name, or two for a folder, which the caller adds.

        Args:
            folder: The folder in which it will be.
            mode: Type and permissions.
            uid: The owner.
            gid: The group.
            device: Its number, for a device.
        """
        self.require(8, 1)
        found = c_uint32()
        do("new_inode", self._filesystem, folder, mode, None, byref(found))
        number, is_folder = found.value, stat.S_ISDIR(mode)
        buffer = ctypes.create_string_buffer(max(self._inode_size, ctypes.sizeof(Inode)))
        inode = Inode.from_buffer(buffer)
        if self._inode_size > INODE_BYTES:
            inode.extra_isize = min(self._super.want_extra_isize or 32, self._inode_size - INODE_BYTES)
        inode.mode, inode.links = mode, 2 if is_folder else 1
        inode.own(uid, gid)
        # It is part of the checksums of a folder's blocks, so it must never change.
        inode.generation = self._generation()
        inode.stamp("atime ctime mtime crtime" if inode.has("crtime") else "atime ctime mtime", self.now)
        has_blocks = stat.S_ISREG(mode) or is_folder
        if has_blocks and self._super.incompat & _HAS_EXTENTS:
            inode.flags = _EXTENTS
            # The head of an empty list of extents, with room for four.
            inode.block[:2] = _EMPTY_EXTENTS
        if device:
            major, minor = os.major(device), os.minor(device)
            if major < 256 and minor < 256:
                inode.block[0] = major << 8 | minor
            else:
                inode.block[1] = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
        self.save(number, inode)
        libext2fs.count_inode(self._filesystem, number, 1, int(is_folder))
        if is_folder:
            self._make_folder(number, folder)
        return number

    def _generation(self) -> int:
        self._generations += 1
        digest = hashlib.blake2b(self._generations.to_bytes(8, "little"), digest_size=4, key=self._seed)
        return int.from_bytes(digest.digest(), "little")

    def _make_folder(self, number: int, parent: int) -> None:
        block, place = c_void_p(), c_uint64()
        inode = self.load(number)
        do("bmap2", self._filesystem, number, byref(inode), None, libext2fs.ALLOCATE, 0, None, byref(place))
        inode = self.load(number)
        inode.size_low = self.block_size
        self.save(number, inode)
        do("new_dir_block", self._filesystem, number, parent, byref(block))
        try:
            do("write_dir_block4", self._filesystem, place.value, block, 0, number)
        finally:
            do("free_mem", byref(block))

    def release(self, number: int, inode: Inode) -> None:
        """Free an inode without names, its blocks and its attributes."""
        inode.links = 0
        inode.dtime = max(1, self.now // 1_000_000_000) & 0xFFFFFFFF
        self.save(number, inode)
        if inode.file_acl:
            do("free_ext_attr", self._filesystem, number, byref(inode))
        if libext2fs.has_blocks(self._filesystem, byref(inode)):
            do("punch", self._filesystem, number, byref(inode), None, 0, (1 << 64) - 1)
        libext2fs.count_inode(self._filesystem, number, -1, int(inode.is_folder))

    # Folders

    def lookup(self, folder: int, name: bytes) -> int | None:
        """Return the inode of a name in a folder; None if there is none."""
        found = c_uint32()
        code = do(
            "lookup",
            self._filesystem,
            folder,
            name,
            len(name),
            None,
            byref(found),
            allowed=libext2fs.NOT_FOUND,
        )
        return None if code else found.value

    def entries(self, folder: int) -> list[Entry]:
        """Return the entries of a folder, without ``.`` and ``..``."""
        found: list[Entry] = []

        def keep(name: bytes, entry: Any) -> int:  # noqa: ANN401 - a structure of ctypes
            if name not in (b".", b".."):
                found.append(Entry(name, int(entry.inode), int(entry.kind)))
            return 0

        libext2fs.each_entry(self._filesystem, folder, keep)
        return found

    def set_parent(self, folder: int, parent: int) -> None:
        """Let ``..`` of a folder mean another folder."""

        def change(name: bytes, entry: Any) -> int:  # noqa: ANN401 - a structure of ctypes
            if name != b"..":
                return 0
            entry.inode = parent
            return libext2fs.CHANGED | libext2fs.ABORT

        libext2fs.each_entry(self._filesystem, folder, change)

    def link(self, folder: int, name: bytes, number: int, mode: int) -> None:
        """Add a name to a folder; it must not have one of that name."""
        self._check_growable(folder)
        kind = _FILE_TYPES[stat.S_IFMT(mode)]
        # At most: one for the name, one for each level of the index.
        for _ in range(4):
            if not do(
                "link", self._filesystem, folder, name, number, kind, allowed=libext2fs.NO_SPACE_IN_FOLDER
            ):
                break
            do("expand_dir", self._filesystem, folder)
        else:
            raise Unfit("a folder does not grow")
        self.stamp(folder, "mtime ctime")

    def _check_growable(self, folder: int) -> None:
        self.require(8)
        inode = self.load(folder)
        if inode.flags & _EXTENTS and inode.block[1] >> 16 > 1:
            raise Unfit("a folder has a deep tree of extents")

    def unlink(self, folder: int, name: bytes) -> None:
        """Remove a name from a folder."""
        do("unlink", self._filesystem, folder, name, 0, 0)
        self.stamp(folder, "mtime ctime")

    # Content

    def read(self, number: int, start: int, size: int) -> bytes:
        """Read part of a file."""
        buffer, got = ctypes.create_string_buffer(size), c_uint()
        file = self._open(number, 0)
        try:
            do("file_llseek", file, start, 0, None)
            do("file_read", file, buffer, size, byref(got))
        finally:
            do("file_close", file)
        return buffer.raw[: got.value]

    def write(self, number: int, start: int, content: bytes) -> None:
        """Write part of a file, which grows if necessary; the times stay."""
        if start + len(content) > _LARGEST_FILE:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self.require(len(content) // self.block_size + 2)
        file, written = self._open(number, libext2fs.WRITE), c_uint()
        try:
            do("file_llseek", file, start, 0, None)
            do("file_write", file, content, len(content), byref(written))
        finally:
            do("file_close", file)
        if written.value != len(content):
            raise Unfit("libext2fs wrote only a part")

    def set_size(self, number: int, size: int) -> None:
        """Cut a file, or extend it with a hole; the times stay."""
        file = self._open(number, libext2fs.WRITE)
        try:
            do("file_set_size2", file, size)
        finally:
            do("file_close", file)

    def is_hole(self, number: int, block: int) -> bool:
        """Return whether a block of a file is not on the disk."""
        place = c_uint64()
        do("bmap2", self._filesystem, number, None, None, 0, block, None, byref(place))
        return place.value == 0

    def target(self, number: int, inode: Inode) -> bytes:
        """Return the target of a symbolic link."""
        size = inode.size
        if not 0 < size <= self.block_size:
            raise Unfit(f"inode {number} is a link of {size} bytes")
        if libext2fs.is_fast_symlink(byref(inode)):
            return bytes(memoryview(inode.block).cast("B")[:size])
        return self.read(number, 0, size)

    def set_target(self, number: int, target: bytes) -> None:
        """Give a new symbolic link its target."""
        inode = self.load(number)
        if len(target) < ctypes.sizeof(inode.block):
            ctypes.memmove(inode.block, target, len(target))
            inode.size_low = len(target)
            self.save(number, inode)
            return
        if self._super.incompat & _HAS_EXTENTS:
            inode.flags = _EXTENTS
            inode.block[:2] = _EMPTY_EXTENTS
            self.save(number, inode)
        self.write(number, 0, target)

    def _open(self, number: int, flags: int) -> c_void_p:
        file = c_void_p()
        do("file_open", self._filesystem, number, flags, byref(file))
        return file

    # Extended attributes

    def attributes(self, number: int) -> dict[bytes, bytes]:
        """Return a file's extended attributes, in the form of the disk."""
        handle = self._attributes(number)
        try:
            found = libext2fs.all_attributes(handle)
        finally:
            do("xattrs_close", byref(handle))
        if len(found) > _MOST_ATTRIBUTES:
            raise Unfit(f"inode {number} has {len(found)} attributes")
        return found

    def change_attributes(self, number: int, values: dict[bytes, bytes | None]) -> None:
        """Set extended attributes, in the form of the disk; None removes one."""
        self.require(8)
        handle = self._attributes(number)
        try:
            for name, value in values.items():
                if value is None:
                    do("xattr_remove", handle, name)
                else:
                    do("xattr_set", handle, name, value, len(value))
        finally:
            do("xattrs_close", byref(handle))
        self.stamp(number, "ctime")

    def _attributes(self, number: int) -> c_void_p:
        handle = c_void_p()
        do("xattrs_open", self._filesystem, number, byref(handle))
        try:
            do("xattrs_flags", handle, byref(libext2fs.RAW), None)
            do("xattrs_read", handle)
        except BaseException:
            do("xattrs_close", byref(handle))
            raise
        return handle
