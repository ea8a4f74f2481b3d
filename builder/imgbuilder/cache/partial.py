"""The beginning of a template, kept so that a later run need not fetch it again.

::

    ROOT/partial/SHA512         the bytes so far, of the template with that digest
    ROOT/partial/SHA512.json    where they came from, and what ``If-Range`` must say to get the rest

Whoever uses a part holds the entry's lock. What is in it is not trusted: the
whole file is hashed before it counts (``docs/threat-model.md`` D10 to D15).
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from imgbuilder.cache.digest import HashingFile
from imgbuilder.cache.records import read_record, record_path, store_record
from imgbuilder.errors import WorkspaceError
from imgbuilder.host.workspace import is_full


class PartialFile(HashingFile):
    """A template that is being downloaded; implements ``imgbuilder.fetch.transfer.Resumable``.

    Args:
        path: Where it is.
        descriptor: The same file, open for reading and writing.
        url: Where its bytes will come from.

    Attributes:
        path: Where it is.
        spliced: Its bytes come from more than one answer, so that a wrong digest may be nobody's fault.

    Raises:
        OSError: It cannot be read.
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
        """Take note of where the bytes that follow come from.

        Args:
            url: The address, without user information.
        """
        self._url = url

    @property
    def elsewhere(self) -> bool:
        """Whether the bytes come from another address than those that follow.

        What that server said about its file tells nothing about this one, but both should have the same.
        """
        return self.held > 0 and self._origin != self._url

    @property
    def held(self) -> int:
        """How many bytes it holds."""
        return self.tell()

    @property
    def resumable(self) -> bool:
        """Whether a later run could go on with it."""
        return bool(self._validator and self.held)

    @property
    def validator(self) -> str:
        """What ``If-Range`` must say to get more of the same file; empty when nothing can."""
        return "" if self.elsewhere else self._validator

    def restart(self, validator: str = "") -> None:
        """Drop all bytes; those that follow belong to the file that ``validator`` stands for.

        Raises:
            OSError: It cannot be written.
        """
        record_path(self.path).unlink(missing_ok=True)  # first: it must never describe other bytes
        self.clear()
        self.spliced = False
        self._validator, self._origin = validator, self._url
        if validator:
            store_record(self.path, {"url": self._url, "validator": validator})

    def splice(self) -> None:
        """Take note that the bytes that follow come from another answer than those before."""
        self.spliced = True


@contextlib.contextmanager
def partial_file(path: Path, url: str = "") -> Iterator[PartialFile]:
    """Open the part of a template, or begin one.

    It stays for the next run when that could go on with it, however the block is left; otherwise it goes,
    as it does when it filled the disk.
    Publishing it inside the block takes it away.

    Args:
        path: Where it is kept.
        url: Where its bytes will come from, without user information; ``continue_from`` can say so later.

    Raises:
        OSError: It cannot be made or read.
        WorkspaceError: Something strange is in its place that cannot be removed.
    """
    descriptor = _open(path)
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
            discard(path)


def discard(path: Path) -> None:
    """Remove a part and its record, if they are there.

    Raises:
        OSError: They cannot be removed.
    """
    record_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _open(path: Path) -> int:
    """Open a part without following links; what is no part of ours is removed (``threat-model.md`` D15)."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()  # before opening: opening a device may already do something
        if stat.S_ISDIR(status.st_mode):
            raise WorkspaceError(f"{path} is a folder", hint=f"look at it, then remove {path}")
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
            discard(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o600)
