"""Digests of files, streams and what disks hold, as hex digits, and fingerprints that show a change."""

from __future__ import annotations

import collections
import hashlib
import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from imgbuilder.events import Progress, ProgressEnd, Reporter, ignore
from imgbuilder.host.sparse import BLOCK, data_ranges
from imgindex.files import open_file

if TYPE_CHECKING:
    from concurrent.futures import Future

    from _typeshed import ReadableBuffer  # exists for type checkers only

PIECE = 1 << 20
"""Bytes that are read at once."""
_THREADS = 2
"""Threads that hash: more are seldom quicker than the caller writes."""


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


def hashed_blocks(descriptor: int, block_size: int, size: int) -> Iterator[tuple[int, bytes, memoryview]]:
    """Yield number, SHA-256 and bytes of each block of an open disk that is not a hole.

    Its position is not used. Other threads read ahead and hash, while the caller works; bytes are overwritten
    when the next block is asked for. The last block may be shorter than the others.
    """
    from concurrent.futures import ThreadPoolExecutor  # late: rare

    def work(numbers: list[int], buffer: memoryview) -> list[tuple[int, bytes, memoryview]]:
        pieces = []
        for number in numbers:
            piece = buffer[: os.preadv(descriptor, [buffer[:block_size]], number * block_size)]
            pieces.append((number, hashlib.sha256(piece).digest(), piece))
            buffer = buffer[block_size:]
        return pieces

    at_once, numbers = max(1, PIECE // 2 // block_size), _data_blocks(descriptor, block_size, size)
    waiting: collections.deque[Future[list[tuple[int, bytes, memoryview]]]] = collections.deque()
    # Always the same ones: the system would clear new memory first.
    buffers = itertools.cycle([memoryview(bytearray(at_once * block_size)) for _ in range(_THREADS + 1)])
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            while some := list(itertools.islice(numbers, at_once)):
                waiting.append(pool.submit(work, some, next(buffers)))
                if len(waiting) > _THREADS:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _data_blocks(descriptor: int, block_size: int, size: int) -> Iterator[int]:
    """Yield the numbers of the blocks that are not holes."""
    after = 0
    for start, end in data_ranges(descriptor, size):
        first, after = max(after, start // block_size), -(-end // block_size)
        yield from range(first, after)


class ContentDigest:
    """Digest of what a disk holds, whichever parts of it are holes.

    It is the SHA-256 over the place and the SHA-256 of each block that is not all zeros, and over the size.
    So it costs as much as the disk has data, a copy with other holes has the same one, and it follows
    from a list of the blocks without reading the disk. The cache remembers it for unpacked disks, whose
    content no signed index names.
    """

    def __init__(self, block_size: int = BLOCK) -> None:
        self._block_size, self._digest = block_size, hashlib.sha256()
        self._zeros = hashlib.sha256(bytes(block_size)).digest()

    def add(self, offset: int, length: int, digest: bytes) -> None:
        """Add the next block, by its SHA-256; only the last one of a disk is shorter."""
        whole = length == self._block_size
        if digest != (self._zeros if whole else hashlib.sha256(bytes(length)).digest()):
            self._digest.update(offset.to_bytes(8, "big"))
            self._digest.update(digest)

    def finish(self, size: int) -> str:
        """Return the size of a block, and in hex the digest of a disk of ``size`` bytes."""
        self._digest.update(size.to_bytes(8, "big"))
        return f"{self._block_size}:{self._digest.hexdigest()}"


def content_digest(descriptor: int, block_size: int = BLOCK) -> str:
    """Return the content digest of an open disk; its position is not used."""
    digest, size = ContentDigest(block_size), os.fstat(descriptor).st_size
    for number, found, piece in hashed_blocks(descriptor, block_size, size):
        digest.add(number * block_size, len(piece), found)
    return digest.finish(size)
