"""Where an image will be: what may stand there already, found out before any work.

A link is followed: what it points to is replaced, the link stays. A regular
file is replaced as a whole at the very end. A block device is written to at
the very end. Anything else is refused (``docs/threat-model.md`` B12 to B14), and so
is what another user put into a folder where everybody may write, such as /tmp:
the kernel refuses to open it (``fs.protected_symlinks`` and
``fs.protected_regular`` in proc_sys_fs(5)), but does not see who reads a link
or replaces a file by its name.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.disk.blockdevice import BlockDevice, look_at
from imgbuilder.errors import WorkspaceError
from imgbuilder.host import imagelocks
from imgbuilder.host.workspace import follow, is_strange, try_folder

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True)
class Place:
    """Where an image will be.

    Attributes:
        path: Absolute, links followed.
        device: What is known of a block device; None for a file.
    """

    path: Path
    device: BlockDevice | None = None


def find_place(output: Path) -> Place:
    """Find out whether ``output`` can be written; nothing is left there.

    Raises:
        WorkspaceError: Its folder is missing or not writable, or what stands there is not to be replaced.
        DiskError: It is the disk of a running machine, or another program uses it.
    """
    try:
        path = follow(output)
        mode = _mode_of(path)
    except OSError as error:
        hint = "choose another place for the image"
        raise WorkspaceError(f"{output}: {error.strerror}", hint=hint) from error
    except ValueError as error:
        raise WorkspaceError(f"{str(output)!r} is not a valid file name") from error
    if stat.S_ISDIR(mode):
        raise WorkspaceError(
            f"the output {output} is a folder",
            hint=f"name a file in it, for example -o {output / 'disk.img'}",
        )
    if stat.S_ISBLK(mode):
        return Place(path, look_at(path))
    if not stat.S_ISREG(mode):
        raise WorkspaceError(
            f"the output {output} is {_KINDS.get(stat.S_IFMT(mode), 'no file')}",
            hint="name a file or a block device",
        )
    imagelocks.refuse_if_in_use(path, changing=True)
    if not path.parent.is_dir():
        raise WorkspaceError(
            f"the folder of the output {output} does not exist",
            hint=f"create it first: mkdir -p {path.parent}",
        )
    try_folder(path)
    return Place(path)


def _mode_of(path: Path) -> int:
    """Return the mode of what stands at a place, or that of an ordinary file where nothing does."""
    try:
        facts = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return stat.S_IFREG
    if stat.S_ISREG(facts.st_mode) and is_strange(facts, path.parent):
        raise WorkspaceError(
            f"{path} belongs to another user, in a folder where everybody may write",
            hint="remove it, or choose another place",
        )
    return facts.st_mode


def find_file_place(output: Path) -> Path:
    """Find out the same where only a file will do.

    Raises:
        WorkspaceError: It cannot be written, or is a block device.
        DiskError: It is the disk of a running machine, or another program uses it.
    """
    place = find_place(output)
    if place.device is not None:
        raise WorkspaceError(f"the output {output} is a block device", hint="name a file")
    return place.path
