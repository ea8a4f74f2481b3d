"""Records of cached files, so that a file need not be hashed at every use.

A record next to the file holds its fingerprint from when it was verified. While that is the same, the file
was not written to; when it differs, the file is verified again (``docs/threat-model.md`` T17, C12).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from imgbuilder.errors import WorkspaceError
from imgbuilder.host.hashing import Fingerprint, content_digest
from imgindex.files import open_regular, read_json, write_json

_VERSION = 1
_LARGEST = 64 << 10

SUFFIX = ".json"
"""Suffix of the name of a record."""


def open_own(path: Path) -> int | None:
    """Open a file of the cache for reading, or refuse it (``docs/threat-model.md`` C14).

    Returns:
        Its descriptor, or None when there is no such file.

    Raises:
        WorkspaceError: It is a link, not a regular file, has a second name, or belongs to another user.
    """
    try:
        descriptor = open_regular(path, os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error
    status = os.fstat(descriptor)
    problem = None
    if status.st_nlink != 1:
        problem = "it has more than one hard link"
    elif status.st_uid != os.geteuid():
        problem = f"it is owned by uid {status.st_uid}"
    if problem is not None:
        os.close(descriptor)
        raise _refused(path, problem)
    return descriptor


def _refused(path: Path, problem: str) -> WorkspaceError:
    return WorkspaceError(
        f"the cache file {path} is not used: {problem}", hint=f"look at it, then remove {path}"
    )


def is_unchanged(path: Path, descriptor: int) -> bool:
    """Tell whether an open file of the cache still has the fingerprint of its record."""
    record = read_record(path)
    now = Fingerprint.of(os.fstat(descriptor))._asdict()
    return record is not None and all(
        type(record.get(name)) is int and record[name] == value for name, value in now.items()
    )


def write_record(path: Path, descriptor: int, about: dict[str, str]) -> None:
    """Write the record of a file that was just verified.

    Args:
        path: The file.
        descriptor: The same file, open.
        about: Fields that describe it to people.
    """
    store_record(path, {**Fingerprint.of(os.fstat(descriptor))._asdict(), **about})


def store_record(path: Path, fields: dict[str, object]) -> None:
    """Write a record next to a file."""
    # Not durable: a lost or torn record costs no more than a second look.
    owner = path.name.partition(".")[0]
    write_json(record_path(path), fields, version=_VERSION, durable=False, owner=owner)


def touch_record(path: Path) -> None:
    """Record that a file is used now, for ``imgbuilder.cache.limit``."""
    with contextlib.suppress(OSError):  # at worst the file is removed too early
        os.utime(record_path(path), follow_symlinks=False)


def record_path(path: Path) -> Path:
    """Return the path of a file's record."""
    return path.with_name(path.name + SUFFIX)


def read_record(path: Path) -> dict[str, object] | None:
    """Read the record of a file; None when it is missing, damaged, not ours, or of another version."""
    try:
        return read_json(record_path(path), version=_VERSION, limit=_LARGEST, private=True)
    except (OSError, ValueError):
        return None


def has_content(path: Path, descriptor: int) -> bool:
    """Tell whether an open disk has the size and the content of its record; False without such a record."""
    record = read_record(path) or {}
    known = record.get("content")
    if not isinstance(known, str) or record.get("size") != os.fstat(descriptor).st_size:
        return False
    return content_digest(descriptor) == known
