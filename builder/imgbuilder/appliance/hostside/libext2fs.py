"""libext2fs by ctypes: its structures, and the functions that are used.

The callbacks are made when the module is loaded, because they need executable memory, which a confined
process cannot get. They belong to one call at a time.
"""

from __future__ import annotations

import ctypes
import stat
from collections.abc import Callable
from ctypes import (
    POINTER,
    c_char,
    c_char_p,
    c_int,
    c_long,
    c_size_t,
    c_uint,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any, NamedTuple

RW, ONE_SUPERBLOCK, SIXTY_FOUR_BITS = 0x1, 0x200, 0x20000
"""Flags of ``open2``: writable, leave the backups of the superblock, more than 2^32 blocks."""
ALLOCATE = 0x1
"""Flag of ``bmap2``."""
WRITE = 0x1
"""Flag of ``file_open``."""
RAW = c_uint(1)
"""Flag of ``xattrs_flags``: values as they are on the disk."""
NO_SPACE_IN_FOLDER = 2133571366
NOT_FOUND = 2133571404
FOLDER = 2
"""Type of a folder in an entry."""
ABORT, CHANGED = 2, 1
"""Answers of callbacks."""
INODE_BYTES = 128
"""Bytes of an inode in the oldest filesystems; what is behind them may be missing."""
_LARGEST_ATTRIBUTE = 65536


class Unfit(Exception):  # noqa: N818 - not an error of the guest
    """The request cannot be done here exactly as the kernel would do it: an appliance must do it."""


class Superblock(ctypes.Structure):
    """The part of the superblock that is used."""

    _fields_ = (
        ("inodes_count", c_uint32), ("blocks_low", c_uint32), ("reserved_blocks", c_uint32),
        ("free_blocks", c_uint32), ("free_inodes", c_uint32), ("first_data_block", c_uint32),
        ("_sizes", c_uint32 * 7), ("_counts", c_uint16 * 2), ("magic", c_uint16),
        ("_state", c_uint16 * 3),
        ("_checks", c_uint32 * 3), ("revision", c_uint32), ("_owner", c_uint32), ("first_inode", c_uint32),
        ("inode_size", c_uint16), ("_group", c_uint16), ("compat", c_uint32), ("incompat", c_uint32),
        ("ro_compat", c_uint32), ("_names", c_char * (0xCE - 0x68)), ("reserved_gdt_blocks", c_uint16),
        ("_journal_uuid", c_char * 16), ("journal_inode", c_uint32), ("_hashes", c_char * (0x150 - 0xE4)),
        ("blocks_high", c_uint32), ("_free", c_uint32 * 2), ("_min_extra_isize", c_uint16),
        ("want_extra_isize", c_uint16), ("_middle", c_char * (0x248 - 0x160)),
        ("overhead_clusters", c_uint32),
    )  # fmt: skip


class Handle(ctypes.Structure):
    """The start of ``struct_ext2_filsys``; it has been the same since libext2fs 1.42."""

    _fields_ = (
        ("magic", c_long), ("io", c_void_p), ("flags", c_int), ("device_name", c_char_p),
        ("superblock", POINTER(Superblock)), ("block_size", c_uint), ("fragment_size", c_int),
        ("groups", c_uint32), ("descriptor_blocks", ctypes.c_ulong), ("group_descriptors", c_void_p),
        ("inode_blocks_per_group", c_uint), ("_maps", c_void_p * 2), ("_calls", c_void_p * 5),
        ("_lists", c_void_p * 2), ("_stride", c_uint32), ("_originals", c_void_p * 2), ("umask", c_uint32),
        ("now", c_long),
    )  # fmt: skip


class Inode(ctypes.Structure):
    """One inode as it is on the disk; see ``Ext2.load`` and ``Ext2.save``."""

    _fields_ = (
        ("mode", c_uint16), ("uid_low", c_uint16), ("size_low", c_uint32), ("atime", c_uint32),
        ("ctime", c_uint32), ("mtime", c_uint32), ("dtime", c_uint32), ("gid_low", c_uint16),
        ("links", c_uint16), ("blocks", c_uint32), ("flags", c_uint32), ("version", c_uint32),
        ("block", c_uint32 * 15), ("generation", c_uint32), ("file_acl", c_uint32), ("size_high", c_uint32),
        ("_fragment", c_uint32), ("_high", c_uint16 * 2), ("uid_high", c_uint16), ("gid_high", c_uint16),
        ("_checksum_low", c_uint16), ("_reserved", c_uint16), ("extra_isize", c_uint16),
        ("_checksum_high", c_uint16), ("ctime_extra", c_uint32), ("mtime_extra", c_uint32),
        ("atime_extra", c_uint32), ("crtime", c_uint32), ("crtime_extra", c_uint32),
        ("_version_high", c_uint32), ("_project", c_uint32),
    )  # fmt: skip

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
        return int(self.size_low | (self.size_high << 32 if self.is_file else 0))

    @property
    def is_folder(self) -> bool:
        """True for a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """True for a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        """True for a regular file."""
        return stat.S_ISREG(self.mode)

    def has(self, field: str) -> bool:
        """Return whether the inode is long enough for a field."""
        return bool(getattr(Inode, field).offset + 4 <= INODE_BYTES + self.extra_isize)

    def stamp(self, names: str, now: int) -> None:
        """Set times.

        Args:
            names: Their names, such as ``"mtime ctime"``.
            now: Nanoseconds since 1970.
        """
        seconds, nanoseconds = divmod(now, 1_000_000_000)
        low = seconds & 0xFFFFFFFF
        for name in names.split():
            setattr(self, name, low)
            if self.has(f"{name}_extra"):
                # Two bits extend the seconds beyond 2038, the others are the nanoseconds.
                epoch = (seconds - _signed(low)) >> 32 & 3
                setattr(self, f"{name}_extra", nanoseconds << 2 | epoch)

    def time(self, name: str) -> int:
        """Return a time in nanoseconds since 1970."""
        extra = int(getattr(self, f"{name}_extra")) if self.has(f"{name}_extra") else 0
        seconds = _signed(getattr(self, name)) + ((extra & 3) << 32)
        return seconds * 1_000_000_000 + (extra >> 2)


def _signed(low: int) -> int:
    return low - (1 << 32) if low >> 31 else low


class Entry(NamedTuple):
    """An entry of a folder: the name, the inode, and the file type, which is 0 in old filesystems."""

    name: bytes
    inode: int
    kind: int


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("inode", c_uint32),
        ("length", c_uint16),
        ("name_length", ctypes.c_uint8),
        ("kind", ctypes.c_uint8),
    )


