"""Temporary folders that are removed afterwards; folders of killed runs are removed by the next run.

For root, libguestfs always makes the folder of its sockets in /tmp, and removes it only when its handle is
closed. A killed worker never does that, so the private folder has a list of them. It is written when the
hypervisor is started, in case pybuilder is killed, and before a worker is killed (``docs/threat-model.md``
B3, F16).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imgbuilder.errors import WorkspaceError
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.paths import temporary_dir
from imgbuilder.host.workspace import check_space, explaining, hold_shared

SHORT = Path("/tmp")  # noqa: S108 - folders in it are made by mkdtemp
"""Folder for sockets, even if ``TMPDIR`` is set: a socket's path has at most 107 bytes."""
LIST = "elsewhere"
"""File of a private folder with the paths of its socket folders, one per line."""
RELEASE_LIMIT = 5.0
"""Seconds to wait until killed processes have closed their sockets; it takes some milliseconds."""
_SOCKET_DIR = re.compile(r"libguestfs[A-Za-z0-9]{6}")


def remove_with_socket_dirs(folder: Path, *, patience: float) -> None:
    """Remove the socket folders of a private folder, then the folder; stop if one of them is in use."""
    end = time.monotonic() + patience
    for listed in _socket_dirs(folder):
        while _has_live_sockets(listed):
            if time.monotonic() >= end:
                return
            time.sleep(0.02)
        shutil.rmtree(listed)
    shutil.rmtree(folder)


def add_socket_dirs(folder: Path, pid: int) -> None:
    """Add the folders in which a process has sockets to the list of a private folder."""
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


_FOLDER = ".pybuilder-run-"
_NEW_FOLDER = ".pybuilder-new-"
"""Name prefix of folders until they are locked; nothing is in them yet."""


@contextlib.contextmanager
def private_folder(base: Path = SHORT) -> Iterator[Path]:
    """Make a private folder in ``base`` and remove it afterwards, with its socket folders.

    Folders that killed runs of this user left in ``base`` are removed first.
    """
    with explaining(base / _FOLDER):
        sweep_folders(base)
        new, holder = _new_folder(base)
        folder = base / f"{_FOLDER}{new.name.removeprefix(_NEW_FOLDER)}"
        try:
            new.rename(folder)  # a sweep removes the content only under this name, and now it is locked
        except OSError:
            os.close(holder)
            new.rmdir()
            raise
    try:
        yield folder
    finally:
        with uninterrupted():
            with contextlib.suppress(OSError):  # the next run removes the rest
                remove_with_socket_dirs(folder, patience=RELEASE_LIMIT)
            os.close(holder)


def _new_folder(base: Path) -> tuple[Path, int]:
    """Make an empty folder and lock it; if another run sweeps it before it is locked, make another."""
    while True:
        new = Path(tempfile.mkdtemp(prefix=_NEW_FOLDER, dir=base))
        try:
            holder = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        hold_shared(holder)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(new.lstat(), os.fstat(holder)):  # from now on no sweep gets the lock
                return new, holder
        os.close(holder)


@contextlib.contextmanager
def scratch_folder(
    *, needed: int = 0, mode: int = 0o700, before_removal: Callable[[Path], object] | None = None
) -> Iterator[Path]:
    """Make a private folder for large files in TMPDIR, by default /var/tmp, and remove it afterwards."""
    parent = temporary_dir()
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise WorkspaceError(
            f"no temporary files can be made in {parent}: it is not a folder, or not writable",
            hint="set TMPDIR to another folder, or leave it out to use /var/tmp",
        )
    check_space(parent, needed, "temporary files")
    with private_folder(parent) as folder:
        try:
            folder.chmod(mode)
            yield folder
        finally:
            if before_removal is not None:
                with uninterrupted():
                    before_removal(folder)


def sweep_folders(base: Path) -> None:
    """Remove the private folders that killed runs of this user left in a folder."""
    for path in base.glob(f"{_FOLDER}*"):
        _remove_if_dead(path, lambda dead: remove_with_socket_dirs(dead, patience=0))
    for path in base.glob(f"{_NEW_FOLDER}*"):  # of runs that were killed before they had the lock
        _remove_if_dead(path, Path.rmdir)


def _remove_if_dead(path: Path, remove: Callable[[Path], None]) -> None:
    """Remove a folder of this user that no living run has locked."""
    with contextlib.suppress(OSError):
        if path.lstat().st_uid != os.geteuid():
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)
        finally:
            os.close(descriptor)
