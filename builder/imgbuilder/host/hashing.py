"""Digests of files and streams, as lower-case hex digits, and fingerprints that show a change."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple, Protocol

from imgbuilder.events import Progress, ProgressEnd, Reporter, ignore
from imgindex.files import open_file

PIECE = 1 << 20
"""Bytes that are read at once."""


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
    """Return the digest of the rest of a stream.

    Args:
        stream: The stream.
        algorithm: Name of the hash function, as hashlib knows it.
        on_event: Called with progress events.
        label: Text of the progress bar.
        total: Expected number of bytes, for progress.
    """
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
    """Return the digest of a regular file.

    Args:
        path: The file.
        algorithm: Name of the hash function, as hashlib knows it.
        on_event: Called with progress events.
        label: Text of the progress bar.
        flags: Further flags of open(2), such as ``os.O_NOFOLLOW``.

    Raises:
        OSError: It cannot be read, or is not a regular file.
    """
    with open_file(path, flags) as file:
        size = os.fstat(file.fileno()).st_size
        return hash_stream(file, algorithm, on_event, label=label, total=size)


class Fingerprint(NamedTuple):
    """The facts of stat(2) that show that a file was written to or replaced.

    The change time cannot be set back without being root or turning the clock.

    Attributes:
        size: Bytes.
        mtime_ns: Last change of its bytes, in nanoseconds since 1970.
        ctime_ns: Last change of its bytes or its inode.
        inode: Number of its inode.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Fingerprint:
        """Take it from the result of stat(2)."""
        return cls(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
