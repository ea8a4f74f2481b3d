"""Folders elsewhere that belong to a private folder, and are removed with it.

For root, libguestfs makes the folder of its sockets in /tmp whatever it is
told, and removes it only when its handle is closed. A worker that is ended by
force never comes to that, so our private folder keeps a note. It is written
when the hypervisor is started, for the case that we are killed (B3), and before
we end a worker, which may not have come so far (``docs/threat-model.md`` F16).
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
"""Where sockets go, whatever ``TMPDIR`` says: a socket's path holds 107 bytes at most."""
CLAIMS = "elsewhere"
"""File of a private folder that names the other folders, one a line."""
RELEASE_LIMIT = 5.0
"""Seconds to wait until killed processes have let go of their sockets; it takes some milliseconds."""
_CLAIMABLE = re.compile(r"libguestfs[A-Za-z0-9]{6}")


def remove_with_claims(folder: Path, *, patience: float) -> None:
    """Remove a private folder, and before it what it claims; nothing of it while a claimed one is in use.

    Args:
        folder: The private folder.
        patience: Seconds to wait for a claimed folder that is in use.

    Raises:
        OSError: Something cannot be removed.
    """
    end = time.monotonic() + patience
    for claimed in _claims(folder):
        while _has_live_sockets(claimed):
            if time.monotonic() >= end:
                return
            time.sleep(0.02)
        shutil.rmtree(claimed)
    shutil.rmtree(folder)


def claim_sockets(folder: Path, pid: int) -> None:
    """Let a private folder claim the folders in which a process has sockets, as far as they can be claimed.

    Args:
        folder: The private folder.
        pid: The process; it may be gone.
    """
    held = set()
    with contextlib.suppress(OSError):  # then it may be noted already, or it has no such folder
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                held.add(str(path.readlink()))
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
        fields = [line.split(maxsplit=7) for line in lines]
        bound = [Path(field[7]) for field in fields if len(field) == 8 and f"socket:[{field[6]}]" in held]
        with (folder / CLAIMS).open("a") as file:
            file.writelines(f"{path.parent}\n" for path in bound if _CLAIMABLE.fullmatch(path.parent.name))


def _claims(folder: Path) -> list[Path]:
    """Return the folders that a private folder claims and that are really there, ours, and no links."""
    try:
        lines = (folder / CLAIMS).read_text().splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for path in map(Path, dict.fromkeys(lines)):
        with contextlib.suppress(OSError, ValueError):
            if path.parent == SHORT and _CLAIMABLE.fullmatch(path.name):
                # Others cannot replace it after this look: in /tmp only the owner of a name may remove it.
                facts = path.lstat()
                if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid():
                    found.append(path)
    return found


def _has_live_sockets(folder: Path) -> bool:
    """Tell whether a process has a socket with a name in this folder; False where the kernel does not say."""
    try:
        return f" {folder}/" in Path("/proc/net/unix").read_text(errors="replace")
    except OSError:
        return False
