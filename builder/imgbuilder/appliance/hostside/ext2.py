"""An ext2/3/4 filesystem in an open image, by libext2fs: inodes, folders, content and attributes.

``tree`` adds paths to it. Only the worker imports this: it runs in an isolated interpreter, so this needs the
standard library only. All that is not certainly handled as the kernel would raises ``Unfit``.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p
from typing import Any, NamedTuple

ROOT = 2
"""The root folder's inode."""
_RW, _ONE_SUPERBLOCK, _64_BITS = 0x1, 0x200, 0x20000
_ALLOCATE = 0x1
_WRITE = 0x1
_RAW = ctypes.c_uint(1)
_NO_SPACE_IN_FOLDER = 2133571366
_NOT_FOUND = 2133571404
_EXTENTS, _INDEX = 0x80000, 0x1000
_INODE_BYTES = 128
"""Bytes of an inode in the oldest filesystems; what is behind them may be missing."""
_MOST_LINKS = 64000
"""Names of a file; folders may have more in the kernel, which then counts them no longer."""
_MOST_ATTRIBUTES = 256
_LARGEST_ATTRIBUTE = 65536
_HAS_EXTENTS = 0x40
_FOLDER, _LINK = 2, 7
_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: _FOLDER,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: _LINK,
}
"""File types in the entries of folders."""


class Unfit(Exception):  # noqa: N818 - not an error of the guest
    """The request cannot be done here exactly as the kernel would do it: an appliance must do it."""


class _Superblock(ctypes.Structure):
    _fields_ = [  # noqa: RUF012
        ("inodes_count", c_uint32),
        ("blocks_count", c_uint32),
        ("reserved_blocks", c_uint32),
        ("free_blocks", c_uint32),
        ("free_inodes", c_uint32),
        ("first_data_block", c_uint32),
        ("log_block_size", c_uint32),
        ("log_cluster_size", c_uint32),
        ("blocks_per_group", c_uint32),
        ("clusters_per_group", c_uint32),
        ("inodes_per_group", c_uint32),
        ("_times", c_uint32 * 2),
        ("_counts", c_uint16 * 2),
        ("magic", c_uint16),
        ("state", c_uint16),
        ("_checks", c_uint32 * 4),
        ("rev_level", c_uint32),
        ("_reserved_ids", c_uint32),
        ("first_inode", c_uint32),
        ("inode_size", c_uint16),
        ("_group", c_uint16),
        ("compat", c_uint32),
        ("incompat", c_uint32),
        ("ro_compat", c_uint32),
        ("_names", ctypes.c_char * (0xCE - 0x68)),
        ("reserved_gdt_blocks", c_uint16),
        ("_journal_uuid", ctypes.c_char * 16),
        ("journal_inode", c_uint32),
        ("_hashes", ctypes.c_char * (0x15E - 0xE4)),
        ("want_extra_isize", c_uint16),
        ("_middle", ctypes.c_char * (0x248 - 0x160)),
        ("overhead_clusters", c_uint32),
    ]


class _Handle(ctypes.Structure):
    """The start of ``struct_ext2_filsys``; the rest is not used."""

    _fields_ = [  # noqa: RUF012
        ("magic", ctypes.c_long),
        ("io", c_void_p),
        ("flags", c_int),
        ("device_name", c_char_p),
        ("superblock", ctypes.POINTER(_Superblock)),
        ("block_size", ctypes.c_uint),
        ("fragment_size", c_int),
        ("groups", c_uint32),
        ("descriptor_blocks", ctypes.c_ulong),
        ("group_descriptors", c_void_p),
        ("inode_blocks_per_group", ctypes.c_uint),
        ("_maps", c_void_p * 2),
        ("_calls", c_void_p * 5),
        ("_lists", c_void_p * 2),
        ("_stride", c_uint32),
        ("_originals", c_void_p * 2),
        ("umask", c_uint32),
        ("now", ctypes.c_long),
    ]


