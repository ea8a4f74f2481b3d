"""Format and virtual size of an image whose source does not name them, from the image itself.

A build is planned by the size of the disk, which is read from the first bytes of the image before it is
downloaded. Those bytes are not verified. If they are wrong, the verified file has a different size, and the
build fails.
"""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.catalog.catalog import Selection
from imgbuilder.disk.magic import packing_of
from imgbuilder.disk.qcow2 import QCOW2_MAGIC, Role, parse_qcow2
from imgbuilder.errors import RepositoryError
from imgbuilder.events import Reporter, debug, ignore
from imgbuilder.fetch.transfer import Download, Fetcher
from imgindex.fields import MAX_DISK_SIZE
from imgindex.files import open_file
from imgindex.model import UNKNOWN_SIZE, Entry

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer  # exists for type checkers only

_HEAD = 1 << 16
"""Bytes that are read: a qcow2 header with its extensions is far smaller."""

_SECTOR = 512


class _EnoughError(OSError):
    """The requested number of bytes arrived."""


class _Head(io.BytesIO):
    """A destination that takes the beginning of a file and then ends the transfer."""

    def write(self, data: ReadableBuffer, /) -> int:
        count = super().write(memoryview(data)[: _HEAD - self.tell()])
        if self.tell() >= _HEAD:
            raise _EnoughError
        return count


def with_disk_facts(selection: Selection, fetcher: Fetcher, on_event: Reporter = ignore) -> Selection:
    """Return a template with format and virtual size, from its first bytes if its source names none."""
    entry = selection.entry
    if entry.size != UNKNOWN_SIZE:
        return selection
    where = str(selection.url)
    head = _Head()
    with contextlib.suppress(_EnoughError):
        fetcher.fetch(
            Download(
                selection.url,
                head,
                limit=entry.compressed_size or MAX_DISK_SIZE,
                expected=entry.compressed_size,
                on_event=on_event,
                label=f"Header of {entry.os_version}",
                proxy=selection.source.proxy,
                digest_known=entry.sha256 is not None or entry.sha512 is not None,
            )
        )
    image_format, size = _judge(head.getvalue(), entry.compressed_size or 0, where)
    debug(on_event, f"{where}: a {image_format} image of {size} bytes")
    return replace(selection, entry=replace(entry, format=image_format, size=size))


def of_verified_file(entry: Entry, path: Path) -> Entry:
    """Return an entry with format and virtual size of its image, read from the verified file itself."""
    with open_file(path) as file:
        image_format, size = _judge(file.read(_HEAD), os.fstat(file.fileno()).st_size, str(path))
    return replace(entry, format=image_format, size=size)


def _judge(head: bytes, file_size: int, where: str) -> tuple[str, int]:
    if head.startswith(QCOW2_MAGIC):
        return "qcow2", parse_qcow2(head, file_size, where=where, role=Role.TEMPLATE).virtual_size
    packing = packing_of(head[:_SECTOR])
    if packing is not None:
        raise RepositoryError(
            f"{where}: this is a {packing} file, and its source does not name the size of the disk in it",
            hint="tell the publisher; images of simplestreams sources are used when they are qcow2 or raw",
        )
    if file_size == 0 or file_size % _SECTOR:
        raise RepositoryError(f"{where}: this is not a disk image: {file_size} bytes, and no qcow2 header")
    return "raw", file_size
