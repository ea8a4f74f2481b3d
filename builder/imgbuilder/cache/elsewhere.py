"""Other places than its source that may have a template's bytes: further caches, files, and neighbours.

Nothing in them is trusted: a template is hashed while it is copied, and a block before it is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from imgbuilder.cache.folder import read_record
from imgbuilder.errors import UsageError
from imgbuilder.events import Reporter, warn
from imgbuilder.fetch.transfer import Fetcher, Limits
from imgbuilder.fetch.urls import Address, check_uri, scheme_of
from imgindex.files import open_file
from imgindex.model import Entry

_SEEDS = 2
"""Older disks of a cache whose blocks are looked at."""


PEER_LIMITS = Limits(
    timeout=3, connect=1, redirects=0, retries=0, resumes=0, slow_window=5, slow_rate=64 << 10
)
"""A neighbour is near, or it is not worth asking."""


@dataclass(frozen=True)
class Peers:
    """Other machines that lend files of their caches, see ``imgbuilder.cache.share``.

    Attributes:
        urls: Their addresses; they have no credentials, since what is sent to one is not for others.
        fetcher: Asks them, with ``PEER_LIMITS``.
    """

    urls: tuple[str, ...]
    fetcher: Fetcher

    def __post_init__(self) -> None:
        for url in self.urls:
            if scheme_of(url) not in ("http", "https") or Address(url).has_secret or "?" in url:
                raise UsageError(
                    f"the neighbour {Address(url)} is not the plain address of a web server",
                    hint='write it as in: peers = ["http://192.0.2.7:8320"]; see peers in pybuilder(1)',
                )
            check_uri(url)

    def addresses(self, path: str) -> list[str]:
        """Return the addresses of a file at all of them."""
        return [f"{url.rstrip('/')}/{path}" for url in self.urls]


@dataclass(frozen=True)
class Elsewhere:
    """The other places of a cache.

    Attributes:
        caches: Folders of other caches.
        files: Disks and images of the user, whose blocks may be those of a template.
        peers: The neighbours; None without any.
    """

    caches: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    peers: Peers | None = None

    def open_files(self, on_event: Reporter) -> Iterator[BinaryIO]:
        """Open the user's files; one that cannot be read is reported."""
        for path in self.files:
            try:
                yield open_file(path)
            except OSError as error:
                warn(on_event, f"no blocks of {path} are reused: {error.strerror}")


NOWHERE = Elsewhere()
"""No other places."""


def older_disks(folder: Path, entry: Entry, suffix: str = "") -> list[Path]:
    """Return the unpacked disks of a template, of any revision, in a folder of such disks; the newest first.

    ``suffix`` is that of their format; without one, those of all formats are returned.
    """
    found = []
    with contextlib.suppress(OSError):  # the cache is missing, or its folder cannot be read
        for path in folder.glob(f"*{suffix or '.[!j]*'}"):
            record = read_record(path) or {}
            if (record.get("template"), record.get("arch")) == (entry.os_version, entry.arch):
                found.append((path.lstat().st_mtime_ns, path))
    return [path for _time, path in sorted(found, reverse=True)]


def open_disks(paths: Sequence[Path]) -> Iterator[BinaryIO]:
    """Open the first disks of a cache, as many as are worth looking at."""
    for path in paths[:_SEEDS]:
        with contextlib.suppress(OSError):
            yield open_file(path, os.O_NOFOLLOW)
