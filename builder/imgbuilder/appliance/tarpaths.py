"""Where the members of a tar file belong in a guest whose folders may be links.

libguestfs unpacks with a tar of the appliance, outside the guest's root: a
member ``var/run/x`` in a guest whose ``/var/run`` points to ``/run`` would go
into the appliance and be lost, and a folder ``lib/`` would replace the link
``/lib`` (``docs/threat-model.md`` F19). So the members' folders are resolved inside
the guest first, and the archive is written anew when that changes a name.
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
    """What must be known of the guest."""

    def is_symlink(self, path: str) -> bool:
        """Tell whether ``path`` itself is a symbolic link."""
        ...

    def is_dir(self, path: str) -> bool:
        """Tell whether ``path`` is a directory (links followed)."""
        ...

    def realpath(self, path: str) -> str:
        """Resolve all links inside the guest; the file must exist."""
        ...


class Placer:
    """Finds the place of each member; asks the guest once per folder.

    Args:
        guest: The guest.
        directory: Where the archive is unpacked, without links.
    """

    def __init__(self, guest: Links, directory: str) -> None:
        self._guest = guest
        self._folders: dict[tuple[str, ...], str] = {(): directory}

    def place(self, name: str, *, folder: bool) -> str:
        """Return the absolute path in the guest where a member goes.

        Args:
            name: Its name in the archive.
            folder: Whether it is a folder, which then may be a link to one.

        Raises:
            WorkspaceError: The name has ``..`` in it, or a folder is a link that leads to none.
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
                        hint=f"--delete {path} before it, or make the directory that it names",
                    )
                path = self._guest.realpath(path)
            self._folders[parts] = path
        return self._folders[parts]


def redirect(
    archive: Path, directory: str, guest: Links, target: Path, *, keep_folders: bool = False
) -> bool:
    """Write an archive anew, for unpacking in ``/``, if a member's folder is a link in the guest.

    Args:
        archive: A tar file, plain or compressed with gzip, bzip2 or xz.
        directory: Where it would be unpacked, without links.
        guest: The guest.
        target: Where the new archive goes.
        keep_folders: Whether folders that the guest has keep their own owners and modes.

    Returns:
        Whether it was written; otherwise the archive can be unpacked in ``directory`` as it is.

    Raises:
        WorkspaceError: The archive cannot be read, or ``target`` not be written.
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
    """Return the names of the folders in an archive, each after the one that it is in, that the guest has."""
    present: set[str] = set()
    absent: set[str] = set()
    for member, place in zip(members, places, strict=True):
        if member.isdir():
            there = posixpath.dirname(member.name) not in absent and guest.is_dir(place)
            (present if there else absent).add(member.name)
    return present


def _stays(key: str) -> bool:
    """Tell whether a field of a member is still true: its name, and how its holes are stored, are not."""
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
