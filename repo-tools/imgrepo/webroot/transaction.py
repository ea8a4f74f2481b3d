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
import tempfile
from collections.abc import Iterator
from pathlib import Path

from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.workspace import explain, explaining
from imgindex.files import sync_folder

LOCK_NAME = ".pybuilder-repo.lock"
_PREFIX = ".pybuilder-publish."


class Session:
    """One publisher's change of a served folder; new files are made in ``folder``, a private one in it."""

    def __init__(self, target: Path, folder: Path) -> None:
        self._target = target
        self.folder = folder

    def commit(self, name: str) -> None:
        """Move a complete file to its place, durably and readable by the web server."""
        staged, final = self.folder / name, self._target / name
        with explaining(final):
            with staged.open("rb") as file:
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            staged.replace(final)
            sync_folder(self._target)

    def write(self, name: str, content: bytes) -> None:
        """Put a small file in its place; see ``commit``."""
        path = self.folder / name
        with explaining(path):
            path.write_bytes(content)
        self.commit(name)


@contextlib.contextmanager
def open_session(target: Path, *, create: bool = False) -> Iterator[Session]:
    """Lock a folder against other publishers and make a private folder in it.

    With ``create``, a missing folder is made, and is removed again if nothing was put into it.
    """
    with _made(target) if create else contextlib.nullcontext(), _locked(target):
        with explaining(target):
            _remove_dead(target)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=target))
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
        raise UsageError(f"there is no folder {folder.parent}", hint=f"create it: mkdir -p {folder.parent}")


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
def _locked(target: Path) -> Iterator[None]:
    path = target / LOCK_NAME
    with explaining(path):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not _lock(lock, path):
            raise WorkspaceError(
                f"another publisher is at work in {target}", hint="wait until it is done, then publish again"
            )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # an empty file that stays does no harm
                path.unlink()
    finally:
        os.close(lock)


def _lock(lock: int, path: Path) -> bool:
    """Lock an open file; False when another program holds it, or has removed it at its end."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove_dead(target: Path) -> None:
    """Remove the folders of killed publishers: we hold the lock, so none of them is alive."""
    for left in target.glob(f"{_PREFIX}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
