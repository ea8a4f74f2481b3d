"""Downloads a file whose digest is known: resumed where it stopped, verified as a whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from imgbuilder.cache.partial import PartialFile, partial_file
from imgbuilder.errors import DigestMismatchError
from imgbuilder.events import Reporter, Step
from imgbuilder.fetch.transfer import Download, Fetcher, download_verified
from imgbuilder.fetch.urls import Address
from imgbuilder.host.workspace import explaining

GROUP_FOLDER, GROUP_FILE = 0o770, 0o660
"""Modes of what is unfinished, before the umask: a colleague of the same group continues or removes it."""


@contextlib.contextmanager
def verified_download(
    url: str,
    parts: Path,
    key: str,
    is_right: Callable[[PartialFile], bool],
    fetcher: Fetcher,
    on_event: Reporter,
    *,
    limit: int,
    expected: int | None = None,
    blame: str,
) -> Iterator[PartialFile]:
    """Fetch and verify a file; a caller that keeps it renames it inside the block.

    ``parts`` is a private folder, made if it is missing, for partial files; only one run may use it at a
    time. ``key`` is the name of the partial file: its digest. ``is_right`` compares the digest of the whole
    file. Of a different file nothing is kept, and ``blame`` says so after its address; after any other
    failure what has arrived is kept for the next run.
    """
    where = str(Address(url))
    on_event(Step(f"Fetching {where}"))
    with explaining(parts / key):
        parts.mkdir(mode=GROUP_FOLDER, exist_ok=True)
        with partial_file(parts / key, where) as part:

            def check() -> None:
                if not is_right(part):
                    raise DigestMismatchError(f"{where} {blame}")

            download = Download(
                url,
                part,
                limit=limit,
                expected=expected,
                on_event=on_event,
                label=where.rpartition("/")[2],
                digest_known=True,
                resume=part,
            )
            download_verified(fetcher, download, check)
            os.fchmod(part.fileno(), 0o644)
            os.fsync(part.fileno())
            try:
                yield part
            finally:
                part.discard()