_ON_ENTRY = ctypes.CFUNCTYPE(c_int, c_uint32, c_int, POINTER(_Dirent), c_int, c_int, c_void_p, c_void_p)
_ON_ATTRIBUTE = ctypes.CFUNCTYPE(c_int, c_char_p, c_void_p, c_size_t, c_void_p)

_library = ctypes.CDLL("libext2fs.so.2")
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "open2": (c_char_p, c_char_p, c_int, c_int, c_uint, c_void_p, c_void_p),
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
    "new_dir_block": (c_void_p, c_uint32, c_uint32, c_void_p),
    "write_dir_block4": (c_void_p, c_uint64, c_void_p, c_int, c_uint32),
    "free_mem": (c_void_p,),
    "bmap2": (c_void_p, c_uint32, c_void_p, c_void_p, c_int, c_uint64, c_void_p, c_void_p),
    "file_open": (c_void_p, c_uint32, c_int, c_void_p),
    "file_llseek": (c_void_p, c_uint64, c_int, c_void_p),
    "file_read": (c_void_p, c_void_p, c_uint, c_void_p),
    "file_write": (c_void_p, c_char_p, c_uint, c_void_p),
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
"""The functions that return an error code."""
for _name, _arguments in _PROTOTYPES.items():
    _function = getattr(_library, f"ext2fs_{_name}")
    _function.restype, _function.argtypes = c_long, _arguments

free_blocks_count = _library.ext2fs_free_blocks_count
free_blocks_count.restype, free_blocks_count.argtypes = c_uint64, (c_void_p,)
has_super = _library.ext2fs_bg_has_super
has_super.argtypes = (c_void_p, c_uint32)
is_fast_symlink = _library.ext2fs_is_fast_symlink
is_fast_symlink.argtypes = (c_void_p,)
has_blocks = _library.ext2fs_inode_has_valid_blocks2
has_blocks.argtypes = (c_void_p, c_void_p)
count_inode = _library.ext2fs_inode_alloc_stats2
count_inode.restype, count_inode.argtypes = None, (c_void_p, c_uint32, c_int, c_int)
MANAGER = c_void_p.in_dll(_library, "unixfd_io_manager")
"""Uses an open descriptor instead of a path."""
_error_message = _library.error_message
_error_message.restype, _error_message.argtypes = c_char_p, (c_long,)
_library.initialize_ext2_error_table()


def do(name: str, *arguments: Any, allowed: int = 0) -> int:
    """Call a function of libext2fs; return 0 or the allowed error."""
    code = int(getattr(_library, f"ext2fs_{name}")(*arguments))
    if code not in (0, allowed):
        raise Unfit(f"libext2fs, {name}: {_error_message(code).decode(errors='replace')}")
    return code


class _Current:
    """The present work of the callbacks."""

    visit: Callable[[bytes, Any], int] = staticmethod(lambda _name, _entry: ABORT)
    attributes: dict[bytes, bytes] | None = None


def _visit(_folder: int, _place: int, entry: Any, *_unused: object) -> int:  # noqa: ANN401 - a pointer
    address = ctypes.addressof(entry.contents) + ctypes.sizeof(_Dirent)
    return _Current.visit(ctypes.string_at(address, entry.contents.name_length), entry.contents)


def _collect(name: bytes, value: int | None, size: int, _unused: object) -> int:
    if size > _LARGEST_ATTRIBUTE or _Current.attributes is None:
        return ABORT
    _Current.attributes[name] = ctypes.string_at(value, size) if value else b""
    return 0


_on_entry = _ON_ENTRY(_visit)
_on_attribute = _ON_ATTRIBUTE(_collect)


def each_entry(filesystem: c_void_p, folder: int, visit: Callable[[bytes, Any], int]) -> None:
    """Call a function with the name and the structure of each entry of a folder; it returns flags."""
    _Current.visit = visit
    do("dir_iterate2", filesystem, folder, 0, None, _on_entry, None)


def all_attributes(handle: c_void_p) -> dict[bytes, bytes]:
    """Return the attributes of an open handle."""
    found = _Current.attributes = {}
    do("xattrs_iterate", handle, _on_attribute, None)
    return found
