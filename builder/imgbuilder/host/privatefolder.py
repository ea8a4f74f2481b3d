"""Temporary folders that are removed afterwards; folders of killed runs are removed by the next run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from imgbuilder.errors import WorkspaceError
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.paths import temporary_dir
from imgbuilder.host.socketdirs import RELEASE_LIMIT, SHORT, remove_with_socket_dirs
from imgbuilder.host.workspace import check_space, explain, hold_shared

_FOLDER = ".pybuilder-run-"
_NEW_FOLDER = ".pybuilder-new-"
"""Name prefix of folders until they are locked; nothing is in them yet."""


@contextlib.contextmanager
def private_folder(base: Path = SHORT) -> Iterator[Path]:
    """Make a private folder in ``base`` and remove it afterwards, with its socket folders (``socketdirs``).

    Folders that killed runs of this user left in ``base`` are removed first.
    """
    try:
        _sweep_folders(base)
        new, holder = _new_folder(base)
        folder = base / f"{_FOLDER}{new.name.removeprefix(_NEW_FOLDER)}"
        try:
            new.rename(folder)  # a sweep removes the content only under this name, and now it is locked
        except OSError:
            os.close(holder)
            new.rmdir()
            raise
    except OSError as error:
        raise explain(error, base / _FOLDER) from error
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
    """Make a private folder for large files in TMPDIR, by default /var/tmp, and remove it afterwards.

    Args:
        needed: Bytes that will be written into it; checked first.
        mode: Its permission bits.
        before_removal: Called with the folder before it is removed.
    """
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


def _sweep_folders(base: Path) -> None:
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
