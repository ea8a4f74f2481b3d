"""Temporary folders that are certainly gone afterwards, on a filesystem with room for whole systems.

A folder is locked while it is used. Those that a killed publisher left are not, and go at the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imgbuilder.errors import WorkspaceError
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.paths import temporary_dir

_PREFIX = "pybuilder-repo."
_NEWBORN = 60.0
"""Seconds in which a folder may not be locked yet."""


@contextlib.contextmanager
def scratch_folder(
    *, needed: int = 0, mode: int = 0o700, before_removal: Callable[[Path], object] | None = None
) -> Iterator[Path]:
    """Make a folder with a random name in TMPDIR, by default /var/tmp, where large files belong.

    Args:
        needed: Bytes that will be written into it.
        mode: Its permission bits.
        before_removal: Called with the folder before it is removed.

    Raises:
        WorkspaceError: It cannot be made, or there is less free space than needed.
    """
    parent = temporary_dir()
    try:
        sweep(parent)
        facts = os.statvfs(parent)
        if facts.f_bavail * facts.f_frsize < needed:
            raise WorkspaceError(
                f"not enough space in {parent}: {needed >> 20} MiB needed, "
                f"{facts.f_bavail * facts.f_frsize >> 20} MiB free",
                hint="free some space, or set TMPDIR to a folder with more",
            )
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise WorkspaceError(
            f"cannot make a temporary folder in {parent}: {error.strerror}",
            hint="set TMPDIR to another folder",
        ) from error
    try:
        folder.chmod(mode)
        yield folder
    finally:
        with uninterrupted():
            if before_removal is not None:
                before_removal(folder)
            shutil.rmtree(folder)
            os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove the folders that killed publishers of this user left in ``parent``.

    Raises:
        OSError: ``parent`` cannot be read.
    """
    for path in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another one sweeps, or it is not ours to open
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                facts = os.fstat(descriptor)
                # One that was just made may not be locked yet.
                if facts.st_uid == os.geteuid() and time.time() - facts.st_mtime > _NEWBORN:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
