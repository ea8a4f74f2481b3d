"""The guest of ``tests.fakes.guest`` on a real ext4 filesystem, written by the confined worker."""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgbuilder.appliance.hostside.connection import open_hostside
from imgbuilder.appliance.hostside.ext2 import ROOT, Ext2
from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.appliance.options import Attachment
from tests.fakes.guest import FakeGuest

_READING = (
    "exists", "is_file", "is_dir", "is_symlink", "realpath", "readlink", "stat", "ls", "glob", "read",
    "start_of", "end_of", "download", "files_below",
)  # fmt: skip
_CHANGING = {
    "write": 0, "append": 0, "upload": 1, "copy_in": 1, "tar_in": 1, "replace": 0, "touch": 0, "truncate": 0,
    "mkdir_p": 0, "mkdir_mode": 0, "chmod": 1, "chown": 2, "remove": 0, "copy": 1, "move": 1, "symlink": 1,
}  # fmt: skip
"""The place of the path that ``calls`` records."""


class WorkerGuest(FakeGuest):
    """A guest without any file at first; commands and labels are answered in memory."""

    def __init__(self, appliance: LibguestfsAppliance) -> None:
        super().__init__()
        self.appliance = appliance
        for name in appliance.ls("/"):
            appliance.remove(f"/{name}")

    def add(
        self, path: str, content: bytes | str = b"", *, mode: int = 0o644, uid: int = 0, gid: int = 0
    ) -> None:
        self.appliance.mkdir_p(posixpath.dirname(path))
        self.appliance.remove(path)
        self.appliance.write(path, content.encode() if isinstance(content, str) else content)
        self.appliance.chown(uid, gid, path)
        self.appliance.chmod(mode, path)

    def add_dir(self, path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        self.appliance.mkdir_p(path)
        self.appliance.chown(uid, gid, path)
        self.appliance.chmod(mode, path)

    def add_link(self, path: str, target: str) -> None:
        self.appliance.mkdir_p(posixpath.dirname(path))
        self.appliance.symlink(target, path)

    def add_fifo(self, path: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            pipes = Path(folder, "pipes.tar")
            with tarfile.open(pipes, "w") as archive:
                member = tarfile.TarInfo(path.lstrip("/"))
                member.type = tarfile.FIFOTYPE
                archive.addfile(member)
            self.appliance.tar_in(pipes, "/")

    def permissions(self, path: str) -> tuple[str, int, int]:
        found = self.appliance.stat(path)
        return f"{stat.S_IMODE(found.mode):04o}", found.uid, found.gid

    def tree(self) -> dict[str, bytes]:
        return {path: self.appliance.read(path) for path in self.appliance.files_below("/")}

    def scrub(self, path: str) -> None:
        self.calls.append(("scrub", path))
        self.appliance.remove(self.appliance.realpath(path))


def _forward(name: str, place: int | None = None) -> Callable[..., Any]:
    def method(guest: WorkerGuest, *arguments: Any, **options: Any) -> Any:
        if place is not None:
            guest.calls.append((name, arguments[place]))
        return getattr(guest.appliance, name)(*arguments, **options)

    return method


for _name in _READING:
    setattr(WorkerGuest, _name, _forward(_name))
for _name, _place in _CHANGING.items():
    setattr(WorkerGuest, _name, _forward(_name, _place))


@contextmanager
def worker(folder: Path) -> Iterator[LibguestfsAppliance]:
    """Yield an empty ext4 filesystem, mounted; in the end e2fsck must find nothing to repair."""
    image = _make_image(folder / "guest.img")
    with open_hostside(Attachment(image, "raw")) as appliance:
        appliance.mount("/dev/sda", "/")
        yield appliance
        appliance.mkdir_p("/lost+found")  # which e2fsck misses
        appliance.shutdown()


def _make_image(path: Path, *options: str | Path) -> Path:
    with path.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", *options, path], check=True)
    return path


class FolderGuest:
    """A guest whose root is a folder of this host between two calls, and an ext4 filesystem in each."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._image = root.parent / "folder.img"

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            _make_image(self._image, "-d", self._root)
            with open_hostside(Attachment(self._image, "raw")) as appliance:
                appliance.mount("/dev/sda", "/")
                try:
                    return getattr(appliance, name)(*arguments, **options)
                finally:
                    appliance.shutdown()
                    _unpack(self._image, self._root)

        return call


def _unpack(image: Path, root: Path) -> None:
    """Make a folder hold what is in an image, with modes, links and attributes, but not owners."""
    for child in root.iterdir():
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    descriptor = os.open(image, os.O_RDONLY)
    filesystem = Ext2(descriptor, 0, writable=False)
    made: dict[int, Path] = {}
    waiting = [(root, ROOT)]
    while waiting:
        path, number = waiting.pop()
        inode = filesystem.load(number)
        if inode.is_folder:
            path.mkdir(exist_ok=True)
            entries = filesystem.entries(number)
            waiting += [
                (path / os.fsdecode(entry.name), entry.inode)
                for entry in entries
                if entry.name != b"lost+found"
            ]
        elif number in made:
            path.hardlink_to(made[number])
            continue
        elif inode.is_link:
            path.symlink_to(os.fsdecode(filesystem.target(number, inode)))
            continue
        elif inode.is_file:
            path.write_bytes(filesystem.read(number, 0, inode.size))
        else:
            os.mknod(path, inode.mode)
        made[number] = path
        path.chmod(stat.S_IMODE(inode.mode))
        for name, value in filesystem.attributes(number).items():
            os.setxattr(path, name, value)
    filesystem.close()
    os.close(descriptor)
