"""Copies disk images without their holes.

A disk of 20 GiB may contain a few hundred megabytes; writing its zeros would cost minutes and space. A clone
of the file's extents is tried first, then a copy inside the kernel, then reading and writing.
"""

from __future__ import annotations

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
_KERNEL_PIECE = 32 << 20
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


class SparseWriter:
    """Writes a new file in order, leaving holes where whole blocks are zero."""

    def __init__(self, descriptor: int, offset: int = 0) -> None:
        self._descriptor = descriptor
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
        self._put(view[start:], start)
        self.offset += len(data)

    def _put(self, rest: memoryview, position: int) -> None:
        at = self.offset + position
        while rest:
            written = os.pwrite(self._descriptor, rest, at)
            rest, at = rest[written:], at + written

    def finish(self) -> None:
        """Give the file its full size, which a hole at the end needs."""
        os.ftruncate(self._descriptor, self.offset)


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
        if not _clone(source, destination):
            os.ftruncate(destination, size)
            ranges = list(data_ranges(source, size))
            report = _Counted(on_event, label, ranges)
            for start, end in ranges:
                _copy_range(source, destination, start, end, report)
        _check_size(source, size)
    finally:
        on_event(ProgressEnd())


def copy_and_hash(source: int, destination: int, on_event: Reporter = ignore, *, label: str = "") -> str:
    """Copy as ``copy_descriptor`` does, and return the SHA-512 of the bytes that were read."""
    size, done, digest = os.fstat(source).st_size, 0, hashlib.sha512()
    try:
        os.ftruncate(destination, size)
        ranges = list(data_ranges(source, size))
        report = _Counted(on_event, label, ranges)
        for start, end in ranges:
            _hash_zeros(digest, start - done)
            _copy_by_hand(source, destination, start, end, report, digest)
            done = end
        _hash_zeros(digest, size - done)
        _check_size(source, size)
    finally:
        on_event(ProgressEnd())
    return digest.hexdigest()


class _Counted:
    """Reports the progress of a copy by the bytes of its data ranges: holes take no time."""

    def __init__(self, on_event: Reporter, label: str, ranges: Sequence[tuple[int, int]]) -> None:
        self._on_event, self._label = on_event, label
        self._done, self._total = 0, sum(end - start for start, end in ranges)

    def __call__(self, count: int) -> None:
        self._done += count
        self._on_event(Progress(self._label, self._done, self._total))


def _check_size(source: int, size: int) -> None:
    if os.fstat(source).st_size != size:  # beyond its end, a file seems to have a hole
        raise OSError(errno.EIO, "the file changed its size while it was copied")


def _hash_zeros(digest: hashlib._Hash, count: int) -> None:
    while count > 0:
        digest.update(_ZEROS[:count])
        count -= len(_ZEROS)


def _clone(source: int, destination: int) -> bool:
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


def _copy_range(source: int, destination: int, start: int, end: int, report: _Counted) -> None:
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
            _copy_by_hand(source, destination, position, end, report)
            return
        position += count
        report(count)


def _copy_by_hand(
    source: int,
    destination: int,
    position: int,
    end: int,
    report: _Counted,
    digest: hashlib._Hash | None = None,
) -> None:
    writer = SparseWriter(destination, position)
    while writer.offset < end:
        piece = os.pread(source, min(_PIECE, end - writer.offset), writer.offset)
        if not piece:
            raise OSError(errno.EIO, "the file changed its size while it was copied")
        if digest is not None:
            digest.update(piece)
        writer.write(piece)
        report(len(piece))


def disk_usage(path: Path) -> int:
    """Return the number of bytes that a file uses on disk, without holes."""
    return path.stat().st_blocks * 512  # st_blocks counts in 512 bytes everywhere on Linux, see stat(2)
