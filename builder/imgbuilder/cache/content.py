"""A digest of what a disk holds, whichever parts of it are holes.

Zeros are left out, so that taking it costs as much as the disk has data, and a
copy with other holes has the same one. The cache remembers it for unpacked
disks, of which no signed index says what is in them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from imgbuilder.cache.records import read_record
from imgbuilder.host.sparse import data_ranges

PIECE = 1 << 20
"""Bytes that are looked at together; part of what the digest means."""

_ZEROS = bytes(PIECE)


class ContentDigest:
    """SHA-256 over each piece that is not all zeros, with its place, and over the size."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, offset: int, piece: bytes | bytearray) -> None:
        """Take the next piece.

        Args:
            offset: Where it begins: a multiple of ``PIECE``.
            piece: Its bytes: ``PIECE`` of them, fewer only at the end of the disk.
        """
        if piece != _ZEROS[: len(piece)]:
            self._digest.update(offset.to_bytes(8, "big"))
            self._digest.update(piece)

    def finish(self, size: int) -> str:
        """Return the digest of a disk of this size in hex."""
        self._digest.update(size.to_bytes(8, "big"))
        return self._digest.hexdigest()


def content_digest(descriptor: int) -> str:
    """Return the digest of an open disk; its position is not used.

    Raises:
        OSError: It cannot be read.
    """
    digest, size, done = ContentDigest(), os.fstat(descriptor).st_size, 0
    for start, end in data_ranges(descriptor, size):
        position = max(done, start - start % PIECE)
        while position < end:
            digest.add(position, os.pread(descriptor, PIECE, position))
            position += PIECE
        done = position
    return digest.finish(size)


def has_content(path: Path, descriptor: int) -> bool:
    """Say whether an open disk has the size and the data that its record says; False without such a record.

    Raises:
        OSError: It cannot be read.
    """
    record = read_record(path) or {}
    known = record.get("content")
    if not isinstance(known, str) or record.get("size") != os.fstat(descriptor).st_size:
        return False
    return content_digest(descriptor) == known