class Inode(ctypes.Structure):
    """One inode as it is on the disk; see ``Ext2.load`` and ``Ext2.save``."""

    _fields_ = [  # noqa: RUF012
        ("mode", c_uint16),
        ("uid_low", c_uint16),
        ("size_low", c_uint32),
        ("atime", c_uint32),
        ("ctime", c_uint32),
        ("mtime", c_uint32),
        ("dtime", c_uint32),
        ("gid_low", c_uint16),
        ("links", c_uint16),
        ("blocks", c_uint32),
        ("flags", c_uint32),
        ("version", c_uint32),
        ("block", c_uint32 * 15),
        ("generation", c_uint32),
        ("file_acl", c_uint32),
        ("size_high", c_uint32),
        ("_fragment", c_uint32),
        ("_blocks_high", c_uint16),
        ("_file_acl_high", c_uint16),
        ("uid_high", c_uint16),
        ("gid_high", c_uint16),
        ("_checksum_low", c_uint16),
        ("_reserved", c_uint16),
        ("extra_isize", c_uint16),
        ("_checksum_high", c_uint16),
        ("ctime_extra", c_uint32),
        ("mtime_extra", c_uint32),
        ("atime_extra", c_uint32),
        ("crtime", c_uint32),
        ("crtime_extra", c_uint32),
        ("_version_high", c_uint32),
        ("_project", c_uint32),
    ]

    @property
    def uid(self) -> int:
        """The owner."""
        return int(self.uid_low | self.uid_high << 16)

    @property
    def gid(self) -> int:
        """The group."""
        return int(self.gid_low | self.gid_high << 16)

    def own(self, uid: int, gid: int) -> None:
        """Set the owner and the group."""
        self.uid_low, self.uid_high = uid & 0xFFFF, uid >> 16
        self.gid_low, self.gid_high = gid & 0xFFFF, gid >> 16

    @property
    def size(self) -> int:
        """The size in bytes."""
        return int(self.size_low | (self.size_high << 32 if stat.S_ISREG(self.mode) else 0))

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    def stamp(self, names: str, now: int) -> None:
        """Set times.

        Args:
            names: Their names, such as ``"mtime ctime"``.
            now: Nanoseconds since 1970.
        """
        seconds, nanoseconds = divmod(now, 1_000_000_000)
        low = seconds & 0xFFFFFFFF
        epoch = (seconds - (low - (1 << 32) if low >> 31 else low)) >> 32 & 3
        for name in names.split():
            setattr(self, name, low)
            place = getattr(Inode, f"{name}_extra").offset
            if place + 4 <= _INODE_BYTES + self.extra_isize:
                setattr(self, f"{name}_extra", nanoseconds << 2 | epoch)

    def time(self, name: str) -> int:
        """Return a time in nanoseconds since 1970."""
        low = int(getattr(self, name))
        extra = 0
        if getattr(Inode, f"{name}_extra").offset + 4 <= _INODE_BYTES + self.extra_isize:
            extra = int(getattr(self, f"{name}_extra"))
        seconds = (low - (1 << 32) if low >> 31 else low) + ((extra & 3) << 32)
        return seconds * 1_000_000_000 + (extra >> 2)


class Entry(NamedTuple):
    """An entry of a folder: the name, the inode, and the file type in the entry (0 if it has none)."""

    name: bytes
    inode: int
    kind: int


class _Dirent(ctypes.Structure):
    _fields_ = [  # noqa: RUF012
        ("inode", c_uint32),
        ("length", c_uint16),
        ("name_length", ctypes.c_uint8),
        ("kind", ctypes.c_uint8),
    ]


_ON_ENTRY = ctypes.CFUNCTYPE(
    c_int, c_uint32, c_int, ctypes.POINTER(_Dirent), c_int, c_int, c_void_p, c_void_p
)
_ON_ATTRIBUTE = ctypes.CFUNCTYPE(c_int, c_char_p, c_void_p, c_size_t, c_void_p)
_ABORT, _CHANGED = 2, 1

