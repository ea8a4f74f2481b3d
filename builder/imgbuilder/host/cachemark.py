"""Lock files that mark a folder as a cache: files are only removed from folders with a mark.

Other files may have the names of a cache's files, but not a lock file with this content. Lock files of
earlier versions are empty.
"""

from __future__ import annotations

import enum
import os

LOCK_NAME = "lock"
"""Name of the file."""
_MARK = b"pybuilder: this folder is a cache, and what pybuilder put here can be deleted at any time\n"


class Marker(enum.Enum):
    """State of a folder according to its lock file."""

    OURS = enum.auto()
    EMPTY = enum.auto()
    """The lock file is new, or of an earlier version."""
    FOREIGN = enum.auto()


def read(descriptor: int) -> Marker:
    """Read an open lock file, once: another process may mark it at any moment."""
    content = os.pread(descriptor, len(_MARK) + 1, 0)
    if content == _MARK:
        return Marker.OURS
    return Marker.FOREIGN if content else Marker.EMPTY


def mark(descriptor: int) -> None:
    """Mark the folder of an open lock file as a cache."""
    if read(descriptor) is not Marker.OURS:
        os.pwrite(descriptor, _MARK, 0)
