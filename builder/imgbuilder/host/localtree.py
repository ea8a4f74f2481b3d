"""Local files and trees that are copied into a guest, as tar files.

Modes, times, links (also hard links), file capabilities and the user's extended attributes are copied. Owners
and ACLs are not: they name accounts of this host.
"""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

from imgbuilder.errors import UsageError, WorkspaceError


def name_of(local: Path) -> str:
    """Return the name of a file or tree in the guest: the given one, also for a link."""
    return local.name if local.name not in ("", "..") else local.resolve().name


def check(local: Path) -> Path:
    """Accept a tree whose every file can be read and packed."""
    if not name_of(local):
        raise UsageError(f"{local} is the root folder of this host", hint="copy the folders in it one by one")
    if local.is_dir():
        try:
            _check_folder(os.path.realpath(local))
        except OSError as error:
            raise UsageError(f"{error.filename} cannot be copied: {error.strerror}") from error
    return local


def _check_folder(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                _check_folder(entry.path)
            elif stat.S_ISSOCK(mode):
                raise UsageError(
                    f"{entry.path} is a socket, which cannot be copied",
                    hint="sockets belong to running programs: remove it, or copy the folders next to it",
                )
            elif stat.S_ISREG(mode) and not os.access(entry.path, os.R_OK):
                raise UsageError(f"{entry.path} may not be read", hint=f"ls -l {entry.path}")


def pack(local: Path, archive: Path, name: str) -> None:
    """Write a file or tree to a new tar file, under the given name."""
    # The target of a link is copied, not the link: the target was checked.
    root = os.path.realpath(local)

    def for_guest(member: tarfile.TarInfo) -> tarfile.TarInfo:
        # The host's user numbers mean other users in the guest, or none.
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        inner = member.name[len(name) :]
        if member.isreg() or member.isdir() or member.islnk():
            member.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in attributes(root + inner)}
        return member

    try:
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
            tar.add(root, arcname=name, filter=for_guest)
    except OSError as error:
        raise WorkspaceError(f"{local} cannot be copied: {error}") from error


def attributes(path: str | Path) -> list[tuple[str, str]]:
    """Return a file's capabilities and the user's attributes, as tar(1) writes names and values."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # a filesystem without attributes
        return []
    return [
        (
            name.replace("%", "%25").replace("=", "%3D"),
            os.getxattr(path, name, follow_symlinks=False).decode("utf-8", "surrogateescape"),
        )
        for name in names
        if name == "security.capability" or name.startswith("user.")
    ]