_library = ctypes.CDLL("libext2fs.so.2", use_errno=False)
_error_message = _library.error_message
_error_message.restype = c_char_p
_error_message.argtypes = [ctypes.c_long]
_library.initialize_ext2_error_table()
_MANAGER = c_void_p.in_dll(_library, "unixfd_io_manager")
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "open2": (c_char_p, c_char_p, c_int, c_int, ctypes.c_uint, c_void_p, c_void_p),
    "read_bitmaps": (c_void_p,),
    "close_free": (c_void_p,),
    "read_inode_full": (c_void_p, c_uint32, c_void_p, c_int),
    "write_inode_full": (c_void_p, c_uint32, c_void_p, c_int),
    "lookup": (c_void_p, c_uint32, c_char_p, c_int, c_void_p, c_void_p),
    "dir_iterate2": (c_void_p, c_uint32, c_int, c_void_p, _ON_ENTRY, c_void_p),
    "link": (c_void_p, c_uint32, c_char_p, c_uint32, c_int),
    "unlink": (c_void_p, c_uint32, c_char_p, c_uint32, c_int),
    "expand_dir": (c_void_p, c_uint32),
    "new_inode": (c_void_p, c_uint32, c_int, c_void_p, c_void_p),
    "inode_alloc_stats2": (c_void_p, c_uint32, c_int, c_int),
    "new_dir_block": (c_void_p, c_uint32, c_uint32, c_void_p),
    "write_dir_block4": (c_void_p, c_uint64, c_void_p, c_int, c_uint32),
    "free_mem": (c_void_p,),
    "bmap2": (c_void_p, c_uint32, c_void_p, c_void_p, c_int, c_uint64, c_void_p, c_void_p),
    "file_open": (c_void_p, c_uint32, c_int, c_void_p),
    "file_llseek": (c_void_p, c_uint64, c_int, c_void_p),
    "file_read": (c_void_p, c_void_p, ctypes.c_uint, c_void_p),
    "file_write": (c_void_p, c_char_p, ctypes.c_uint, c_void_p),
    "file_set_size2": (c_void_p, c_uint64),
    "file_close": (c_void_p,),
    "punch": (c_void_p, c_uint32, c_void_p, c_void_p, c_uint64, c_uint64),
    "free_ext_attr": (c_void_p, c_uint32, c_void_p),
    "xattrs_open": (c_void_p, c_uint32, c_void_p),
    "xattrs_flags": (c_void_p, c_void_p, c_void_p),
    "xattrs_read": (c_void_p,),
    "xattrs_iterate": (c_void_p, _ON_ATTRIBUTE, c_void_p),
    "xattr_set": (c_void_p, c_char_p, c_char_p, c_size_t),
    "xattr_remove": (c_void_p, c_char_p),
    "xattrs_close": (c_void_p,),
}
for _name, _arguments in _PROTOTYPES.items():
    _function = getattr(_library, f"ext2fs_{_name}")
    _function.restype = ctypes.c_int if _name == "inode_alloc_stats2" else ctypes.c_long
    _function.argtypes = _arguments
_library.ext2fs_free_blocks_count.restype = c_uint64
_library.ext2fs_free_blocks_count.argtypes = [c_void_p]
_library.ext2fs_bg_has_super.argtypes = [c_void_p, c_uint32]
_library.ext2fs_is_fast_symlink.argtypes = [c_void_p]
_library.ext2fs_inode_has_valid_blocks2.argtypes = [c_void_p, c_void_p]
_library.ext2fs_mark_super_dirty.argtypes = [c_void_p]


