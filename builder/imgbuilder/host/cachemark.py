"""Lock files that mark a folder as ours: nothing is removed from a folder without one.

A folder may hold files of others that bear names of ours; a lock file with our line in it does not come
there by itself. Those of earlier versions are empty.
"""

from __future__ import annotations

import os

LOCK_NAME = "lock"
"""Name of the file."""
_MARK = b"pybuilder: this folder is a cache, and what pybuilder put here can be deleted at any time\n"


def is_marked(descriptor: int) -> bool:
    """Say whether an open lock file is ours for certain.

    Raises:
        OSError: It cannot be read.
    """
    return os.pread(descriptor, len(_MARK) + 1, 0) == _MARK


def is_unmarked(descriptor: int) -> bool:
    """Say whether an open lock file is empty: one that was just made, or of an earlier version.

    Raises:
        OSError: It cannot be looked at.
    """
    return os.fstat(descriptor).st_size == 0


def mark(descriptor: int) -> None:
    """Make an open lock file, and with it its folder, ours.

    Raises:
        OSError: It cannot be written.
    """
    os.pwrite(descriptor, _MARK, 0)
