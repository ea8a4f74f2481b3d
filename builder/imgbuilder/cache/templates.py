"""The compressed layer: templates as published, each looked at again before it is used (C12 to C14, T17)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from imgbuilder.cache.download import Intake
from imgbuilder.cache.folder import CacheFolder
from imgbuilder.cache.limit import remove_file
from imgbuilder.cache.records import is_unchanged, open_own, touch_record, write_record
from imgbuilder.catalog.catalog import Selection
from imgbuilder.errors import WorkspaceError
from imgbuilder.events import Reporter, warn
from imgbuilder.fetch.transfer import Fetcher
from imgbuilder.host.hashing import hash_stream
from imgindex.model import Entry


class Templates:
    """The files in ``ROOT/templates``; the caller holds the entry's lock.

    Args:
        folder: The cache.
        shared: Other caches to look into before a source is asked.
        make_room: Called with the bytes that will be needed.
    """

    def __init__(
        self, folder: CacheFolder, shared: Sequence[Path], make_room: Callable[[int, Reporter], None]
    ) -> None:
        self._folder = folder
        self._shared = tuple(shared)
        self._intake = Intake(folder, self._shared, make_room)

    def path(self, entry: Entry) -> Path:
        """Return where a template's file is, or would be."""
        return self._folder.templates / digest_of(entry)

    def has(self, entry: Entry) -> bool:
        """Say whether a template need not be downloaded; its bytes are not looked at."""
        if entry.sha512 is None:
            return False
        return any(
            is_file(root / "templates" / entry.sha512, entry.compressed_size)
            for root in (self._folder.root, *self._shared)
        )

    def identify(self, selection: Selection, fetcher: Fetcher, on_event: Reporter) -> Selection:
        """Find the digest that an unsigned index may leave out, by downloading the template each time.

        Raises:
            FetchError: As ``Intake.bring``.
            DigestMismatchError: As ``Intake.bring``.
            WorkspaceError: As ``Intake.bring``.
            OSError: As ``Intake.bring``.
        """
        if selection.entry.sha512 is not None:
            return selection
        digest = self._intake.bring(selection, fetcher, on_event)
        return replace(selection, entry=replace(selection.entry, sha512=digest))

    def open(self, selection: Selection, fetcher: Fetcher, on_event: Reporter) -> BinaryIO:
        """Open a template, fetched if need be.

        What was verified is this very file, not what its name means later (C13).

        Raises:
            FetchError: As ``Intake.bring``.
            DigestMismatchError: As ``Intake.bring``.
            WorkspaceError: As ``Intake.bring``; or something strange is in its place.
            OSError: As ``Intake.bring``.
        """
        path = self.path(selection.entry)
        file = self._open_if_good(path, selection.entry, on_event)
        if file is None:
            self._intake.bring(selection, fetcher, on_event)
            file = self._open_if_good(path, selection.entry, on_event)
        if file is None:
            raise WorkspaceError(
                f"{path} changed right after it was written", hint="check this machine's disk and memory"
            )
        return file

    def _open_if_good(self, path: Path, entry: Entry, on_event: Reporter) -> BinaryIO | None:
        descriptor = open_own(path)
        if descriptor is None:
            return None
        file = os.fdopen(descriptor, "rb", buffering=0)
        try:
            if is_unchanged(path, descriptor):
                touch_record(path)
                return file
            if hash_stream(file) == entry.sha512:
                write_record(path, descriptor, {"template": entry.os_version, "arch": entry.arch})
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        warn(on_event, f"the cached template {path} is damaged and is fetched again")
        remove_file(path)
        return None


def digest_of(entry: Entry) -> str:
    """Return the digest that names an entry's files."""
    assert entry.sha512 is not None, "found out before"
    return entry.sha512


def is_file(path: Path, size: int | None) -> bool:
    """Say whether an ordinary file of this size is there; None is any size."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and size in (None, status.st_size)