def _do(name: str, *arguments: Any, allowed: int = 0) -> int:  # noqa: ANN401
    """Call a function of libext2fs; an error other than the allowed one is not the guest's."""
    code = int(getattr(_library, f"ext2fs_{name}")(*arguments))
    if code not in (0, allowed):
        raise Unfit(f"libext2fs, {name}: {_error_message(code).decode(errors='replace')}")
    return code


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
        flags = _64_BITS | _ONE_SUPERBLOCK | (_RW if writable else 0)
        _do(
            "open2",
            str(descriptor).encode(),
            f"offset={offset}".encode(),
            flags,
            0,
            0,
            _MANAGER,
            byref(self._filesystem),
        )
        handle = ctypes.cast(self._filesystem, ctypes.POINTER(_Handle)).contents
        self._handle, self._super = handle, handle.superblock.contents
        self.now = 0
        self._seed, self._generations = seed[:64], 0
        self.block_size = int(handle.block_size)
        self._inode_size = int(self._super.inode_size) if self._super.rev_level else _INODE_BYTES
        _do("read_bitmaps", self._filesystem)

    def begin(self, now: int) -> None:
        """Set the time of the next request, in nanoseconds since 1970."""
        self.now = now
        self._handle.now = now // 1_000_000_000

    def close(self) -> None:
        """Write what is in memory, and close the filesystem."""
        filesystem, self._filesystem = self._filesystem, c_void_p()
        if filesystem:
            _do("close_free", byref(filesystem))

    # Space

    def free_blocks(self) -> int:
        """Return the number of free blocks."""
        return int(_library.ext2fs_free_blocks_count(self._handle.superblock))

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
        high = ctypes.cast(self._handle.superblock, ctypes.POINTER(c_uint32))[0x150 // 4]
        return int(self._super.blocks_count) | (int(high) << 32 if self._super.incompat & 0x80 else 0)

    def usage(self) -> tuple[int, int, int]:
        """Return the size of a block, the number of blocks for files, and the number of free blocks."""
        blocks, overhead = self._blocks(), int(self._super.overhead_clusters)
        if not 0 < overhead <= blocks:
            overhead = self._overhead()
        return self.block_size, blocks - overhead, self.free_blocks()

    def _overhead(self) -> int:
        """Count the blocks of metadata, as the kernel does where the superblock has no number."""
        with_super = sum(
            bool(_library.ext2fs_bg_has_super(self._filesystem, group)) for group in range(self._handle.groups)
        )
        each = self._handle.inode_blocks_per_group + 2
        tables = 1 + self._handle.descriptor_blocks + self._super.reserved_gdt_blocks
        journal = self._super.journal_inode
        size = self.load(journal).size // self.block_size if journal else 0
        return int(
            self._super.first_data_block + self._handle.groups * each + with_super * tables + size
        )

    # Inodes

    def load(self, number: int) -> Inode:
        """Read an inode."""
        buffer = ctypes.create_string_buffer(max(self._inode_size, ctypes.sizeof(Inode)))
        _do("read_inode_full", self._filesystem, number, buffer, self._inode_size)
        inode = Inode.from_buffer(buffer)
        if inode.flags & ~(_EXTENTS | _INDEX):
            raise Unfit(f"inode {number} has the flags {inode.flags:#x}")
        if inode.links == 0 or inode.dtime:
            raise Unfit(f"inode {number} is not in use")
        if self._inode_size == _INODE_BYTES:
            inode.extra_isize = 0
        elif inode.extra_isize > self._inode_size - _INODE_BYTES:
            raise Unfit(f"inode {number} is damaged")
        return inode

    def save(self, number: int, inode: Inode) -> None:
        """Write an inode that ``load`` returned; nothing else may have changed it since."""
        _do("write_inode_full", self._filesystem, number, byref(inode), self._inode_size)

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
        _do("new_inode", self._filesystem, folder, mode, None, byref(found))
        number, is_folder = found.value, stat.S_ISDIR(mode)
        buffer = ctypes.create_string_buffer(max(self._inode_size, ctypes.sizeof(Inode)))
        inode = Inode.from_buffer(buffer)
        if self._inode_size > _INODE_BYTES:
            inode.extra_isize = min(self._super.want_extra_isize or 32, self._inode_size - _INODE_BYTES)
        inode.mode, inode.links = mode, 2 if is_folder else 1
        inode.own(uid, gid)
        # It is part of the checksums of a folder's blocks, so it must never change.
        inode.generation = self._generation()
        inode.stamp("atime ctime mtime crtime" if inode.extra_isize >= 24 else "atime ctime mtime", self.now)
        has_blocks = stat.S_ISREG(mode) or is_folder
        if has_blocks and self._super.incompat & _HAS_EXTENTS:
            inode.flags = _EXTENTS
            # The head of an empty list of extents, with room for four.
            inode.block[0], inode.block[1] = 0xF30A, 4
        if device:
            major, minor = os.major(device), os.minor(device)
            if major < 256 and minor < 256:
                inode.block[0] = major << 8 | minor
            else:
                inode.block[1] = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
        self.save(number, inode)
        _do_void("inode_alloc_stats2", self._filesystem, number, 1, int(is_folder))
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
        _do("bmap2", self._filesystem, number, byref(inode), None, _ALLOCATE, 0, None, byref(place))
        inode = self.load(number)
        inode.size_low = self.block_size
        self.save(number, inode)
        _do("new_dir_block", self._filesystem, number, parent, byref(block))
        try:
            _do("write_dir_block4", self._filesystem, place.value, block, 0, number)
        finally:
            _do("free_mem", byref(block))

    def release(self, number: int, inode: Inode) -> None:
        """Free an inode without names, its blocks and its attributes."""
        inode.links = 0
        inode.dtime = max(1, self.now // 1_000_000_000) & 0xFFFFFFFF
        self.save(number, inode)
        if inode.file_acl:
            _do("free_ext_attr", self._filesystem, number, byref(inode))
        if _library.ext2fs_inode_has_valid_blocks2(self._filesystem, byref(inode)):
            _do("punch", self._filesystem, number, byref(inode), None, 0, (1 << 64) - 1)
        _do_void("inode_alloc_stats2", self._filesystem, number, -1, int(inode.is_folder))

    # Folders

    def lookup(self, folder: int, name: bytes) -> int | None:
        """Return the inode of a name in a folder; None if there is none."""
        found = c_uint32()
        code = _do(
            "lookup", self._filesystem, folder, name, len(name), None, byref(found), allowed=_NOT_FOUND
        )
        return None if code else found.value

    def entries(self, folder: int) -> list[Entry]:
        """Return the entries of a folder, without ``.`` and ``..``."""
        found: list[Entry] = []
        _Visitor.visit = lambda entry: _keep(found, entry)
        _do("dir_iterate2", self._filesystem, folder, 0, None, _on_entry, None)
        return found

    def set_parent(self, folder: int, parent: int) -> None:
        """Let ``..`` of a folder mean another folder."""

        def change(entry: Any) -> int:  # noqa: ANN401 - a pointer of ctypes
            if _name_of(entry) != b"..":
                return 0
            entry.contents.inode = parent
            return _CHANGED | _ABORT

        _Visitor.visit = change
        _do("dir_iterate2", self._filesystem, folder, 0, None, _on_entry, None)

    def link(self, folder: int, name: bytes, number: int, mode: int) -> None:
        """Add a name to a folder; it must not have one of that name."""
        self._check_growable(folder)
        kind = _FILE_TYPES[stat.S_IFMT(mode)]
        # At most: one for the name, one for each level of the index.
        for _ in range(4):
            if not _do(
                "link", self._filesystem, folder, name, number, kind, allowed=_NO_SPACE_IN_FOLDER
            ):
                break
            _do("expand_dir", self._filesystem, folder)
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
        _do("unlink", self._filesystem, folder, name, 0, 0)
        self.stamp(folder, "mtime ctime")

    # Content

    def read(self, number: int, start: int, size: int) -> bytes:
        """Read part of a file."""
        buffer, got = ctypes.create_string_buffer(size), ctypes.c_uint()
        file = self._open(number, 0)
        try:
            _do("file_llseek", file, start, 0, None)
            _do("file_read", file, buffer, size, byref(got))
        finally:
            _do("file_close", file)
        return buffer.raw[: got.value]

    def write(self, number: int, start: int, content: bytes) -> None:
        """Write part of a file, which grows if necessary; the times stay."""
        if start + len(content) > 1 << 43:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self.require(len(content) // self.block_size + 2)
        file, written = self._open(number, _WRITE), ctypes.c_uint()
        try:
            _do("file_llseek", file, start, 0, None)
            _do("file_write", file, content, len(content), byref(written))
        finally:
            _do("file_close", file)
        if written.value != len(content):
            raise Unfit("libext2fs wrote only a part")

    def set_size(self, number: int, size: int) -> None:
        """Cut a file, or extend it with a hole; the times stay."""
        file = self._open(number, _WRITE)
        try:
            _do("file_set_size2", file, size)
        finally:
            _do("file_close", file)

    def is_hole(self, number: int, block: int) -> bool:
        """Return whether a block of a file is not on the disk."""
        place = c_uint64()
        _do("bmap2", self._filesystem, number, None, None, 0, block, None, byref(place))
        return place.value == 0

    def target(self, number: int, inode: Inode) -> bytes:
        """Return the target of a symbolic link."""
        size = inode.size
        if not 0 < size <= self.block_size:
            raise Unfit(f"inode {number} is a link of {size} bytes")
        if _library.ext2fs_is_fast_symlink(byref(inode)):
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
            inode.block[0], inode.block[1] = 0xF30A, 4
            self.save(number, inode)
        self.write(number, 0, target)

    def _open(self, number: int, flags: int) -> c_void_p:
        file = c_void_p()
        _do("file_open", self._filesystem, number, flags, byref(file))
        return file

    # Extended attributes

    def attributes(self, number: int) -> dict[bytes, bytes]:
        """Return a file's extended attributes, in the form of the disk."""
        found: dict[bytes, bytes] = {}
        _Visitor.attributes = found
        handle = self._attributes(number)
        try:
            _do("xattrs_iterate", handle, _on_attribute, None)
        finally:
            _do("xattrs_close", byref(handle))
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
                    _do("xattr_remove", handle, name)
                else:
                    _do("xattr_set", handle, name, value, len(value))
        finally:
            _do("xattrs_close", byref(handle))
        self.stamp(number, "ctime")

    def _attributes(self, number: int) -> c_void_p:
        handle = c_void_p()
        _do("xattrs_open", self._filesystem, number, byref(handle))
        try:
            _do("xattrs_flags", handle, byref(_RAW), None)
            _do("xattrs_read", handle)
        except BaseException:
            _do("xattrs_close", byref(handle))
            raise
        return handle


def _do_void(name: str, *arguments: Any) -> None:  # noqa: ANN401
    getattr(_library, f"ext2fs_{name}")(*arguments)


class _Visitor:
    """What the callbacks do; a callback needs executable memory, so there is one of each, made at the start."""

    visit: Any = None
    attributes: dict[bytes, bytes] = {}  # noqa: RUF012


def _name_of(entry: Any) -> bytes:  # noqa: ANN401 - a pointer of ctypes
    address = ctypes.addressof(entry.contents) + ctypes.sizeof(_Dirent)
    return ctypes.string_at(address, entry.contents.name_length)


def _keep(found: list[Entry], entry: Any) -> int:  # noqa: ANN401 - a pointer of ctypes
    name = _name_of(entry)
    if name not in (b".", b".."):
        found.append(Entry(name, int(entry.contents.inode), int(entry.contents.kind)))
    return 0


@_ON_ENTRY
def _on_entry(_folder: int, _place: int, entry: Any, _offset: int, _size: int, _block: Any, _data: Any) -> int:  # noqa: ANN401
    return int(_Visitor.visit(entry))


@_ON_ATTRIBUTE
def _on_attribute(name: bytes, value: int | None, size: int, _data: Any) -> int:  # noqa: ANN401
    if size > _LARGEST_ATTRIBUTE:
        return _ABORT
    _Visitor.attributes[name] = ctypes.string_at(value, size) if value else b""
    return 0
