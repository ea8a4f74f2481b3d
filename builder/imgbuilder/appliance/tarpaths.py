"""Resolves the paths of a tar file's members in a guest whose folders may be links.

libguestfs unpacks with a tar of the appliance, outside the guest's root: a
member ``var/run/x`` in a guest whose ``/var/run`` points to ``/run`` would go
into the appliance and be lost, and a folder ``lib/`` would replace the link
``/lib`` (docs/threat-model.md, F19). So the members' folders are resolved inside
the guest first, and if that changes a name, a new archive is written.
"""

from __future__ import annotations

import contextlib
import copy
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from imgbuilder.errors import WorkspaceError


class Links(Protocol):
    """The questions about a guest's links, as in ``guests.ports.Guest``."""

    def is_symlink(self, path: str) -> bool:
        """Return whether ``path`` itself is a symbolic link."""

    def is_dir(self, path: str) -> bool:
        """Return whether ``path`` is a directory (links followed)."""

    def realpath(self, path: str) -> str:
        """Resolve all links inside the guest; the file must exist."""


class Placer:
    """Resolves the path of each member; asks the guest once per folder."""

    def __init__(self, guest: Links, directory: str) -> None:
        self._guest = guest
        self._folders: dict[tuple[str, ...], str] = {(): directory}

    def place(self, name: str, *, folder: bool) -> str:
        """Return the absolute path of a member in the guest.

        Args:
            name: Its name in the archive.
            folder: Whether it is a folder; the guest may have a link to a folder there.

        Raises:
            WorkspaceError: The name has ``..`` in it, or a folder is a link that leads to no directory.
        """
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise WorkspaceError(f"the tar file has a member with '..' in its name: {name!r}")
        if folder or not parts:
            return self._folder(parts)
        return posixpath.join(self._folder(parts[:-1]), parts[-1])

    def _folder(self, parts: tuple[str, ...]) -> str:
        if parts not in self._folders:
            path = posixpath.join(self._folder(parts[:-1]), parts[-1])
            if self._guest.is_symlink(path):
                if not self._guest.is_dir(path):
                    raise WorkspaceError(
                        f"{'/'.join(parts)!r} would be unpacked through {path}, a link in the guest that "
                        "leads to no directory",
                        hint=f"delete the link first (--delete {path}), or create its target",
                    )
                path = self._guest.realpath(path)
            self._folders[parts] = path
        return self._folders[parts]


def redirect(
    archive: Path, directory: str, guest: Links, target: Path, *, keep_folders: bool = False
) -> bool:
    """Write a new archive for unpacking in ``/`` if a member's folder is a link in the guest.

    Args:
        archive: A tar file, plain or compressed with gzip, bzip2 or xz.
        directory: The directory to unpack to, without links.
        guest: The guest.
        target: Path of the new archive.
        keep_folders: Whether existing folders of the guest keep their owners and modes.

    Returns:
        Whether it was written; if not, the archive can be unpacked in ``directory`` as it is.

    Raises:
        WorkspaceError: The archive cannot be read, or ``target`` cannot be written.
    """
    with _readable(archive) as source:
        placer = Placer(guest, directory)
        members = source.getmembers()
        places = [placer.place(member.name, folder=member.isdir()) for member in members]
        plain = [posixpath.normpath(posixpath.join(directory, member.name.lstrip("/"))) for member in members]
        kept = _present_folders(members, places, guest) if keep_folders else set()
        if places == plain and not kept:
            return False
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as changed:
            for member, place in zip(members, places, strict=True):
                if member.name in kept:
                    continue
                moved = copy.copy(member)
                moved.name = place.lstrip("/") or "."
                moved.pax_headers = {key: value for key, value in member.pax_headers.items() if _stays(key)}
                if member.islnk():
                    moved.linkname = placer.place(member.linkname, folder=False).lstrip("/")
                if member.issparse():
                    moved.type = tarfile.REGTYPE
                changed.addfile(moved, source.extractfile(member) if member.isreg() else None)
        return True


def _present_folders(members: list[tarfile.TarInfo], places: list[str], guest: Links) -> set[str]:
    """Return the names of the archive's folders that the guest has."""
    # An archive names each folder after its parent, so the parent of each is in one of the sets.
    present: set[str] = set()
    absent: set[str] = set()
    for member, place in zip(members, places, strict=True):
        if member.isdir():
            there = posixpath.dirname(member.name) not in absent and guest.is_dir(place)
            (present if there else absent).add(member.name)
    return present


def _stays(key: str) -> bool:
    """Return whether a header field stays valid; the name and the map of the holes do not."""
    return key not in ("path", "linkpath", "size") and not key.startswith("GNU.sparse.")


@contextlib.contextmanager
def _readable(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive) as opened:
            yield opened
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise WorkspaceError(f"{archive} cannot be read as a tar file: {error}") from error
    except OSError as error:
        raise WorkspaceError(f"{archive} cannot be read: {error.strerror or error}") from error
