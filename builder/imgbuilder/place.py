"""Where an image will be: what may stand there already, found out before any work.

A link is followed: what it points to is replaced, the link stays. A regular
file is replaced as a whole at the very end. A block device is written to at
the very end. Anything else is refused (``reliability.md`` B12 to B14).
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgbuilder.disk.blockdevice import BlockDevice, look_at
from imgbuilder.errors import WorkspaceError
from imgbuilder.workspace import HIDDEN_PREFIX, HIDDEN_SUFFIX, explain

if TYPE_CHECKING:
    from pathlib import Path

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
    """
    try:
        path = output.resolve()
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle, before Python 3.13
        reason = error.strerror if isinstance(error, OSError) else "links that lead in a circle"
        raise WorkspaceError(f"{output}: {reason}", hint="choose another place for the image") from error
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
    _try_folder(path, output)
    return Place(path)


def find_file_place(output: Path) -> Path:
    """Find out the same where only a file will do.

    Raises:
        WorkspaceError: It cannot be written, or is a block device.
    """
    place = find_place(output)
    if place.device is not None:
        raise WorkspaceError(f"the output {output} is a block device", hint="name a file")
    return place.path


def _try_folder(path: Path, output: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise WorkspaceError(
            f"the folder of the output {output} does not exist", hint=f"create it first: mkdir -p {folder}"
        )
    probe = folder / f"{HIDDEN_PREFIX}{secrets.token_hex(8)}{HIDDEN_SUFFIX}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        probe.unlink()
    except OSError as error:
        raise explain(error, output) from error
