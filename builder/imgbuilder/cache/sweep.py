"""What killed runs leave behind: unfinished files that nobody will finish (``reliability.md`` C18)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from imgbuilder.atomic import TEMPORARY_PREFIX
from imgbuilder.cache.records import SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

_WEEK = 7 * 24 * 3600
_PARTIAL = "partial"


def stale_files(folder: Path, now: float) -> list[Path]:
    """Return the unfinished files of a folder of the cache that were last written more than a week ago.

    Those are temporary files and, in ``partial/``, all that is ours; a record goes with its part, not before.
    Links are not followed, folders are left alone.

    Args:
        folder: The folder; it need not exist.
        now: Seconds since 1970.

    Raises:
        OSError: It cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            ages = {
                entry.name: now - entry.stat(follow_symlinks=False).st_mtime
                for entry in found
                if not stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode)
            }
    except FileNotFoundError:
        return []
    stale = []
    for name in ages:
        part = name.removesuffix(SUFFIX)
        owner = part if folder.name == _PARTIAL and part in ages else name
        unfinished = name.startswith(TEMPORARY_PREFIX) or (folder.name == _PARTIAL and is_digest(part))
        if unfinished and ages[owner] > _WEEK:
            stale.append(folder / name)
    return stale


def is_digest(name: str) -> bool:
    """Say whether a name is a SHA-512, as the files of the cache are named."""
    return len(name) == 128 and not set(name) - set("0123456789abcdef")
