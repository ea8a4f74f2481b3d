"""Changes a folder that is being served, so that its readers never see half of a change.

New files come first, under names that no old index has; one rename puts the
index in place. Whenever the program is killed, the folder holds the old index or
the new one, and all files that it names (``docs/threat-model.md`` R1, F17).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.workspace import explain, explaining
from imgindex.files import sync_folder

LOCK_NAME = ".pybuilder-repo.lock"
PUBLISH_LOCK_NAME = ".pybuilder-repo-publish.lock"
UPLOAD_LOCK_NAME = ".pybuilder-repo-upload.lock"
UPDATE_LOCK_NAME = ".pybuilder-repo-update.lock"
"""Locks of the index; and of ``publish``, uploads and ``update``, which work for hours."""
_HOLDERS = {UPLOAD_LOCK_NAME: "upload", UPDATE_LOCK_NAME: "update"}
_PREFIXES = {LOCK_NAME: ".pybuilder-change.", PUBLISH_LOCK_NAME: ".pybuilder-publish."}
_POLL = 0.1


class Session:
    """One publisher's change of a served folder; new files are made in ``folder``, a private one in it."""

    def __init__(self, target: Path, folder: Path) -> None:
        self._target = target
        self.folder = folder

    def commit(self, *names: str) -> None:
        """Move complete files to their places in this order, durably and readable by the web server."""
        for name in names:
            with explaining(self._target / name), (self.folder / name).open("rb") as file:
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
        for name in names:  # a full disk was noticed above, before the first of them is in place
            with explaining(self._target / name):
                (self.folder / name).replace(self._target / name)
        with explaining(self._target):
            sync_folder(self._target)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Put small files in their places; see ``commit``."""
        for name, content in files.items():
            with explaining(self._target / name):
                (self.folder / name).write_bytes(content)
        self.commit(*files)


@contextlib.contextmanager
def open_session(
    target: Path, *, create: bool = False, lock: str = LOCK_NAME, patience: float = 0.0
) -> Iterator[Session]:
    """Lock a folder against others that want the same lock, and make a private folder in it.

    With ``create``, a missing folder is made, and is removed again if nothing was put into it.
    """
    with _made(target) if create else contextlib.nullcontext(), locked(target, lock, patience=patience):
        with explaining(target):
            _remove_dead(target, _PREFIXES[lock])
            folder = Path(tempfile.mkdtemp(prefix=_PREFIXES[lock], dir=target))
            if target.stat().st_mode & stat.S_IWGRP:  # if we are killed, a colleague removes it
                folder.chmod(0o2770)
        try:
            yield Session(target, folder)
        finally:
            with uninterrupted():
                shutil.rmtree(folder)


def check_can_be_made(folder: Path) -> None:
    """Check that a folder exists, or can be made because the one that it is in exists."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, not a folder", hint="choose another name")
    if not folder.is_dir() and not folder.parent.is_dir():
        raise UsageError(
            f"the folder {folder.parent} does not exist", hint=f"create it: mkdir -p {folder.parent}"
        )


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir()
    except FileExistsError:
        yield
        return
    except OSError as error:
        raise explain(error, folder) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it is not empty after a successful run
            folder.rmdir()


@contextlib.contextmanager
def locked(target: Path, name: str = LOCK_NAME, *, patience: float = 0.0) -> Iterator[None]:
    """Lock a served folder against others that want the same lock; wait for them so many seconds."""
    path, until = target / name, time.monotonic() + patience
    while (lock := _open_locked(path)) is None:
        if time.monotonic() >= until:
            who = _HOLDERS.get(name, "publisher")
            raise WorkspaceError(
                f"another {who} is at work in {target}", hint="wait until it is done, then try again"
            )
        time.sleep(_POLL)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # an empty file that stays does no harm
            path.unlink()
        os.close(lock)


def _open_locked(path: Path) -> int | None:
    """Open a lock file and lock it; None when another program holds it, or has removed it at its end."""
    with explaining(path):
        # For whom the folder is writable: operators of one group may have to wait for each other.
        mode = path.parent.stat().st_mode & 0o660
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with contextlib.suppress(PermissionError):  # it is another publisher's
            os.fchmod(lock, mode)  # whatever the umask says
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), path.lstat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass  # the descriptor is closed below
    except OSError as error:
        os.close(lock)
        raise explain(error, path) from error
    os.close(lock)
    return None


def _remove_dead(target: Path, prefix: str) -> None:
    """Remove the folders of killed publishers: we hold the lock, so none of them is alive."""
    for left in target.glob(f"{prefix}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
