"""libguestfs's requests about files, by their names, on an ext2/3/4 filesystem.

Their errors are those of the guest's kernel. What the kernel would do in a way that is not certain here
raises ``Unfit``.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat

from imgbuilder.appliance.hostside.copying import Copier
from imgbuilder.appliance.hostside.ext2 import Ext2
from imgbuilder.appliance.hostside.libext2fs import Inode, Unfit
from imgbuilder.appliance.hostside.tree import Place, Tree, failure

_MOST_NAMES = 4 << 20
"""Bytes of names in one answer, as for libguestfs's lists in files."""
_MEMBERS = {
    "file": stat.S_IFREG,
    "character device": stat.S_IFCHR,
    "block device": stat.S_IFBLK,
    "pipe": stat.S_IFIFO,
}
"""Types of an archive's members."""


def _path(text: str) -> bytes:
    if not text.startswith("/"):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), text)
    return _bytes(text)


def _bytes(text: str) -> bytes:
    if "\0" in text:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), text)
    return text.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise Unfit("a name is not UTF-8") from error


class Requests:
    """The requests; each public method is one.

    Args:
        descriptor: The image.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._open_filesystem: Ext2 | None = None
        self._open_tree: Tree | None = None

    def begin(self, now: int) -> None:
        """Set the time of the next request."""
        if self._open_filesystem is not None:
            self._open_filesystem.begin(now)

    @property
    def _ext2(self) -> Ext2:
        if self._open_filesystem is None:
            raise Unfit("nothing is mounted")
        return self._open_filesystem

    @property
    def _tree(self) -> Tree:
        if self._open_tree is None:
            raise Unfit("nothing is mounted")
        return self._open_tree

    # Filesystems

    def open(self, offset: int, seed: bytes, *, writable: bool) -> None:
        """Open the filesystem at a byte of the image."""
        self.close()
        self._open_filesystem = Ext2(self._descriptor, offset, seed, writable=writable)
        self._open_tree = Tree(self._open_filesystem)

    def close(self) -> None:
        """Write everything and close the filesystem."""
        filesystem, self._open_filesystem, self._open_tree = self._open_filesystem, None, None
        if filesystem is not None:
            filesystem.close()

    def cover(self, path: str) -> None:
        """Refuse paths to a folder on which another filesystem is mounted."""
        self._tree.cover(_path(path))

    def usage(self, offset: int | None = None) -> list[int]:
        """Return the block size, blocks and free blocks of a filesystem; of the open one by default."""
        if offset is None:
            return list(self._ext2.usage())
        other = Ext2(self._descriptor, offset, writable=False)
        try:
            return list(other.usage())
        finally:
            other.close()

    # Reading

    def statns(self, path: str) -> dict[str, int]:
        """Return the facts about a file."""
        return _facts(*self._tree.load(_path(path)))

    def lstatns(self, path: str) -> dict[str, int]:
        """Return the facts about a file; of a link itself."""
        return _facts(*self._tree.load(_path(path), follow=False))

    def lstatnslist(self, folder: str, names: list[str]) -> list[dict[str, int]]:
        """Return the facts about files in a folder; the inode -1 for missing ones."""
        try:
            entries = {entry.name: entry for entry in self._tree.entries(_path(folder))}
        except OSError:
            entries = {}
        missing = dict.fromkeys(_facts(Inode(), -1), -1)
        wanted = [entries.get(_bytes(name)) for name in names]
        return [
            missing if entry is None else _facts(self._tree.load_entry(entry), entry.inode)
            for entry in wanted
        ]

    def readlink(self, path: str) -> str:
        """Return the target of a symbolic link."""
        inode, number = self._tree.load(_path(path), follow=False)
        if not inode.is_link:
            raise failure(errno.EINVAL, _path(path))
        return _text(self._ext2.target(number, inode))

    def realpath(self, path: str) -> str:
        """Return a path without links."""
        return _text(self._tree.existing(_path(path))[0].path)

    def ls(self, path: str) -> list[str]:
        """Return the names in a folder."""
        return sorted(_text(entry.name) for entry in self._tree.entries(_path(path)))

    def glob_expand(self, pattern: str, *, directoryslash: bool = True) -> list[str]:
        """Return the paths that a shell pattern matches."""
        if directoryslash or re.search(r"[{}\\~]|\[[^]]*\[", pattern):
            raise Unfit("a rare kind of pattern")
        found = ["/"]
        for part in filter(None, _text(_path(pattern)).split("/")):
            if re.search(r"[*?[]", part):
                matches = re.compile(fnmatch.translate(part)).match
                found = [
                    os.path.join(folder, name)  # noqa: PTH118 - in the guest
                    for folder in found
                    if stat.S_ISDIR(self._mode(folder))
                    for name in self.ls(folder)
                    if matches(name) and (part.startswith(".") or not name.startswith("."))
                ]
            else:
                paths = [os.path.join(folder, part) for folder in found]  # noqa: PTH118
                found = [path for path in paths if self._mode(path, follow=False)]
        return sorted(found)

    def _mode(self, path: str, *, follow: bool = True) -> int:
        try:
            return int(self._tree.load(_path(path), follow=follow)[0].mode)
        except OSError:  # such as links in a circle
            return 0

    def find0(self, path: str) -> bytes:
        """Return the paths below a folder, each with a NUL behind it."""
        inode, number = self._tree.load(_path(path))
        if not inode.is_folder:
            raise Unfit("not a folder")
        found, size = [], 0
        for inner, _ in self._tree.walk(number):
            size += len(inner) + 1
            if size > _MOST_NAMES:
                raise failure(errno.EFBIG, _path(path))
            found.append(inner + b"\0")
        return b"".join(found)

    def pread(self, path: str, count: int, offset: int) -> bytes:
        """Return a part of a regular file."""
        inode, number = self._tree.load(_path(path))
        if not inode.is_file:
            raise Unfit("not a regular file")
        return self._ext2.read(number, offset, min(count, max(0, inode.size - offset)))

    # Changing

    def write(self, path: str, content: bytes) -> None:
        """Replace the content of a file, which is made if there is none."""
        number = self._tree.open_file(_path(path))
        self._ext2.set_size(number, 0)
        self._ext2.write(number, 0, content)
        self._tree.written(number)

    def write_append(self, path: str, content: bytes) -> None:
        """Append to a file, which is made if there is none."""
        number = self._tree.open_file(_path(path))
        self._ext2.write(number, self._ext2.load(number).size, content)
        self._tree.written(number)

    def touch(self, path: str) -> None:
        """Make an empty file, or set the times of a regular file."""
        place = self._tree.find(_path(path), follow=False)
        if place.inode is None:
            self._tree.make(place, stat.S_IFREG | 0o644)
        elif self._ext2.load(place.inode).is_file:
            self._ext2.stamp(place.inode, "atime mtime ctime")
        else:
            raise Unfit("not a regular file")

    def truncate(self, path: str) -> None:
        """Make an existing file empty."""
        inode, number = self._tree.load(_path(path))
        if not inode.is_file:
            raise Unfit("not a regular file")
        self._ext2.set_size(number, 0)
        self._tree.written(number)

    def mktemp(self, path: str) -> str:
        """Make an empty file that only root may read."""
        place = self._tree.find(_path(path), follow=False)
        if place.inode is not None:
            raise failure(errno.EEXIST, _path(path))
        self._tree.make(place, stat.S_IFREG | 0o600)
        return path

    def mkdir_p(self, path: str) -> None:
        """Make a folder and the folders above it."""
        parts = _path(path).split(b"/")
        for count in range(2, len(parts) + 1):
            place = self._tree.find(b"/".join(parts[:count]))
            if place.inode is None:
                self._tree.make(place, stat.S_IFDIR | 0o755)
            elif not self._ext2.load(place.inode).is_folder:
                if count == len(parts):
                    raise Unfit("a folder is made where a file is")
                raise failure(errno.ENOTDIR, _path(path))

    def mkdir_mode(self, path: str, mode: int) -> None:
        """Make a folder."""
        place = self._tree.find(_path(path), follow=False)
        if place.inode is not None:
            raise failure(errno.EEXIST, _path(path))
        self._tree.make(place, stat.S_IFDIR | mode & 0o7777 & ~0o022)

    def chmod(self, mode: int, path: str) -> None:
        """Set permissions."""
        self._tree.change_mode(self._tree.existing(_path(path))[1], mode)

    def chown(self, owner: int, group: int, path: str) -> None:
        """Set the owner and the group."""
        self._tree.change_owner(self._tree.existing(_path(path))[1], owner, group)

    def copy_attributes(self, source: str, target: str, *, all: bool) -> None:  # noqa: A002 - libguestfs's
        """Give a file the permissions, owner and attributes of another."""
        if not all:
            raise Unfit("a part of the attributes is copied")
        self._tree.copy_attributes(
            self._tree.existing(_path(source))[1], self._tree.existing(_path(target))[1]
        )

    def rm_f(self, path: str) -> None:
        """Remove a file if it is there."""
        place = self._tree.find(_path(path), follow=False)
        if place.inode is None:
            return
        if self._ext2.load(place.inode).is_folder:
            raise failure(errno.EISDIR, _path(path))
        self._tree.unlink(place, place.inode)

    def rm_rf(self, path: str) -> None:
        """Remove a file or tree if it is there."""
        place = self._tree.find(_path(path), follow=False)
        if not place.name:
            raise Unfit("the root folder is removed")
        if place.inode is not None:
            self._tree.remove(place, place.inode)

    def rename(self, old: str, new: str) -> None:
        """Rename a file or folder."""
        self._tree.rename(_path(old), _path(new))

    def ln_s(self, target: str, path: str) -> None:
        """Make a symbolic link."""
        place = self._tree.find(_path(path), follow=False)
        if place.inode is not None:
            raise failure(errno.EEXIST, _path(path))
        self._tree.make_link(place, _bytes(target))

    def cp_a(self, source: str, target: str) -> None:
        """Copy a file or tree with everything that belongs to it."""
        origin = self._tree.find(_path(source), follow=False)
        if origin.inode is None:
            raise Unfit("cp would report a missing file")
        place = self._tree.find(_path(target), follow=False)
        if place.inode is not None and self._ext2.load(place.inode).is_folder:
            inner = self._ext2.lookup(place.inode, origin.name)
            place = Place(os.path.join(place.path, origin.name), place.inode, origin.name, inner)  # noqa: PTH118
        Copier(self._tree).copy(origin, place)

    # Unpacking an archive; see ``archive``

    def unpack(self, path: str, kind: str, target: str, major: int, minor: int) -> None:
        """Make a member of an archive; what has its name is removed, but an existing folder stays."""
        place = self._new_place(path)
        if kind == "folder":
            if place.inode is None:
                self._tree.make(place, stat.S_IFDIR | 0o700)
            elif not self._ext2.load(place.inode).is_folder:
                raise Unfit("a folder would replace a file")
            return
        origin = self._tree.existing(_path(target), follow=False)[1] if kind == "name" else 0
        if place.inode is not None:
            if self._ext2.load(place.inode).is_folder or place.inode == origin:
                raise Unfit("a file would replace a folder, or itself")
            self._tree.unlink(place, place.inode)
        if kind == "link":
            self._tree.make_link(place, _bytes(target))
        elif kind == "name":
            self._tree.make_hard_link(place, origin)
        else:
            device = os.makedev(major, minor) if kind.endswith("device") else 0
            self._tree.make(place, _MEMBERS[kind] | 0o600, device=device)

    def _new_place(self, path: str) -> Place:
        """Return a place, whose folders are made if there are none."""
        try:
            return self._tree.find(_path(path), follow=False)
        except FileNotFoundError:
            self.mkdir_p(os.path.dirname(path))  # noqa: PTH120 - in the guest
            return self._tree.find(_path(path), follow=False)

    def extend(self, path: str, start: int, content: bytes) -> None:
        """Write a part of a member's content."""
        self._ext2.write(self._tree.existing(_path(path), follow=False)[1], start, content)

    def cut(self, path: str, size: int) -> None:
        """Set the size of a member, which may end with a hole."""
        self._ext2.set_size(self._tree.existing(_path(path), follow=False)[1], size)

    def settle(
        self, path: str, mode: int, uid: int, gid: int, modified: int, attributes: list[tuple[str, bytes]]
    ) -> None:
        """Give a member its owner, permissions, time and attributes."""
        number = self._tree.existing(_path(path), follow=False)[1]
        self._tree.change_owner(number, uid, gid)
        if not self._ext2.load(number).is_link:
            self._tree.change_mode(number, mode)
        if attributes:
            self._ext2.change_attributes(number, {_bytes(name): value for name, value in attributes})
        inode = self._ext2.load(number)
        inode.stamp("mtime", modified)
        self._ext2.save(number, inode)


def _facts(inode: Inode, number: int) -> dict[str, int]:
    return {
        "st_ino": number,
        "st_mode": int(inode.mode),
        "st_nlink": int(inode.links),
        "st_uid": inode.uid,
        "st_gid": inode.gid,
        "st_size": inode.size,
    }
