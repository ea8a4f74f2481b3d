"""Copies disk images without their holes.

A disk of 20 GiB may contain a few hundred megabytes; writing its zeros would cost minutes and space. A clone
of the file's extents is tried first, then a copy inside the kernel, then reading and writing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from imgbuilder.errors import WorkspaceError
from imgbuilder.events import Progress, ProgressEnd, Reporter, ignore
from imgbuilder.host import imagelocks
from imgbuilder.sizes import human_size
from imgindex.files import open_empty

BLOCK = 1 << 16
"""Granularity of holes in bytes: only a whole aligned block of zeros becomes a hole."""

_FICLONE = 0x40049409
"""``FICLONE`` of linux/fs.h: share the extents of a whole file."""

_PIECE = 1 << 20
_KERNEL_PIECE = 8 << 20
_BEGIN_WRITING = 2
"""``SYNC_FILE_RANGE_WRITE`` of linux/fs.h."""
_PUNCH_HOLE = 3
"""``FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`` of linux/falloc.h."""
_BEHIND = 16 << 20
"""Bytes after which the kernel is asked to begin to write."""
_ZEROS = bytes(BLOCK)

_NO_CLONE = {
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EPERM,
}
_NO_KERNEL_COPY = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}


_libc = ctypes.CDLL(None)
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate  # musl has only one, of 64 bits


class WriteBehind:
    """Makes the kernel bring a file to the disk while it is written, so that syncing it takes little time.

    By itself, the kernel would begin after half a minute, or with the sync. Errors are those of the sync.
    """

    def __init__(self, descriptor: int, offset: int = 0) -> None:
        self._descriptor = descriptor
        self._begun = offset

    def reached(self, offset: int) -> None:
        """Take note that the file is written up to an offset."""
        if offset - self._begun >= _BEHIND:
            count = ctypes.c_int64(offset - self._begun)
            _libc.sync_file_range(self._descriptor, ctypes.c_int64(self._begun), count, _BEGIN_WRITING)
            self._begun = offset


def write_at(descriptor: int, piece: bytes | memoryview, at: int) -> None:
    """Write all of some bytes to a place in a file."""
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(descriptor, rest, at)
        rest, at = rest[written:], at + written


class SparseWriter:
    """Writes a new file in order, leaving holes where whole blocks are zero."""

    def __init__(self, descriptor: int, offset: int = 0) -> None:
        self.descriptor = descriptor
        self.offset = offset

    def write(self, data: bytes | bytearray) -> None:
        """Append bytes; pieces that are a multiple of ``BLOCK`` keep the holes aligned."""
        view = memoryview(data)
        start = 0
        for position in range(0, len(data), BLOCK):
            block = data[position : position + BLOCK]  # a copy: comparing memoryviews is slow
            if block == _ZEROS[: len(block)]:
                self._put(view[start:position], start)
                start = position + len(block)
            else:
                self.note(self.offset + position, block)
        self._put(view[start:], start)
        self.offset += len(data)

    def note(self, offset: int, block: bytes | bytearray) -> None:
        """Take note of a block that is not all zeros; not needed here."""

    def _put(self, piece: memoryview, position: int) -> None:
        write_at(self.descriptor, piece, self.offset + position)

    def finish(self) -> None:
        """Give the file its full size, which a hole at the end needs."""
        os.ftruncate(self.descriptor, self.offset)


def copy_sparse(source: Path, destination: Path, on_event: Reporter = ignore, *, label: str = "") -> None:
    """Copy an image to another file of the same size and content, with shared extents or holes if possible.

    A new file has mode 0600. The copy is complete but not synced. It is removed when copying fails.
    """
    try:
        with (
            open(source, "rb", buffering=0) as old,
            os.fdopen(open_empty(destination), "r+b", buffering=0) as new,
        ):
            try:
                imagelocks.hold(old.fileno(), source)
                copy_descriptor(old.fileno(), new.fileno(), on_event, label=label)
            except BaseException:
                destination.unlink()
                raise
    except OSError as error:
        raise _copy_error(source, destination, error) from error


def _copy_error(source: Path, destination: Path, error: OSError) -> WorkspaceError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return WorkspaceError(f"cannot copy {source} to {destination}: {error.strerror}")
    return WorkspaceError(
        f"no space left in {destination.parent} for a copy of {source}",
        hint=f"free up to {human_size(disk_usage(source))}, or use a folder of another filesystem",
    )


def copy_descriptor(source: int, destination: int, on_event: Reporter = ignore, *, label: str = "") -> None:
    """Copy one open image to another open, empty, ordinary file."""
    size = os.fstat(source).st_size
    try:
        if not clone(source, destination):
            os.ftruncate(destination, size)
            ranges = list(data_ranges(source, size))
            copied = _Copied(destination, on_event, label, ranges)
            for start, end in ranges:
                _copy_range(source, destination, start, end, copied)
        _check_size(source, size)
    finally:
        on_event(ProgressEnd())


def copy_and_hash(source: int, destination: int, on_event: Reporter = ignore, *, label: str = "") -> str:
    """Copy as ``copy_descriptor`` does, and return the SHA-512 of the bytes that were read."""
    size, done, digest = os.fstat(source).st_size, 0, hashlib.sha512()
    try:
        os.ftruncate(destination, size)
        ranges = list(data_ranges(source, size))
        copied = _Copied(destination, on_event, label, ranges)
        for start, end in ranges:
            _hash_zeros(digest, start - done)
            _copy_by_hand(source, destination, start, end, copied, digest)
            done = end
        _hash_zeros(digest, size - done)
        _check_size(source, size)
    finally:
        on_event(ProgressEnd())
    return digest.hexdigest()


class _Copied:
    """Takes note of what was copied, and reports the progress by the bytes of data: holes take no time."""

    def __init__(
        self, destination: int, on_event: Reporter, label: str, ranges: Sequence[tuple[int, int]]
    ) -> None:
        self._behind, self._on_event, self._label = WriteBehind(destination), on_event, label
        self._done, self._total = 0, sum(end - start for start, end in ranges)

    def __call__(self, start: int, end: int) -> None:
        self._done += end - start
        self._behind.reached(end)
        self._on_event(Progress(self._label, self._done, self._total))


def _check_size(source: int, size: int) -> None:
    if os.fstat(source).st_size != size:  # beyond its end, a file seems to have a hole
        raise OSError(errno.EIO, "the file changed its size while it was copied")


def _hash_zeros(digest: hashlib._Hash, count: int) -> None:
    while count > 0:
        digest.update(_ZEROS[:count])
        count -= len(_ZEROS)


def clone(source: int, destination: int) -> bool:
    """Let a file have the extents and the size of another one; False if the filesystem cannot do that."""
    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
        return False
    return True


def data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part of a file that is not a hole."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        position = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        if start < position:
            yield start, position


def _copy_range(source: int, destination: int, start: int, end: int, copied: _Copied) -> None:
    position = start
    while position < end:
        try:
            count = os.copy_file_range(
                source, destination, min(_KERNEL_PIECE, end - position), position, position
            )
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
            count = 0
        if count == 0:  # some filesystems copy only within themselves
            _copy_by_hand(source, destination, position, end, copied)
            return
        copied(position, position + count)
        position += count


def _copy_by_hand(
    source: int,
    destination: int,
    position: int,
    end: int,
    copied: _Copied,
    digest: hashlib._Hash | None = None,
) -> None:
    writer = SparseWriter(destination, position)
    while writer.offset < end:
        start = writer.offset
        piece = os.pread(source, min(_PIECE, end - start), start)
        if not piece:
            raise OSError(errno.EIO, "the file changed its size while it was copied")
        if digest is not None:
            digest.update(piece)
        writer.write(piece)
        copied(start, writer.offset)


def clear(descriptor: int, start: int, end: int) -> None:
    """Make a part of a file zeros, which take no space if the filesystem can do that."""
    if _fallocate(descriptor, _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(end - start)) != 0:
        write_at(descriptor, bytes(end - start), start)


def disk_usage(path: Path) -> int:
    """Return the number of bytes that a file uses on disk, without holes."""
    return path.stat().st_blocks * 512  # st_blocks counts in 512 bytes everywhere on Linux, see stat(2)
