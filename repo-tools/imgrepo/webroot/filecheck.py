"""Are the files beside an index those that it names? Digest, size, signature, and the disk inside."""

from __future__ import annotations

import hashlib
import lzma
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from imgbuilder.cache.unpack import unpack
from imgbuilder.disk.imageheader import parse_qcow2
from imgbuilder.errors import DiskError, PybuilderError, RepositoryError
from imgbuilder.events import Progress, ProgressEnd, Reporter
from imgbuilder.host import process
from imgindex.model import Entry
from imgindex.regular import open_file
from imgrepo.images.scratch import scratch_folder

_PIECE = 1 << 20
_XZ_MAGIC = b"\xfd7zXZ\x00"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LARGEST_HEADER = 2 << 20
"""Bytes: the largest cluster of a qcow2 image, which holds its header."""
_LARGEST_SIGNATURE = 16 << 10
"""Bytes of a detached signature."""
_MEMORY = 256 << 20
"""Bytes that unpacking the header may use, as much as for clients."""


CheckSignature = Callable[[Path, bytes, str], None]
"""Raises a ``TrustError`` unless a file has that detached signature by a key of the publisher.

The third argument is what messages begin with.
"""


def check_files(
    entry: Entry, folder: Path, on_event: Reporter, check_signature: CheckSignature | None
) -> Iterator[PybuilderError]:
    """Check the files that an entry names.

    Args:
        entry: The entry, right by itself.
        folder: Where its index is.
        on_event: Reports how far the reading is.
        check_signature: Judges the signature of a template (``sig``), which virt-builder asks for where there
            is no digest; None when there is no key to judge by.

    Yields:
        What is wrong: a file that is missing or has another size or digest, a disk of another size, a
        second file that does not hold the same disk, or a signature by nobody known.
    """
    what = f"template {entry.os_version}"
    problems = list(_check(folder / entry.file, what, entry.compressed_size, entry.sha512, entry, on_event))
    if entry.zstd is not None:
        path = folder / entry.zstd.file
        more = list(_check(path, what, entry.zstd.compressed_size, entry.zstd.sha512, None, on_event))
        problems += more or _check_second(entry, folder, what, on_event, first_is_good=not problems)
    yield from problems
    if entry.sig is not None:
        yield from _check_signature(folder / entry.file, folder / entry.sig, what, check_signature)


def _check_second(
    entry: Entry, folder: Path, what: str, on_event: Reporter, *, first_is_good: bool
) -> list[PybuilderError]:
    """Unpack the zstd file as clients do, and the other one if it is good, and compare the disks."""
    assert entry.zstd is not None
    paths = [folder / entry.zstd.file]
    if first_is_good:
        paths.append(folder / entry.file)
    contents: set[str] = set()
    try:
        with scratch_folder() as scratch:
            for path in paths:
                with open_file(path) as file:
                    contents.add(unpack(file, scratch / "disk", entry, on_event, where=f"{what}: {path}"))
                (scratch / "disk").unlink()
    except OSError as error:
        return [RepositoryError(f"{what}: cannot read {paths[0]}: {error.strerror}")]
    except PybuilderError as error:
        return [error]
    if len(contents) > 1:
        return [RepositoryError(f"{what}: {paths[0]} does not hold the same disk as {paths[1]}")]
    return []


def _check_signature(
    file: Path, signature: Path, what: str, check: CheckSignature | None
) -> Iterator[PybuilderError]:
    try:
        with open_file(signature) as opened:
            data = opened.read(_LARGEST_SIGNATURE + 1)
        if check is not None and file.is_file():  # one that is missing was told
            check(file, data, f"{what}: {signature}")
    except OSError as error:
        yield RepositoryError(f"{what}: cannot read the signature {signature}: {error.strerror}")
    except PybuilderError as error:
        yield error


def _check(
    path: Path, what: str, size: int | None, sha512: str | None, disk: Entry | None, on_event: Reporter
) -> Iterator[PybuilderError]:
    try:
        with open_file(path) as file:
            found = os.fstat(file.fileno()).st_size
            if size is not None and found != size:
                yield RepositoryError(f"{what}: {path} has {found} bytes, where the index says {size}")
            elif sha512 is not None and _digest(file, path.name, found, on_event) != sha512:
                yield RepositoryError(f"{what}: {path} has another SHA-512 than the index says")
            elif disk is not None:
                _check_disk(path, file, disk, what)
    except OSError as error:
        yield RepositoryError(f"{what}: cannot read {path}: {error.strerror}")
    except PybuilderError as error:
        yield error


def _digest(file: BinaryIO, label: str, size: int, on_event: Reporter) -> str:
    digest = hashlib.sha512()
    done = 0
    try:
        while piece := file.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            on_event(Progress(f"Reading {label}", done, size))
    finally:
        on_event(ProgressEnd())
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
