"""Files of this machine, under the limits of a download (``docs/threat-model.md`` D26)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgbuilder.errors import DiskError, FetchError, FileMissingError, WrongSizeError
from imgbuilder.fetch.transfer import BETWEEN_TWO_VERSIONS, INDEX_LIMIT, Download, Fetched, store
from imgbuilder.fetch.urls import local_path
from imgindex.files import open_regular

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO


def fetch_local(download: Download) -> Fetched:
    """Copy a file of this machine under the same limits as a download (``docs/threat-model.md`` D26).

    Symbolic links are followed: the user named the path. FIFOs, devices and folders are refused, since a
    FIFO would block for ever and a device has no end.
    """
    path = local_path(download.url)
    assert path is not None, "the router sends only local addresses here"
    try:
        descriptor = open_regular(path)
    except FileNotFoundError as error:
        raise FileMissingError(
            f"cannot read {path}: {error.strerror}",
            hint="check the source's uri and the content of its folder",
        ) from error
    except OSError as error:
        if os.path.isdir(path):  # noqa: PTH112 - Path's own fails where the folder above is closed to us
            hint = f"give the address of a file, such as {path}/index.asc"
            raise FetchError(f"cannot read {path}: it is a folder", hint=hint) from error
        raise FetchError(
            f"cannot read {path}: {error.strerror}", hint="check its permissions, and the source's uri"
        ) from error
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if download.limit != INDEX_LIMIT:  # an index is not a disk
            _hold(descriptor, path)
        size = copy_open(file, download, start=0, size=os.fstat(descriptor).st_size, where=str(path))
    return Fetched(str(path), size)


def _hold(descriptor: int, path: Path) -> None:
    from imgbuilder.host import imagelocks  # late: lists fetch no disks

    try:
        imagelocks.hold(descriptor, path)
    except DiskError as error:
        raise FetchError(error.message, hint=error.hint) from error


def copy_open(file: BinaryIO, download: Download, *, start: int, size: int, where: str) -> int:
    """Copy a part of an open file of this machine under the limits of a download."""
    if download.expected is not None and size != download.expected:
        raise WrongSizeError(
            f"{where} has {size} bytes; the index promises {download.expected}", hint=BETWEEN_TWO_VERSIONS
        )
    if size > download.limit:
        raise WrongSizeError(
            f"{where} is longer than the {download.limit} bytes that it may have",
            hint="check the source's uri: that is some other file",
        )
    before, position = os.fstat(file.fileno()), start
    whole = start == 0 and size == before.st_size

    def read(count: int) -> bytes:
        nonlocal position
        most = count if whole else min(count, start + size - position)  # a byte more shows a file that grows
        try:
            piece = os.pread(file.fileno(), most, position)
        except OSError as error:
            raise FetchError(
                f"cannot read {where}: {error.strerror}", hint="check that disk (see: dmesg)"
            ) from error
        position += len(piece)
        return piece

    # With its size as the limit: a file that another process keeps writing to would never end.
    copied = store(read, download, where=where, expected=size)
    after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise FetchError(f"{where} changed while it was read", hint="run the command again")
    return copied
