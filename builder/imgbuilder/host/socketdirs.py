"""Socket folders of libguestfs that belong to a private folder, and are removed with it.

For root, libguestfs always makes the folder of its sockets in /tmp, and removes it only when its handle is
closed. A killed worker never does that, so the private folder has a list of them. It is written when the
hypervisor is started, in case pybuilder is killed, and before a worker is killed (``docs/threat-model.md``
B3, F16).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from pathlib import Path

SHORT = Path("/tmp")  # noqa: S108 - folders in it are made by mkdtemp
"""Folder for sockets, even if ``TMPDIR`` is set: a socket's path has at most 107 bytes."""
LIST = "elsewhere"
"""File of a private folder with the paths of its socket folders, one per line."""
RELEASE_LIMIT = 5.0
"""Seconds to wait until killed processes have closed their sockets; it takes some milliseconds."""
_SOCKET_DIR = re.compile(r"libguestfs[A-Za-z0-9]{6}")


def remove_with_socket_dirs(folder: Path, *, patience: float) -> None:
    """Remove the socket folders of a private folder, then the folder; stop if one of them is in use.

    Args:
        folder: The private folder.
        patience: Seconds to wait for a socket folder in use.
    """
    end = time.monotonic() + patience
    for listed in _socket_dirs(folder):
        while _has_live_sockets(listed):
            if time.monotonic() >= end:
                return
            time.sleep(0.02)
        shutil.rmtree(listed)
    shutil.rmtree(folder)


def add_socket_dirs(folder: Path, pid: int) -> None:
    """Add the folders in which a process has sockets to the list of a private folder.

    Args:
        folder: The private folder.
        pid: The process; it may be gone.
    """
    held = set()
    with contextlib.suppress(OSError):  # then it may be listed already, or have no such folder
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                held.add(str(path.readlink()))
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
        fields = [line.split(maxsplit=7) for line in lines]
        bound = [Path(field[7]) for field in fields if len(field) == 8 and f"socket:[{field[6]}]" in held]
        with (folder / LIST).open("a") as file:
            file.writelines(f"{path.parent}\n" for path in bound if _SOCKET_DIR.fullmatch(path.parent.name))


def _socket_dirs(folder: Path) -> list[Path]:
    """Return the listed folders that exist, belong to this user, and are not links."""
    try:
        lines = (folder / LIST).read_text().splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for path in map(Path, dict.fromkeys(lines)):
        with contextlib.suppress(OSError, ValueError):
            if path.parent == SHORT and _SOCKET_DIR.fullmatch(path.name):
                # It cannot be replaced after this check: in /tmp only the owner of a name may remove it.
                facts = path.lstat()
                if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid():
                    found.append(path)
    return found


def _has_live_sockets(folder: Path) -> bool:
    """Tell whether a process has a socket in this folder; False if the kernel does not show it."""
    try:
        return f" {folder}/" in Path("/proc/net/unix").read_text(errors="replace")
    except OSError:
        return False
