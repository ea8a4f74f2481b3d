"""SHA-512 of files, taken while they are written or read."""

from __future__ import annotations

import hashlib
import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

    from _typeshed import ReadableBuffer

_PIECE = 1 << 20


class HashingFile(io.FileIO):
    """A file that knows the digest of what was written to it, in the order of writing.

    Args:
        descriptor: An empty file, open for writing (for reading too, when it is read again); it stays open.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._digest = hashlib.sha512()

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some bytes and return how many were taken."""
        count = super().write(data)
        self._digest.update(memoryview(data)[:count])
        return count

    def read_again(self) -> int:
        """Take the bytes that the file holds already as written; the position is behind them afterwards.

        Returns:
            How many there are.

        Raises:
            OSError: They cannot be read.
        """
        self._digest = hashlib.sha512()
        count = 0
        while piece := os.pread(self.fileno(), _PIECE, count):
            self._digest.update(piece)
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
        self._digest = hashlib.sha512()

    def sha512(self) -> str:
        """Return the digest so far as lower-case hex digits."""
        return self._digest.hexdigest()


def sha512_of(file: BinaryIO) -> str:
    """Return the digest of the rest of an open file as lower-case hex digits.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha512()
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()
