"""Files that appear whole or not at all, even when the power fails (``docs/threat-model.md`` F17)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPORARY_PREFIX = ".part-"
"""How the names of unfinished files begin."""


@contextlib.contextmanager
def temporary_file(folder: Path, owner: str = "") -> Iterator[tuple[int, Path]]:
    """Make an empty file with mode 0600; it is gone afterwards unless it was published.

    Args:
        folder: Where.
        owner: Becomes a part of its name, for those who clean up after a killed program.

    Yields:
        Its descriptor, open for reading and writing and closed afterwards, and its path.

    Raises:
        OSError: It cannot be made.
    """
    import tempfile  # late: lists mostly write nothing

    descriptor, name = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}{owner}", dir=folder)
    path = Path(name)
    try:
        yield descriptor, path
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def publish(descriptor: int, temporary: Path, final: Path) -> None:
    """Give a finished file its name: sync the file, rename it, sync the folder, in this order.

    Args:
        descriptor: The temporary file, open.
        temporary: Its path, in the same folder as ``final``.
        final: Its name; what had that name before is replaced.

    Raises:
        OSError: One of the steps failed. A failed sync must not be tried again: the data are lost.
    """
    os.fsync(descriptor)
    temporary.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk.

    Raises:
        OSError: That failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
