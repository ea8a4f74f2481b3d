"""The unpacked layer: sparse, read-only disks, made on first use, and copied by every build."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from imgbuilder.cache.download import about
from imgbuilder.cache.folder import CacheFolder
from imgbuilder.cache.records import (
    has_content,
    is_unchanged,
    open_own,
    read_record,
    touch_record,
    write_record,
)
from imgbuilder.cache.templates import digest_of, is_file
from imgbuilder.cache.unpack import Unpacker
from imgbuilder.catalog.catalog import Selection
from imgbuilder.disk.imageheader import UNNAMED, check_image
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.host.locks import try_shared
from imgindex.files import publish, temporary_file
from imgindex.model import Entry

_KEPT = frozenset({"template", "arch", "source", "content"})
"""What stays of a record when a disk was touched."""


class Disks:
    """The files in ``ROOT/disks``, and which of them we use.

    Args:
        folder: The cache.
    """

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._in_use: list[int] = []  # descriptors whose locks keep files from removal

    def path(self, entry: Entry) -> Path:
        """Return where an entry's disk is, or would be."""
        return self._folder.disks / f"{digest_of(entry)}.{_format(entry)}"

    def has(self, entry: Entry) -> bool:
        """Say whether it is there; its bytes are not looked at."""
        size = entry.size if _format(entry) == "raw" else None
        return entry.sha512 is not None and is_file(self.path(entry), size)

    def use(self, entry: Entry) -> bool:
        """Say whether the disk is there and good; if so, keep it from removal until ``release``.

        Raises:
            DiskError: Another entry with the same digest promises another size.
            WorkspaceError: Something strange is in its place.
            OSError: It cannot be read.
        """
        path = self.path(entry)
        descriptor = open_own(path)
        if descriptor is None:
            return False
        good = False
        try:
            # A removal between opening and locking shows as a change: it sets the change time.
            good = try_shared(descriptor) and is_unchanged(path, descriptor)
            if good:
                check_image(path, _format(entry), entry.size)
                self._in_use.append(descriptor)
                touch_record(path)
        finally:
            if descriptor not in self._in_use:
                os.close(descriptor)
        return good

    def accept_again(self, entry: Entry, on_event: Reporter) -> None:
        """Look at all bytes of a disk that changed; remember it anew if they are those that were unpacked.

        The caller holds the entry's lock.

        Raises:
            WorkspaceError: Something strange is in its place.
            OSError: It cannot be read, or its record not be written.
        """
        path = self.path(entry)
        descriptor = open_own(path)
        if descriptor is None:
            return
        try:
            if is_unchanged(path, descriptor) or not has_content(path, descriptor):
                return
            record = read_record(path) or {}
            kept: dict[str, str] = {key: str(value) for key, value in record.items() if key in _KEPT}
            write_record(path, descriptor, kept)
            debug(on_event, f"{path} was touched, but holds what was unpacked")
        finally:
            os.close(descriptor)

    def make(self, selection: Selection, template: BinaryIO, on_event: Reporter, unpack: Unpacker) -> None:
        """Unpack a template; the caller holds the entry's lock.

        Raises:
            RepositoryError: The template is damaged or not what the index promises.
            WorkspaceError: The disk cannot be written.
            OSError: The same.
        """
        entry = selection.entry
        on_event(Step(f"Uncompressing: {entry.os_version}"))
        final = self.path(entry)
        with temporary_file(final.parent, digest_of(entry)) as (descriptor, temporary):
            where = f"{entry.os_version} of {selection.source.name}"
            content = unpack(template, temporary, entry, on_event, where=where)
            check_image(temporary, _format(entry), entry.size)
            os.fchmod(descriptor, 0o400)
            publish(descriptor, temporary, final)
            write_record(final, descriptor, {**about(selection), "content": content})

    def release(self) -> None:
        """Let others remove the disks that we used."""
        while self._in_use:
            with contextlib.suppress(OSError):  # nothing was written to it, so nothing can be lost
                os.close(self._in_use.pop())


def _format(entry: Entry) -> str:
    return entry.format or UNNAMED
