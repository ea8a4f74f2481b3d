"""The files of a Windows guest by the names that Windows uses."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from imgbuilder.errors import GuestCallError
from imgbuilder.guests.ports import LARGEST_TEXT, CommandResult, FileStatus, Guest
from imgbuilder.guests.registry import RegistryKey, RegistryValue
from imgbuilder.guests.windows import check_new_names, find, follow, split_path, upper_case
from imgbuilder.host import localtree

_WILD = re.compile(r"[*?\[]")


class WindowsGuest(Guest):
    """The files of a mounted Windows by the names that Windows uses; a ``Guest`` for operations.

    Paths may have a drive letter and backslashes, and any case. A new file gets the name that is given, if
    Windows can use it.
    """

    def __init__(self, guest: Guest, drive: str) -> None:
        self._guest = guest
        self._drive = drive

    # Paths

    def _find(self, path: str) -> str:
        return find(self._guest, path, self._drive)

    def _found(self, path: str, *, last: bool = True) -> str | None:
        place, missing = follow(self._guest, split_path(path, self._drive), path, last=last)
        return None if missing else place

    def _place(self, path: str, *, parents: bool = False) -> str:
        """Return the path of a file that may be new; its parent must exist unless ``parents`` is set."""
        place, missing = follow(self._guest, split_path(path, self._drive), path)
        if len(missing) > 1 and not parents:
            raise GuestCallError(f"{path}: No such file or directory", errno_name="ENOENT")
        check_new_names(missing, path)
        return posixpath.join(place, *missing)

    # Reading

    def exists(self, path: str) -> bool:
        return self._found(path) is not None

    def is_file(self, path: str) -> bool:
        found = self._found(path)
        return found is not None and self._guest.is_file(found)

    def is_dir(self, path: str) -> bool:
        found = self._found(path)
        return found is not None and self._guest.is_dir(found)

    def is_symlink(self, path: str) -> bool:
        found = self._found(path, last=False)
        return found is not None and self._guest.is_symlink(found)

    def realpath(self, path: str) -> str:
        return self._find(path)

    def readlink(self, path: str) -> str:
        return self._guest.readlink(self._found(path, last=False) or path)

    def stat(self, path: str) -> FileStatus:
        return self._guest.stat(self._find(path))

    def ls(self, path: str) -> list[str]:
        return self._guest.ls(self._find(path))

    def glob(self, pattern: str) -> list[str]:
        found = ["/"]
        for part in split_path(pattern, self._drive):
            found = [place for folder in found for place in self._matches(folder, part)]
        return sorted(found)

    def _matches(self, folder: str, part: str) -> Iterator[str]:
        if self._guest.is_symlink(folder) or not self._guest.is_dir(folder):
            return
        if not _WILD.search(part):
            place, missing = follow(self._guest, [*split_path(folder, self._drive), part], part, last=False)
            yield from [] if missing else [place]
            return
        wanted = upper_case(part)
        for name in self._guest.ls(folder):
            if fnmatch.fnmatchcase(upper_case(name), wanted):
                yield posixpath.join(folder, name)

    def read(self, path: str, *, limit: int = LARGEST_TEXT) -> bytes:
        return self._guest.read(self._find(path), limit=limit)

    def start_of(self, path: str, size: int) -> bytes:
        return self._guest.start_of(self._find(path), size)

    def end_of(self, path: str, size: int) -> bytes:
        return self._guest.end_of(self._find(path), size)

    def files_below(self, path: str) -> list[str]:
        return self._guest.files_below(self._find(path))

    def download(self, path: str, local: Path, *, limit: int, last: bool = False) -> None:
        self._guest.download(self._find(path), local, limit=limit, last=last)

    # Changing

    def write(self, path: str, content: bytes) -> None:
        self._guest.write(self._place(path), content)

    def append(self, path: str, content: bytes) -> None:
        self._guest.append(self._place(path), content)

    def upload(self, local: Path, path: str) -> None:
        self._guest.upload(local, self._place(path))

    def copy_in(self, local: Path, directory: str, *, name: str | None = None) -> None:
        """Copy a file or tree; modes, owners and attributes of this host mean nothing to Windows."""
        folder = self._find(directory)
        self._copy(local.resolve(), posixpath.join(folder, name or localtree.name_of(local)))

    def _copy(self, local: Path, path: str) -> None:
        if local.is_symlink() or not (local.is_file() or local.is_dir()):
            raise GuestCallError(
                f"{local} is a link or a special file, which Windows cannot use",
                hint="copy the files that links lead to: cp -rL",
            )
        if local.is_file():
            self.upload(local, path)
            return
        self.mkdir_p(path)
        for entry in sorted(local.iterdir()):
            self._copy(entry, posixpath.join(path, entry.name))

    def replace(self, path: str, content: bytes) -> None:
        # In place: a new file would not have the owner and the access rights of the old one.
        self._guest.write(self._find(path), content)

    def touch(self, path: str) -> None:
        self._guest.touch(self._place(path))

    def truncate(self, path: str) -> None:
        self._guest.truncate(self._find(path))

    def mkdir_p(self, path: str) -> None:
        self._guest.mkdir_p(self._place(path, parents=True))

    def mkdir_mode(self, path: str, mode: int) -> None:
        self._guest.mkdir_mode(self._place(path), mode)

    def chmod(self, mode: int, path: str) -> None:
        """Do nothing: NTFS has no modes, and new files inherit the rights of their folder."""

    def chown(self, uid: int, gid: int, path: str) -> None:
        """Do nothing, as ``chmod``."""

    def remove(self, path: str) -> None:
        found = self._found(path, last=False)
        if found == "/":
            raise GuestCallError("the drive itself cannot be removed", errno_name="EBUSY")
        if found is not None:
            self._guest.remove(found)

    def move(self, source: str, destination: str) -> None:
        origin = self._find(source)
        folder = self._found(destination)
        if folder is not None and self._guest.is_dir(folder):
            destination = posixpath.join(folder, posixpath.basename(origin))
        if origin == "/":
            raise GuestCallError("the drive itself cannot be moved", errno_name="EBUSY")
        self._guest.move(origin, self._place(destination))

    def read_registry(self, hive: str, key: Sequence[str]) -> dict[str, RegistryValue] | None:
        return self._guest.read_registry(self._find(hive), key)

    def edit_registry(self, hive: str, keys: Sequence[RegistryKey]) -> None:
        self._guest.edit_registry(self._find(hive), keys)

    def tar_in(self, local: Path, directory: str, *, compress: str | None = None) -> None:
        self._guest.tar_in(local, self._find(directory), compress=compress)

    def scrub(self, path: str) -> None:
        self._guest.scrub(self._find(path))

    def copy(self, source: str, destination: str) -> None:
        self._guest.copy(self._find(source), self._place(destination))

    def symlink(self, target: str, link: str) -> None:
        self._guest.symlink(target, self._place(link))

    def relabel(self, specification: str, excluded: Sequence[str] = ()) -> bool:
        return self._guest.relabel(specification, excluded)

    def mount_memory(self, path: str) -> None:
        self._guest.mount_memory(self._find(path))

    def unmount(self, path: str) -> None:
        self._guest.unmount(self._find(path))

    def sh(
        self,
        script: str,
        *,
        follow: str | None = None,
        limit: float | None = None,
        patience: float | None = 600.0,
    ) -> CommandResult:
        return self._guest.sh(script, follow=follow, limit=limit, patience=patience)
