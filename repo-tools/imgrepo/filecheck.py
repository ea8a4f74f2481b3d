"""Are the files beside an index those that it names? Digest, size, and the disk inside."""

from __future__ import annotations

import hashlib
import lzma
import os
from typing import TYPE_CHECKING, BinaryIO

from imgbuilder import process
from imgbuilder.disk.imageheader import parse_qcow2
from imgbuilder.errors import DiskError, PybuilderError, RepositoryError
from imgbuilder.events import Progress, ProgressEnd, Reporter
from imgbuilder.regular import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgindex.model import Entry

_PIECE = 1 << 20
_XZ_MAGIC = b"\xfd7zXZ\x00"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LARGEST_HEADER = 2 << 20
"""Bytes: the largest cluster of a qcow2 image, which holds its header."""
_MEMORY = 256 << 20
"""Bytes that unpacking the header may use, as much as for clients."""


def check_files(entry: Entry, folder: Path, report: Reporter) -> Iterator[PybuilderError]:
    """Check the files that an entry names.

    Args:
        entry: The entry, right by itself.
        folder: Where its index is.
        report: Hears how far the reading is.

    Yields:
        What is wrong: a file that is missing or has another size or digest, or a disk of another size. The
        disk inside a zstd file is not looked at.
    """
    what = f"template {entry.os_version}"
    yield from _check(folder / entry.file, what, entry.compressed_size, entry.sha512, entry, report)
    if entry.zstd is not None:
        path = folder / entry.zstd.file
        yield from _check(path, what, entry.zstd.compressed_size, entry.zstd.sha512, None, report)
    if entry.sig is not None and not (folder / entry.sig).is_file():
        yield RepositoryError(f"{what}: the signature {folder / entry.sig} is missing")


def _check(
    path: Path, what: str, size: int | None, sha512: str | None, disk: Entry | None, report: Reporter
) -> Iterator[PybuilderError]:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            found = os.fstat(file.fileno()).st_size
            if size is not None and found != size:
                yield RepositoryError(f"{what}: {path} has {found} bytes, where the index says {size}")
            elif sha512 is not None and _digest(file, path.name, found, report) != sha512:
                yield RepositoryError(f"{what}: {path} has another SHA-512 than the index says")
            elif disk is not None:
                _check_disk(path, file, disk, what)
    except OSError as error:
        yield RepositoryError(f"{what}: cannot read {path}: {error.strerror}")
    except PybuilderError as error:
        yield error


def _digest(file: BinaryIO, label: str, size: int, report: Reporter) -> str:
    digest = hashlib.sha512()
    done = 0
    try:
        while piece := file.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            report(Progress(f"Reading {label}", done, size))
    finally:
        report(ProgressEnd())
    return digest.hexdigest()


def _check_disk(path: Path, file: BinaryIO, entry: Entry, what: str) -> None:
    """Compare the disk inside a file with the index, as far as that takes no unpacking.

    Raises:
        RepositoryError: It is another one.
        ToolError: The program ``xz`` is missing.
    """
    file.seek(0)
    head = file.read(len(_XZ_MAGIC))
    file.seek(0)
    try:
        if head == _XZ_MAGIC:
            size = _unpacked_size(path)
            start = _unpacked_start(file) if entry.format == "qcow2" else b""
        elif head.startswith(_ZSTD_MAGIC):
            return  # frames need not say how large they are
        else:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_LARGEST_HEADER)
        if entry.format == "qcow2":
            size = parse_qcow2(start, size, where=str(path)).virtual_size
    except (lzma.LZMAError, EOFError, DiskError, ValueError) as error:
        raise RepositoryError(f"{what}: {path} does not hold a disk: {error}") from error
    if size != entry.size:
        raise RepositoryError(
            f"{what}: the disk in {path} has {size} bytes, where the index says {entry.size}"
        )


def _unpacked_size(path: Path) -> int:
    done = process.run(["xz", "--robot", "--list", "--format=xz", "--", path.absolute()], check=False)
    for line in done.stdout.decode("utf-8", "replace").split("\n"):
        fields = line.split("\t")
        if done.status == 0 and fields[0] == "totals" and len(fields) > 4:
            return int(fields[4])
    raise ValueError(f"xz cannot read it: {done.stderr.strip()[-200:]}")


def _unpacked_start(file: BinaryIO) -> bytes:
    unpacking = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
    start = b""
    while len(start) < _LARGEST_HEADER and not unpacking.eof:
        piece = file.read(_PIECE) if unpacking.needs_input else b""
        if unpacking.needs_input and not piece:
            break
        start += unpacking.decompress(piece, _LARGEST_HEADER - len(start))
    return start
