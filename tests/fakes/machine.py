"""A program that uses a disk as a running machine does: with the locks that QEMU takes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

WRITER = (100, 101, 103, 201, 203)
"""Bytes that QEMU locks for a machine with a disk that it writes to: used, and not granted to others."""
READER = (100, 201, 203)
"""The same for a disk that it only reads."""


@contextlib.contextmanager
def locked(path: Path, places: tuple[int, ...] = WRITER) -> Iterator[int]:
    """Hold locks of one byte on a file, which is opened for that; yield the descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for place in places:
            wanted = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, place, 1, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
        yield descriptor
    finally:
        os.close(descriptor)
