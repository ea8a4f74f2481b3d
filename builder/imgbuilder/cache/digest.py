"""Digests of files, taken while they are written or read: SHA-512, which all else goes by, and others."""

from __future__ import annotations

import hashlib
import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer  # exists for type checkers only

_PIECE = 1 << 20


class HashingFile(io.FileIO):
    """A file that knows the digest of what was written to it, in the order of writing.

    Args:
        descriptor: An empty file, open for writing (for reading too, when it is read again); it stays open.
        sha256: Whether its SHA-256 is wanted as well.
    """

    def __init__(self, descriptor: int, *, sha256: bool = False) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._wants_sha256 = sha256
        self._begin()

    def _begin(self) -> None:
        self._digest = hashlib.sha512()
        self._sha256 = hashlib.sha256() if self._wants_sha256 else None

    def _take(self, data: memoryview | bytes) -> None:
        self._digest.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some bytes and return how many were taken."""
        count = super().write(data)
        self._take(memoryview(data)[:count])
        return count

    def read_again(self) -> int:
        """Take the bytes that the file holds already as written; the position is behind them afterwards.

        Returns:
            How many there are.

        Raises:
            OSError: They cannot be read.
        """
        self._begin()
        count = 0
        while piece := os.pread(self.fileno(), _PIECE, count):
            self._take(piece)
            count += len(piece)
        self.seek(count)
        return count

    def clear(self) -> None:
        """Drop all bytes.

        Raises:
            OSError: The file cannot be written.
        """
        self.seek(0)
        self.truncate()
        self._begin()

    def sha512(self) -> str:
        """Return the digest so far as lower-case hex digits."""
        return self._digest.hexdigest()

    def sha256(self) -> str | None:
        """Return the SHA-256 of what was written, likewise; None when it was not wanted."""
        return None if self._sha256 is None else self._sha256.hexdigest()
