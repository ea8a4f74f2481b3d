"""Other places than its source that may have a template's bytes: further caches, and the user's files.

Nothing in them is trusted: a template is hashed while it is copied, and a block before it is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from imgbuilder.cache.folder import read_record
from imgbuilder.events import Reporter, warn
from imgindex.files import open_file
from imgindex.model import Entry

_SEEDS = 2
"""Older disks of a cache whose blocks are looked at."""


@dataclass(frozen=True)
class Elsewhere:
    """The other places of a cache.

    Attributes:
        caches: Folders of other caches.
        files: Disks and images of the user, whose blocks may be those of a template.
    """

    caches: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()

    def open_files(self, on_event: Reporter) -> Iterator[BinaryIO]:
        """Open the user's files; one that cannot be read is reported."""
        for path in self.files:
            try:
                yield open_file(path)
            except OSError as error:
                warn(on_event, f"no blocks of {path} are reused: {error.strerror}")


NOWHERE = Elsewhere()
"""No other places."""


def older_disks(folder: Path, entry: Entry) -> Iterator[BinaryIO]:
    """Open the newest unpacked disks of a template, of any revision, in a folder of unpacked disks."""
    found = []
    with contextlib.suppress(OSError):  # there is no such cache, or it is closed to us
        for path in folder.glob("*.raw"):
            record = read_record(path) or {}
            if (record.get("template"), record.get("arch")) == (entry.os_version, entry.arch):
                found.append((path.lstat().st_mtime_ns, path))
    for _time, path in sorted(found, reverse=True)[:_SEEDS]:
        with contextlib.suppress(OSError):
            yield open_file(path, os.O_NOFOLLOW)
