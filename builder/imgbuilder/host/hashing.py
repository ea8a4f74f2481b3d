"""Digests of files, streams and what disks hold, as hex digits, and fingerprints that show a change."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from imgbuilder.events import Progress, ProgressEnd, Reporter, ignore
from imgbuilder.host.sparse import data_ranges
from imgindex.files import open_file

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer  # exists for type checkers only

PIECE = 1 << 20
"""Bytes that are read at once, and checked for zeros together: part of the definition of a content digest."""

_ZEROS = bytes(PIECE)


class Readable(Protocol):
    """Anything that bytes can be read from."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; none at the end."""


def hash_stream(
    stream: Readable,
    algorithm: str = "sha512",
    on_event: Reporter = ignore,
    *,
    label: str = "",
    total: int | None = None,
) -> str:
    """Return the digest of the rest of a stream."""
    digest, done = hashlib.new(algorithm), 0
    try:
        while piece := stream.read(PIECE):
            digest.update(piece)
            done += len(piece)
            on_event(Progress(label, done, total))
    finally:
        on_event(ProgressEnd())
    return digest.hexdigest()


def hash_file(
    path: Path, algorithm: str = "sha512", on_event: Reporter = ignore, *, label: str = "", flags: int = 0
) -> str:
    """Return the digest of a regular file."""
    with open_file(path, flags) as file:
        size = os.fstat(file.fileno()).st_size
        return hash_stream(file, algorithm, on_event, label=label, total=size)


class Fingerprint(NamedTuple):
    """The facts of stat(2) that show that a file was written to or replaced.

    The change time cannot be set back without being root or turning the clock.
    """

    size: int
    mtime_ns: int
    """Last change of its bytes, in nanoseconds since 1970."""
    ctime_ns: int
    """Last change of its bytes or its inode."""
    inode: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Fingerprint:
        """Take it from the result of stat(2)."""
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)


class HashingFile(io.FileIO):
    """A file that takes the digest of the bytes written to it, in the order of writing.

    Args:
        descriptor: An empty file, open for writing, and for reading if ``read_again`` is used; it stays open.
        sha256: Take its SHA-256 as well.
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
        """Write some bytes and return how many were written."""
        count = super().write(data)
        self._take(memoryview(data)[:count])
        return count

    def read_again(self) -> int:
        """Take the bytes in the file as written, move behind them, and return their number."""
        self._begin()
        count = 0
        while piece := os.pread(self.fileno(), PIECE, count):
            self._take(piece)
            count += len(piece)
        self.seek(count)
        return count

    def clear(self) -> None:
        """Drop all bytes."""
        self.seek(0)
        self.truncate()
        self._begin()

    def sha512(self) -> str:
        """Return the digest so far as lower-case hex digits."""
        return self._digest.hexdigest()

    def sha256(self) -> str | None:
        """Return the SHA-256 so far, likewise; None when it is not taken."""
        return None if self._sha256 is None else self._sha256.hexdigest()


class ContentDigest:
    """Digest of what a disk holds, whichever parts of it are holes.

    It is the SHA-256 over each piece that is not all zeros, with its place, and over the size. So it costs as
    much as the disk has data, and a copy with other holes has the same one. The cache remembers it for
    unpacked disks, whose content no signed index names.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, offset: int, piece: bytes | bytearray) -> None:
        """Add the next ``PIECE`` bytes, at a multiple of that; only the last piece of a disk is shorter."""
        if piece != _ZEROS[: len(piece)]:
            self._digest.update(offset.to_bytes(8, "big"))
            self._digest.update(piece)

    def finish(self, size: int) -> str:
        """Return the digest of a disk of this size in hex."""
        self._digest.update(size.to_bytes(8, "big"))
        return self._digest.hexdigest()


def content_digest(descriptor: int) -> str:
    """Return the content digest of an open disk; its position is not used."""
    digest, size, done = ContentDigest(), os.fstat(descriptor).st_size, 0
    for start, end in data_ranges(descriptor, size):
        position = max(done, start - start % PIECE)
        while position < end:
            digest.add(position, os.pread(descriptor, PIECE, position))
            position += PIECE
        done = position
    return digest.finish(size)
