"""Partial downloads, kept so that a later run can continue them.

::

    ROOT/partial/SHA512         the bytes so far, of the template with that digest
    ROOT/partial/SHA512.json    their address, and the value of ``If-Range`` that gets the rest
    ROOT/partial/SHA512.raw     the blocks so far, of the disk of that template (imgbuilder.cache.assemble)

A process that uses a partial file holds the lock of the entry. Its content is not trusted: the complete file
is hashed before it is used (``docs/threat-model.md`` D10 to D15).
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from imgbuilder.cache.folder import read_record, record_path, remove_file, store_record
from imgbuilder.errors import WorkspaceError
from imgbuilder.host.hashing import HashingFile
from imgbuilder.host.workspace import is_full


class PartialFile(HashingFile):
    """A template that is being downloaded; implements ``imgbuilder.fetch.transfer.Resumable``.

    Attributes:
        spliced: Its bytes come from more than one response, so that a wrong digest need not be the source's.
    """

    def __init__(self, path: Path, descriptor: int, url: str = "") -> None:
        super().__init__(descriptor)
        self.path = path
        self._url = url
        record = read_record(path) or {}
        known, origin = record.get("validator"), record.get("url")
        self._validator = known if isinstance(known, str) else ""
        self._origin = origin if isinstance(origin, str) else ""
        if self._validator and self._origin:
            self.read_again()
        else:
            self.restart()
        self.spliced = self.held > 0

    def continue_from(self, url: str) -> None:
        """Set the address of the bytes that follow, without user information."""
        self._url = url

    @property
    def elsewhere(self) -> bool:
        """True if the bytes come from a different address from those that follow.

        The validator of one server says nothing about the file of another, but both files should be the same.
        """
        return self.held > 0 and self._origin != self._url

    @property
    def held(self) -> int:
        """Number of bytes that it holds."""
        return self.tell()

    @property
    def resumable(self) -> bool:
        """True if a later run could continue it."""
        return bool(self._validator and self.held)

    @property
    def validator(self) -> str:
        """Value of ``If-Range`` that gets more of the same file; empty when none does."""
        return "" if self.elsewhere else self._validator

    def restart(self, validator: str = "") -> None:
        """Drop all bytes; those that follow belong to the file that ``validator`` stands for."""
        record_path(self.path).unlink(missing_ok=True)  # first: it must never describe different bytes
        self.clear()
        self.spliced = False
        self._validator, self._origin = validator, self._url
        if validator:
            store_record(self.path, {"url": self._url, "validator": validator})

    def discard(self) -> None:
        """Remove the file and its record, if they exist."""
        remove_file(self.path)

    def splice(self) -> None:
        """Record that the bytes that follow come from a different response."""
        self.spliced = True


@contextlib.contextmanager
def partial_file(path: Path, url: str = "") -> Iterator[PartialFile]:
    """Open the partial file of a template, or start one.

    However the block is left, the file stays if the next run could continue it and the disk is not full;
    otherwise it is removed. The block may publish it, which takes it away. ``url`` has no user information.
    """
    descriptor = open_partial(path)
    kept = False
    try:
        with PartialFile(path, descriptor, url) as part:
            try:
                yield part
            finally:
                kept = part.resumable and not is_full(path.parent, sys.exception())
    finally:
        os.close(descriptor)
        if not kept:
            remove_file(path)


def open_partial(path: Path) -> int:
    """Open a partial file without following links; anything else in its place is removed."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()  # before opening: opening a device may already do something
        if stat.S_ISDIR(status.st_mode):
            raise WorkspaceError(f"{path} is a folder", hint=f"look at it, then remove {path}")
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
            remove_file(path)
        elif not status.st_mode & stat.S_IWUSR:  # a run was killed when it was about to get its name
            path.chmod(0o600)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o600)
