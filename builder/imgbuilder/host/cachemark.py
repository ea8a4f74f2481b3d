"""Lock files that mark a folder as ours: nothing is removed from a folder without one.

A folder may hold files of others that bear names of ours; a lock file with our line in it does not come
there by itself. Those of earlier versions are empty.
"""

from __future__ import annotations

import enum
import os

LOCK_NAME = "lock"
"""Name of the file."""
_MARK = b"pybuilder: this folder is a cache, and what pybuilder put here can be deleted at any time\n"


class Marker(enum.Enum):
    """What an open lock file says about its folder."""

    OURS = enum.auto()
    EMPTY = enum.auto()
    """The lock file was just made, or an earlier version made it."""
    FOREIGN = enum.auto()


def read(descriptor: int) -> Marker:
    """Read an open lock file, once: another process may mark it at any moment.

    Raises:
        OSError: It cannot be read.
    """
    content = os.pread(descriptor, len(_MARK) + 1, 0)
    if content == _MARK:
        return Marker.OURS
    return Marker.FOREIGN if content else Marker.EMPTY


def mark(descriptor: int) -> None:
    """Make an open lock file, and with it its folder, ours.

    Raises:
        OSError: It cannot be written.
    """
    if read(descriptor) is not Marker.OURS:
        os.pwrite(descriptor, _MARK, 0)
