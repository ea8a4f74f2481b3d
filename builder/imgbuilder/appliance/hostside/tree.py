"""Paths in the guest: links followed inside it, files made, renamed, copied and removed as the kernel does.

An error that the kernel would report is an ``OSError`` with the path; what is not certain is ``Unfit``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from imgbuilder.appliance.hostside.ext2 import ROOT, Ext2
from imgbuilder.appliance.hostside.libext2fs import FOLDER, Entry, Inode, Unfit

_MOST_LINKS_FOLLOWED = 40
_LONGEST_NAME = 255
_LONGEST_PATH = 4096
_MOST_NAMES = 64000
"""Names of a file, or folders in a folder; where a folder may have more, the kernel stops counting."""
_ACL = b"system.posix_acl_access"
DEFAULT_ACL = b"system.posix_acl_default"
_CAPABILITY = b"security.capability"


class Place(NamedTuple):
    """The end of a path.

    Attributes:
        path: The path without links.
        folder: Inode of the folder that holds it; the root is its own.
        name: The name in the folder; empty for the root.
        inode: The inode; None if there is no such file.
    """

    path: bytes
    folder: int
    name: bytes
    inode: int | None


def failure(number: int, path: bytes) -> OSError:
    """Return an error about a path."""
    return OSError(number, os.strerror(number), os.fsdecode(path))


class Tree:
    """The files of a mounted filesystem."""

    def __init__(self, filesystem: Ext2) -> None:
        self.ext2 = filesystem
        self._mount_points: set[int] = set()

    def cover(self, path: bytes) -> None:
        """Refuse all paths that lead to a folder from now on: another filesystem is mounted there."""
        inode, number = self.load(path)
        if not inode.is_folder:
            raise failure(errno.ENOTDIR, path)
        self._mount_points.add(number)

    # Looking up

    def find(self, path: bytes, *, follow: bool = True) -> Place:
        """Return the place of a path; the last part need not exist.

        Args:
            path: An absolute path.
            follow: Whether to follow a link in its last part.
        """
        if len(path) >= _LONGEST_PATH:
            raise failure(errno.ENAMETOOLONG, path)
        trail = [(b"", ROOT)]
        rest = list(reversed(path.split(b"/")))
        links = 0
        while rest:
            name = rest.pop()
            folder = trail[-1][1]
            if not self.ext2.load(folder).is_folder:
                raise failure(errno.ENOTDIR, path)
            if name in (b"", b"."):
                continue
            if name == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            if len(name) > _LONGEST_NAME:
                raise failure(errno.ENAMETOOLONG, path)
            number = self.ext2.lookup(folder, name)
            is_last = not any(rest)
            if number is None:
                if not is_last:
                    raise failure(errno.ENOENT, path)
                return Place(_joined(trail, name), folder, name, None)
            inode = self.ext2.load(number)
            if inode.is_link and (follow or rest):
                links += 1
                if links > _MOST_LINKS_FOLLOWED:
                    raise failure(errno.ELOOP, path)
                target = self.ext2.target(number, inode)
                if target.startswith(b"/"):
                    trail = trail[:1]
                rest.extend(reversed(target.split(b"/")))
                continue
            self._refuse_mount_point(number)
            trail.append((name, number))
        name, number = trail[-1]
        return Place(_joined(trail[:-1], name), trail[-2][1] if len(trail) > 1 else ROOT, name, number)

    def load_entry(self, entry: Entry) -> Inode:
        """Return the inode of an entry."""
        self._refuse_mount_point(entry.inode)
        return self.ext2.load(entry.inode)

    def _refuse_mount_point(self, number: int) -> None:
        if number in self._mount_points:
            raise Unfit("the path leads to another filesystem")

    def existing(self, path: bytes, *, follow: bool = True) -> tuple[Place, int]:
        """Return the place and the inode of a path that must exist."""
        place = self.find(path, follow=follow)
        if place.inode is None:
            raise failure(errno.ENOENT, path)
        return place, place.inode

    def load(self, path: bytes, *, follow: bool = True) -> tuple[Inode, int]:
        """Return the inode and its number of a path that must exist."""
        number = self.existing(path, follow=follow)[1]
        return self.ext2.load(number), number

    def entries(self, path: bytes) -> list[Entry]:
        """Return the entries of a folder."""
        inode, number = self.load(path)
        if not inode.is_folder:
            raise failure(errno.ENOTDIR, path)
        return self.ext2.entries(number)

    def walk(self, folder: int, prefix: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        """Yield the paths and entries below a folder, each folder before its content."""
        seen = {folder}
        waiting = [(prefix, folder)]
        while waiting:
            path, number = waiting.pop()
            for entry in self.ext2.entries(number):
                inner = path + b"/" + entry.name
                yield inner, entry
                if entry.kind in (0, FOLDER) and self.ext2.load(entry.inode).is_folder:
                    self._refuse_mount_point(entry.inode)
                    if entry.inode in seen:
                        raise Unfit("folders form a loop")
                    seen.add(entry.inode)
                    waiting.append((inner, entry.inode))

    # Making

    def make(self, place: Place, mode: int, *, device: int = 0) -> int:
        """Make a file, which belongs to root, at a place where there is none; return its inode.

        A folder that hands down its group or an ACL does so.
        """
        folder = self.ext2.load(place.folder)
        if folder.links >= _MOST_NAMES or folder.links < 2:
            raise Unfit("a folder has too many folders")
        if DEFAULT_ACL in self.ext2.attributes(place.folder):
            raise Unfit("a folder has a default ACL")
        gid = 0
        if folder.mode & stat.S_ISGID:
            gid = folder.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        self.ext2.require(32, 1)  # the inode and its name, or neither
        number = self.ext2.new(place.folder, mode, 0, gid, device=device)
        self.ext2.link(place.folder, place.name, number, mode)
        if stat.S_ISDIR(mode):
            self.ext2.add_links(place.folder, 1)
        return number

    def make_link(self, place: Place, target: bytes) -> int:
        """Make a symbolic link at a place where there is nothing."""
        if len(target) >= min(_LONGEST_PATH, self.ext2.block_size):
            raise failure(errno.ENAMETOOLONG, place.path)
        number = self.make(place, stat.S_IFLNK | 0o777)
        self.ext2.set_target(number, target)
        return number

    def make_hard_link(self, place: Place, number: int) -> None:
        """Give a file another name, at a place where there is nothing."""
        inode = self.ext2.load(number)
        if inode.is_folder:
            raise failure(errno.EPERM, place.path)
        if inode.links >= _MOST_NAMES:
            raise Unfit("a file has too many names")
        self.ext2.link(place.folder, place.name, number, inode.mode)
        self.ext2.add_links(number, 1)

    def open_file(self, path: bytes) -> int:
        """Return the inode of a regular file for writing, which is made if there is none."""
        place = self.find(path)
        if place.inode is None:
            if path.endswith(b"/"):
                raise failure(errno.EISDIR, path)
            return self.make(place, stat.S_IFREG | 0o644)
        inode = self.ext2.load(place.inode)
        if inode.is_folder:
            raise failure(errno.EISDIR, path)
        if not inode.is_file:
            raise Unfit("not a regular file")
        return place.inode

    def written(self, number: int) -> None:
        """Do what the kernel does with a file that was written: new times, no capabilities."""
        if _CAPABILITY in self.ext2.attributes(number):
            self.ext2.change_attributes(number, {_CAPABILITY: None})
        self.ext2.stamp(number, "mtime ctime")

    def change_mode(self, number: int, mode: int) -> None:
        """Set the permissions of a file."""
        inode = self.ext2.load(number)
        # The kernel would change the ACL as well.
        if (inode.mode ^ mode) & 0o777 and _ACL in self.ext2.attributes(number):
            raise Unfit("the file has an ACL")
        inode.mode = stat.S_IFMT(inode.mode) | mode & 0o7777
        inode.stamp("ctime", self.ext2.now)
        self.ext2.save(number, inode)

    def change_owner(self, number: int, uid: int, gid: int) -> None:
        """Set the owner and group of a file, and clear the rights that it gave its users."""
        inode = self.ext2.load(number)
        if not inode.is_folder:
            inode.mode &= ~stat.S_ISUID
            if inode.mode & stat.S_IXGRP:
                inode.mode &= ~stat.S_ISGID
        inode.own(uid, gid)
        inode.stamp("ctime", self.ext2.now)
        self.ext2.save(number, inode)
        if not inode.is_folder and _CAPABILITY in self.ext2.attributes(number):
            self.ext2.change_attributes(number, {_CAPABILITY: None})

    def copy_attributes(self, source: int, target: int) -> None:
        """Give a file the permissions, owner and extended attributes of another."""
        original, values = self.ext2.load(source), self.ext2.attributes(source)
        if DEFAULT_ACL in values:
            raise Unfit("a folder has a default ACL")
        inode = self.ext2.load(target)
        inode.mode = stat.S_IFMT(inode.mode) | original.mode & 0o7777
        self.ext2.save(target, inode)
        self.change_owner(target, original.uid, original.gid)
        if values:
            self.ext2.change_attributes(target, dict(values))

    # Removing and renaming

    def unlink(self, place: Place, number: int) -> None:
        """Remove a name that is not a folder's, and the file with its last name."""
        self.ext2.unlink(place.folder, place.name)
        self._drop(number)

    def _drop(self, number: int) -> None:
        inode = self.ext2.load(number)
        if inode.links > 1:
            self.ext2.add_links(number, -1)
        else:
            self.ext2.release(number, inode)

    def remove_folder(self, place: Place, number: int) -> None:
        """Remove an empty folder."""
        if self.ext2.entries(number):
            raise failure(errno.ENOTEMPTY, place.path)
        self.ext2.unlink(place.folder, place.name)
        self.ext2.add_links(place.folder, -1)
        self.ext2.release(number, self.ext2.load(number))

    def remove(self, place: Place, number: int) -> None:
        """Remove a file or a tree."""
        if not self.ext2.load(number).is_folder:
            self.unlink(place, number)
            return
        self._refuse_mount_point(number)
        found = list(self.walk(number, place.path))
        folders = {place.path: number} | {path: entry.inode for path, entry in found}
        for path, entry in reversed(found):
            inner = Place(path, folders[path.rpartition(b"/")[0]], entry.name, entry.inode)
            if self.ext2.load(entry.inode).is_folder:
                self.remove_folder(inner, entry.inode)
            else:
                self.unlink(inner, entry.inode)
        self.remove_folder(place, number)

    def rename(self, old: bytes, new: bytes) -> None:
        """Move a file or folder as the kernel does."""
        source, number = self.existing(old, follow=False)
        target = self.find(new, follow=False)
        moved = self.ext2.load(number)
        if not source.name or not target.name:
            raise failure(errno.EBUSY, old)
        if target.inode == number:
            return
        if moved.is_folder and (target.path + b"/").startswith(source.path + b"/"):
            raise failure(errno.EINVAL, old)
        if target.inode is not None:
            replaced = self.ext2.load(target.inode)
            if replaced.is_folder and not moved.is_folder:
                raise failure(errno.EISDIR, old)
            if moved.is_folder and not replaced.is_folder:
                raise failure(errno.ENOTDIR, old)
            if replaced.is_folder:
                self.remove_folder(target, target.inode)
            else:
                self.unlink(target, target.inode)
        elif moved.is_folder and source.folder != target.folder:
            parent = self.ext2.load(target.folder)
            if parent.links >= _MOST_NAMES or parent.links < 2:
                raise Unfit("a folder has too many folders")
        self.ext2.require(32)
        self.ext2.link(target.folder, target.name, number, moved.mode)
        self.ext2.unlink(source.folder, source.name)
        if moved.is_folder and source.folder != target.folder:
            self.ext2.set_parent(number, target.folder)
            self.ext2.add_links(source.folder, -1)
            self.ext2.add_links(target.folder, 1)
        self.ext2.stamp(number, "ctime")


def _joined(trail: list[tuple[bytes, int]], name: bytes) -> bytes:
    return b"/".join([*(part for part, _ in trail), name]) or b"/"
