"""Copies files and trees inside the guest with everything that belongs to them, as ``cp -a`` does."""

from __future__ import annotations

import stat

from imgbuilder.appliance.hostside.libext2fs import Unfit
from imgbuilder.appliance.hostside.tree import DEFAULT_ACL, Place, Tree

_PIECE = 1 << 20


class Copier:
    """Copies one file or tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree, self._ext2 = tree, tree.ext2
        self._twins: dict[int, int] = {}
        """Copies of files with several names."""

    def copy(self, source: Place, target: Place) -> None:
        """Copy a file or a tree with everything that belongs to it."""
        assert source.inode is not None
        is_folder = self._ext2.load(source.inode).is_folder
        if is_folder and (target.path + b"/").startswith(source.path + b"/"):
            raise Unfit("a folder is copied into itself")
        below = list(self._tree.walk(source.inode)) if is_folder else []
        folders = {b"": self._copy_one(source.inode, target)}
        for path, entry in below:
            folder = folders[path.rpartition(b"/")[0]]
            there = self._ext2.lookup(folder, entry.name)
            place = Place(target.path + path, folder, entry.name, there)
            folders[path] = self._copy_one(entry.inode, place)
        # The content changed the times of the folders.
        originals = {b"": source.inode} | {path: entry.inode for path, entry in below}
        for path, copy in folders.items():
            self._copy_facts(originals[path], copy)

    def _copy_one(self, number: int, place: Place) -> int:
        """Copy one file without its facts; return the copy."""
        inode = self._ext2.load(number)
        there = place.inode
        if there is not None:
            old = self._ext2.load(there)
            if there == number or old.is_folder != inode.is_folder:
                raise Unfit("cp would refuse to overwrite a file")
            if not old.is_folder and (not inode.is_file or not old.is_file or old.links > 1):
                self._tree.unlink(place, there)
                there = None
        if inode.links > 1 and not inode.is_folder and number in self._twins:
            if there is not None:
                self._tree.unlink(place, there)
            self._tree.make_hard_link(place, self._twins[number])
            return self._twins[number]
        if there is None:
            if inode.is_link:
                there = self._tree.make_link(place, self._ext2.target(number, inode))
            else:
                there = self._tree.make(place, stat.S_IFMT(inode.mode) | 0o700)
        self._twins[number] = there
        if inode.is_file:
            self._copy_content(number, inode.size, there)
        elif not inode.is_folder and not inode.is_link:
            raise Unfit("a device is copied")
        return there

    def _copy_content(self, source: int, size: int, target: int) -> None:
        block = self._ext2.block_size
        self._ext2.set_size(target, 0)
        for start in range(0, size, _PIECE):
            content = self._ext2.read(source, start, min(_PIECE, size - start))
            if any(content):
                self._copy_piece(source, start, content, target)
            elif not all(
                self._ext2.is_hole(source, (start + at) // block) for at in range(0, len(content), block)
            ):
                self._ext2.write(target, start, content)
        self._ext2.set_size(target, size)
        self._tree.written(target)

    def _copy_piece(self, source: int, start: int, content: bytes, target: int) -> None:
        """Copy the blocks of a piece that are on the disk; the others stay holes."""
        block, first = self._ext2.block_size, 0
        for at in range(0, len(content), block):
            part = content[at : at + block]
            if not any(part) and self._ext2.is_hole(source, (start + at) // block):
                if first < at:
                    self._ext2.write(target, start + first, content[first:at])
                first = at + block
        if first < len(content):
            self._ext2.write(target, start + first, content[first:])

    def _copy_facts(self, source: int, target: int) -> None:
        values: dict[bytes, bytes | None] = dict(self._ext2.attributes(source))
        if DEFAULT_ACL in values:
            raise Unfit("a folder has a default ACL")
        values.update({name: None for name in self._ext2.attributes(target) if name not in values})
        if values:
            self._ext2.change_attributes(target, values)
        original, copy = self._ext2.load(source), self._ext2.load(target)
        copy.mode = original.mode
        copy.own(original.uid, original.gid)
        copy.stamp("atime", original.time("atime"))
        copy.stamp("mtime", original.time("mtime"))
        copy.stamp("ctime", self._ext2.now)
        self._ext2.save(target, copy)
