"""Reads all files of an ext2/3/4 filesystem in an image, to compare two of them."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.appliance.hostside.ext2 import ROOT, Ext2
from imgbuilder.appliance.hostside.libext2fs import Inode

_PIECE = 1 << 20


@dataclass(frozen=True)
class FileFacts:
    """All of a file that a user could see, but for its times.

    Attributes:
        mode: Type and permissions, as ls(1) prints them.
        uid: The owner.
        gid: The group.
        size: Bytes; 0 for a folder, whose size depends on its history.
        links: Number of its names.
        names: The first path of the same file, by which hard links are known.
        attributes: Extended attributes, ACLs and capabilities, as they are on the disk.
        content: Digest of the content, target of a link, or number of a device.
        holes: Number of blocks that are not on the disk.
    """

    mode: str
    uid: int
    gid: int
    size: int
    links: int
    names: str
    attributes: tuple[tuple[bytes, bytes], ...]
    content: str
    holes: int


def read_tree(image: Path, offset: int = 0) -> dict[str, FileFacts]:
    """Return the facts of each path."""
    return {path: facts for path, (facts, _) in _read(image, offset).items()}


def read_times(image: Path, offset: int = 0) -> dict[str, int]:
    """Return the time of the last change of the content of each path, in nanoseconds since 1970."""
    return {path: inode.time("mtime") for path, (_, inode) in _read(image, offset).items()}


def _read(image: Path, offset: int) -> dict[str, tuple[FileFacts, Inode]]:
    descriptor = os.open(image, os.O_RDONLY)
    found: dict[str, tuple[FileFacts, Inode]] = {}
    first: dict[int, str] = {}
    try:
        filesystem = Ext2(descriptor, offset, writable=False)
        waiting = [("/", ROOT)]
        while waiting:
            path, number = waiting.pop()
            inode = filesystem.load(number)
            first.setdefault(number, path)
            found[path] = _facts(filesystem, number, inode, first[number]), inode
            if inode.is_folder:
                for entry in sorted(filesystem.entries(number), reverse=True):
                    name = entry.name.decode(errors="surrogateescape")
                    waiting.append((f"{path.rstrip('/')}/{name}", entry.inode))
        filesystem.close()
    finally:
        os.close(descriptor)
    return found


def _facts(filesystem: Ext2, number: int, inode: Inode, name: str) -> FileFacts:
    content, holes = "", 0
    if inode.is_file:
        digest = hashlib.sha256()
        for start in range(0, inode.size, _PIECE):
            digest.update(filesystem.read(number, start, min(_PIECE, inode.size - start)))
        content = digest.hexdigest()
        blocks = -(-inode.size // filesystem.block_size)
        holes = sum(filesystem.is_hole(number, block) for block in range(blocks))
    elif inode.is_link:
        content = filesystem.target(number, inode).decode(errors="surrogateescape")
    elif stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        content = f"{inode.block[0]:x} {inode.block[1]:x}"
    return FileFacts(
        mode=stat.filemode(inode.mode),
        uid=inode.uid,
        gid=inode.gid,
        size=0 if inode.is_folder else inode.size,
        links=inode.links,
        names=name,
        attributes=tuple(sorted(filesystem.attributes(number).items())),
        content=content,
        holes=holes,
    )
