"""Temporary folders that are certainly gone afterwards, on a filesystem with room for whole systems."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.errors import WorkspaceError
from imgbuilder.interrupts import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
    parent = Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - a random name is made in it
    try:
        facts = os.statvfs(parent)
        if facts.f_bavail * facts.f_frsize < needed:
            raise WorkspaceError(
                f"not enough space in {parent}: {needed >> 20} MiB needed, "
                f"{facts.f_bavail * facts.f_frsize >> 20} MiB free",
                hint="free some space, or set TMPDIR to a folder with more",
            )
        folder = Path(tempfile.mkdtemp(prefix="pybuilder-repo.", dir=parent))
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
