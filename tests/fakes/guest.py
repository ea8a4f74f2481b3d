"""A guest in memory: files with modes, owners and symbolic links, and a shell that answers from a script.

It follows the contract of ``imgbuilder.guests.ports.Guest``: links are followed
inside the guest, errors are ``GuestCallError`` with the system error's name.
It may be hostile: sparse files of any size, pipes, folders without end.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import posixpath
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.errors import GuestCallError
from imgbuilder.guests.ports import LARGEST_TEXT, CommandResult, FileStatus
from imgbuilder.guests.registry import RegistryKey, RegistryValue
from imgbuilder.host import localtree

Answer = CommandResult | Callable[[str], CommandResult]

_MAX_LINKS = 40


@dataclass
class Node:
    """A file, directory, link or special file."""

    mode: int
    uid: int = 0
    gid: int = 0
    content: bytes = b""
    target: str = ""
    children: dict[str, Node] = field(default_factory=dict)
    touched: int = 0
    hole: int = 0
    crowded: bool = False

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def size(self) -> int:
        return len(self.content) + self.hole

    def part(self, start: int, end: int) -> bytes:
        """Return a part of the content, behind which a hole may follow."""
        found = self.content[start:end]
        return (
            found + bytes(max(0, min(end, self.size) - max(start, len(self.content)))) if self.hole else found
        )

    def clone(self) -> Node:
        """Copy the whole tree."""
        children = {name: child.clone() for name, child in self.children.items()}
        return Node(self.mode, self.uid, self.gid, self.content, self.target, children, hole=self.hole)


def _fail(number: int, path: str) -> GuestCallError:
    return GuestCallError(f"{path}: {os.strerror(number)}", errno_name=errno.errorcode[number])


def _check_crowd(node: Node, path: str) -> None:
    if node.crowded:
        raise _fail(errno.EFBIG, path)


class FakeGuest:
    """An in-memory ``Guest``.

    ``scripts`` records the scripts of ``sh``; ``on_sh`` adds answers. A script without an answer succeeds
    silently, except that ``mktemp -d`` makes a folder. ``calls`` records changes, in order.
    """

    def __init__(self) -> None:
        self.root = Node(stat.S_IFDIR | 0o755)
        self.scripts: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self._answers: list[tuple[re.Pattern[str], Answer]] = []
        self._folders = 0
        self.has_setfiles = False
        self.hives: dict[str, dict[tuple[str, ...], dict[str, RegistryValue]]] = {}
        """The keys of each hive, by their paths in lower case, with their values."""

    # Setting up

    def add(
        self, path: str, content: bytes | str = b"", *, mode: int = 0o644, uid: int = 0, gid: int = 0
    ) -> None:
        """Add a regular file and its parents."""
        data = content.encode() if isinstance(content, str) else content
        parent, name = self._make_parents(path)
        parent.children[name] = Node(stat.S_IFREG | mode, uid, gid, data)

    def add_dir(self, path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        """Add a directory and its parents."""
        parent, name = self._make_parents(path)
        parent.children[name] = Node(stat.S_IFDIR | mode, uid, gid)

    def add_sparse(self, path: str, size: int, content: bytes = b"") -> None:
        """Add a file whose content is followed by a hole, up to ``size`` bytes."""
        self.add(path, content)
        self._file(path).hole = size - len(content)

    def add_crowd(self, path: str) -> None:
        """Add a directory with more names than any program lists."""
        self.add_dir(path)
        self._find(path).crowded = True

    def add_link(self, path: str, target: str) -> None:
        """Add a symbolic link and its parents."""
        parent, name = self._make_parents(path)
        parent.children[name] = Node(stat.S_IFLNK | 0o777, target=target)

    def add_fifo(self, path: str) -> None:
        """Add a named pipe and its parents."""
        parent, name = self._make_parents(path)
        parent.children[name] = Node(stat.S_IFIFO | 0o644)

    def on_sh(self, pattern: str, answer: Answer) -> None:
        """Answer scripts that match ``pattern`` (a regular expression); the last pattern added wins."""
        self._answers.insert(0, (re.compile(pattern), answer))

    def text(self, path: str) -> str:
        """Return a file's content as text."""
        return self.read(path).decode()

    def permissions(self, path: str) -> tuple[str, int, int]:
        """Return mode bits as octal text, owner and group (links followed)."""
        node = self._find(path)
        return f"{stat.S_IMODE(node.mode):04o}", node.uid, node.gid

    def tree(self) -> dict[str, bytes]:
        """Return all regular files with their content."""

        def walk(node: Node, path: str) -> Iterator[tuple[str, bytes]]:
            if node.is_file:
                yield path, node.content
            for name, child in node.children.items():
                yield from walk(child, f"{path}/{name}")

        return dict(walk(self.root, ""))

    # Reading

    def exists(self, path: str) -> bool:
        return self._lookup(path) is not None

    def is_file(self, path: str) -> bool:
        node = self._lookup(path)
        return node is not None and node.is_file

    def is_dir(self, path: str) -> bool:
        node = self._lookup(path)
        return node is not None and node.is_dir

    def is_symlink(self, path: str) -> bool:
        try:
            parent, name = self._parent(path)
        except GuestCallError:
            return False
        return name in parent.children and parent.children[name].is_link

    def realpath(self, path: str) -> str:
        self._find(path)
        return self._resolve(path)

    def readlink(self, path: str) -> str:
        parent, name = self._parent(path)
        node = parent.children.get(name)
        if node is None:
            raise _fail(errno.ENOENT, path)
        if not node.is_link:
            raise _fail(errno.EINVAL, path)
        return node.target

    def stat(self, path: str) -> FileStatus:
        node = self._find(path)
        return FileStatus(node.mode, node.uid, node.gid, node.size)

    def ls(self, path: str) -> list[str]:
        node = self._find(path)
        if not node.is_dir:
            raise _fail(errno.ENOTDIR, path)
        _check_crowd(node, path)
        return sorted(node.children)

    def glob(self, pattern: str) -> list[str]:
        found = [""]
        for part in [part for part in pattern.split("/") if part]:
            found = [f"{base}/{name}" for base in found for name in self._matches(base or "/", part)]
        return sorted(found)

    def read(self, path: str, *, limit: int = LARGEST_TEXT) -> bytes:
        node = self._file(path)
        if node.size > limit:
            raise _fail(errno.EFBIG, path)
        return node.part(0, node.size)

    def start_of(self, path: str, size: int) -> bytes:
        return self._file(path).part(0, size)

    def end_of(self, path: str, size: int) -> bytes:
        node = self._file(path)
        return node.part(max(0, node.size - size), node.size)

    # Changing

    def write(self, path: str, content: bytes) -> None:
        self.calls.append(("write", path))
        node = self._create(path)
        node.content, node.hole = content, 0

    def append(self, path: str, content: bytes) -> None:
        self.calls.append(("append", path))
        self._create(path).content += content

    def upload(self, local: Path, path: str) -> None:
        self.calls.append(("upload", path))
        self._create(path).content = local.read_bytes()

    def download(self, path: str, local: Path, *, limit: int, last: bool = False) -> None:
        node = self._file(path)
        if node.size > limit and not last:
            raise _fail(errno.EFBIG, path)
        local.write_bytes(node.part(max(0, node.size - limit), node.size))

    def copy_in(self, local: Path, directory: str, *, name: str | None = None) -> None:
        self.calls.append(("copy_in", directory))
        node = self._find(directory)
        if not node.is_dir:
            raise _fail(errno.ENOTDIR, directory)
        node.children[name or localtree.name_of(local)] = self._from_host(local.resolve())

    def tar_in(self, local: Path, directory: str, *, compress: str | None = None) -> None:
        self.calls.append(("tar_in", directory))
        if not self._find(directory).is_dir:
            raise _fail(errno.ENOTDIR, directory)
        with tarfile.open(local) as archive:
            for member in archive:
                path = posixpath.normpath(f"{directory}/{member.name}")
                if member.isdir():
                    self.mkdir_p(path)
                    self.chmod(member.mode, path)
                    continue
                self.mkdir_p(posixpath.dirname(path))
                parent, name = self._parent(path)
                node = Node(stat.S_IFREG | member.mode, member.uid, member.gid)
                if member.issym():
                    node = Node(stat.S_IFLNK | 0o777, target=member.linkname)
                elif member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None
                    node.content = content.read()
                parent.children[name] = node

    def scrub(self, path: str) -> None:
        self.calls.append(("scrub", path))
        self._file(path)
        self.remove(self._resolve(path))

    def files_below(self, path: str) -> list[str]:
        def walk(node: Node, at: str) -> Iterator[str]:
            _check_crowd(node, at)
            if node.is_file:
                yield at
            for name, child in node.children.items():
                yield from walk(child, posixpath.join(at, name))

        return sorted(walk(self._find(path), self._resolve(path)))

    def replace(self, path: str, content: bytes) -> None:
        self.calls.append(("replace", path))
        self._file(path).content = content

    def touch(self, path: str) -> None:
        self.calls.append(("touch", path))
        node = self._lookup(path)
        if node is None:
            node = self._create(path)
        node.touched += 1

    def truncate(self, path: str) -> None:
        self.calls.append(("truncate", path))
        node = self._file(path)
        node.content, node.hole = b"", 0

    def mkdir_p(self, path: str) -> None:
        self.calls.append(("mkdir_p", path))
        done = "/"
        for name in [part for part in path.split("/") if part]:
            done = posixpath.join(done, name)
            node = self._lookup(done)
            if node is None:
                parent, last = self._parent(done)
                if last in parent.children:  # a dangling link
                    raise _fail(errno.EEXIST, done)
                parent.children[last] = Node(stat.S_IFDIR | 0o755)
            elif not node.is_dir:
                raise _fail(errno.ENOTDIR, done)

    def mkdir_mode(self, path: str, mode: int) -> None:
        self.calls.append(("mkdir_mode", path))
        parent, name = self._parent(path)
        if name in parent.children:
            raise _fail(errno.EEXIST, path)
        parent.children[name] = Node(stat.S_IFDIR | mode)

    def chmod(self, mode: int, path: str) -> None:
        self.calls.append(("chmod", path))
        node = self._find(path)
        node.mode = stat.S_IFMT(node.mode) | mode

    def chown(self, uid: int, gid: int, path: str) -> None:
        self.calls.append(("chown", path))
        node = self._find(path)
        node.uid, node.gid = uid, gid
        if node.is_file:
            node.mode &= ~(stat.S_ISUID | stat.S_ISGID)

    def remove(self, path: str) -> None:
        self.calls.append(("remove", path))
        try:
            parent, name = self._parent(path)
        except GuestCallError as error:
            if error.errno_name in ("ENOENT", "ENOTDIR"):
                return
            raise
        parent.children.pop(name, None)

    def copy(self, source: str, destination: str) -> None:
        self.calls.append(("copy", destination))
        parent, name = self._parent(source)
        if name not in parent.children:
            raise _fail(errno.ENOENT, source)
        origin = parent.children[name]
        place, new_name = self._destination(name, destination)
        there = place.children.get(new_name)
        if there is not None and there.is_link and not origin.is_link:
            inside = self.is_dir(destination)
            target = self._lookup(posixpath.join(destination, new_name) if inside else destination)
            if target is None or not (target.is_file and origin.is_file):
                raise _fail(errno.ELOOP, destination)
            target.content = origin.content
        else:
            place.children[new_name] = origin.clone()

    def move(self, source: str, destination: str) -> None:
        self.calls.append(("move", destination))
        parent, name = self._parent(source)
        if name not in parent.children:
            raise _fail(errno.ENOENT, source)
        place, new_name = self._destination(name, destination)
        place.children[new_name] = parent.children.pop(name)

    def symlink(self, target: str, link: str) -> None:
        self.calls.append(("symlink", link))
        parent, name = self._parent(link)
        if name in parent.children and parent.children[name].is_dir:
            raise _fail(errno.EISDIR, link)
        parent.children[name] = Node(stat.S_IFLNK | 0o777, target=target)

    def relabel(self, specification: str, excluded: Sequence[str] = ()) -> bool:
        self.calls.append(("relabel", " ".join([specification, *excluded])))
        return self.has_setfiles

    def mount_memory(self, path: str) -> None:
        self.calls.append(("mount_memory", path))
        assert self._find(path).is_dir
        assert self.ls(path) == []

    def unmount(self, path: str) -> None:
        self.calls.append(("unmount", path))
        self._find(path).children.clear()

    def read_registry(self, hive: str, key: Sequence[str]) -> dict[str, RegistryValue] | None:
        self._file(hive)
        if hive not in self.hives:
            raise _fail(errno.EINVAL, hive)
        return self.hives[hive].get(tuple(name.lower() for name in key))

    def edit_registry(self, hive: str, keys: Sequence[RegistryKey]) -> None:
        self.calls.append(("edit_registry", hive))
        self._file(hive)
        for key in keys:
            path = tuple(name.lower() for name in key.path)
            for depth in range(len(path)):
                self.hives[hive].setdefault(path[: depth + 1], {})
            self.hives[hive][path].update(key.values)

    def sh(
        self,
        script: str,
        *,
        follow: str | None = None,
        limit: float | None = None,
        patience: float | None = 600.0,
    ) -> CommandResult:
        self.scripts.append(script)
        for pattern, answer in self._answers:
            if pattern.search(script):
                return answer(script) if callable(answer) else answer
        if "mktemp -d" in script:
            self._folders += 1
            path = f"/tmp/pybuilder.{self._folders:010d}"
            self.add_dir(path, mode=0o700)
            return CommandResult(0, f"{path}\n")
        return CommandResult(0, "")

    # Finding nodes

    def _resolve(self, path: str, *, follow_last: bool = True) -> str:
        """Return the path without links; the last part need not exist."""
        if not path.startswith("/"):
            raise _fail(errno.EINVAL, path)
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        done: list[str] = []
        seen = 0
        while todo:
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            node = self._plain([*done, part])
            if node is not None and node.is_link and (todo or follow_last):
                seen += 1
                if seen > _MAX_LINKS:
                    raise _fail(errno.ELOOP, path)
                if node.target.startswith("/"):
                    done = []
                todo += [part for part in reversed(node.target.split("/")) if part not in ("", ".")]
            else:
                done.append(part)
        return "/" + "/".join(done)

    def _plain(self, parts: list[str]) -> Node | None:
        node = self.root
        for part in parts:
            if part not in node.children:
                return None
            node = node.children[part]
        return node

    def _lookup(self, path: str) -> Node | None:
        try:
            return self._plain([part for part in self._resolve(path).split("/") if part])
        except GuestCallError:
            return None

    def _find(self, path: str) -> Node:
        node = self._plain([part for part in self._resolve(path).split("/") if part])
        if node is None:
            raise _fail(errno.ENOENT, path)
        return node

    def _file(self, path: str) -> Node:
        node = self._find(path)
        if node.is_dir:
            raise _fail(errno.EISDIR, path)
        if not node.is_file:
            raise _fail(errno.EINVAL, path)
        return node

    def _parent(self, path: str, *, follow_last: bool = False) -> tuple[Node, str]:
        resolved = self._resolve(path, follow_last=follow_last)
        folder, name = posixpath.split(resolved)
        if not name:
            raise _fail(errno.EBUSY, path)
        node = self._plain([part for part in folder.split("/") if part])
        if node is None:
            raise _fail(errno.ENOENT, path)
        if not node.is_dir:
            raise _fail(errno.ENOTDIR, path)
        return node, name

    def _create(self, path: str) -> Node:
        """Find a file or create it, through links as open(2) does."""
        parent, name = self._parent(path, follow_last=True)
        node = parent.children.setdefault(name, Node(stat.S_IFREG | 0o644))
        if node.is_dir:
            raise _fail(errno.EISDIR, path)
        if not node.is_file:
            raise _fail(errno.EINVAL, path)
        return node

    def _destination(self, name: str, destination: str) -> tuple[Node, str]:
        node = self._lookup(destination)
        return (node, name) if node is not None and node.is_dir else self._parent(destination)

    def _make_parents(self, path: str) -> tuple[Node, str]:
        folder, name = posixpath.split(path)
        node = self.root
        for part in [part for part in folder.split("/") if part]:
            node = node.children.setdefault(part, Node(stat.S_IFDIR | 0o755))
        return node, name

    def _matches(self, folder: str, part: str) -> list[str]:
        node = self._lookup(folder)
        if node is None or not node.is_dir:
            return []
        if any(sign in part for sign in "*?["):
            _check_crowd(node, folder)
        hidden = part.startswith(".")
        return [
            name
            for name in node.children
            if fnmatch.fnmatchcase(name, part) and (hidden or not name.startswith("."))
        ]

    def _from_host(self, local: Path) -> Node:
        mode = local.lstat().st_mode
        if stat.S_ISLNK(mode):
            return Node(mode, target=str(local.readlink()))
        if stat.S_ISDIR(mode):
            return Node(mode, children={child.name: self._from_host(child) for child in local.iterdir()})
        return Node(mode, content=local.read_bytes())
