"""Opening files that may turn out to be something else: the one way to read a file that is not our own.

A FIFO that nothing writes to would be waited for without end, and a device read without end.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

_DESCRIPTOR = re.compile(r"/dev/(?:(stdin)|fd/([0-9]{1,6}))|/proc/self/fd/([0-9]{1,6})")


def open_file(path: Path, flags: int = 0) -> BufferedReader:
    """Open an ordinary file for reading, as ``open_regular`` does."""
    return os.fdopen(open_regular(path, flags), "rb")


def open_given(path: Path) -> BufferedReader:
    """Open a file that the user names to be read once, from its beginning to its end.

    It is an ordinary file, or one of our own open descriptors, of any kind: ``/dev/stdin``, and
    ``/dev/fd/63``, which the shell makes of ``<(command)``. Whoever names these wants us to wait.

    Raises:
        OSError: It cannot be opened, or is neither.
    """
    own = _DESCRIPTOR.fullmatch(str(path))
    if own is None:
        return open_file(path)
    return os.fdopen(os.dup(int(own[2] or own[3] or 0)), "rb")  # which refuses a folder


def open_regular(path: Path, flags: int = 0) -> int:
    """Open an ordinary file for reading.

    A FIFO is not waited for, a device is not read, and a folder is told apart before Python sees it.

    Args:
        path: The file.
        flags: Further flags of open(2), such as ``os.O_NOFOLLOW``.

    Returns:
        Its descriptor.

    Raises:
        OSError: It cannot be opened, or is no ordinary file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, "not a valid file name", str(path)) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return descriptor


def open_empty(path: Path) -> int:
    """Open a new file, or one that is still empty, for reading and writing.

    Links are not followed, and nothing that has content is touched.

    Args:
        path: The file; made with mode 0600 if it does not exist.

    Returns:
        Its descriptor.

    Raises:
        OSError: It cannot be made or opened, is no ordinary file, or is not empty.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        os.close(descriptor)
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return descriptor
