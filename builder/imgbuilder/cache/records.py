"""What is remembered about a cached file, so that it need not be hashed at every use.

A record beside the file holds what the file looked like when it was verified.
While size, times and inode are those, nobody has written to the file: the
change time cannot be set back without being root or turning the clock. When
they differ the file is verified again (``docs/threat-model.md`` T17, C12).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from imgbuilder.cache.digest import content_digest
from imgbuilder.errors import WorkspaceError
from imgbuilder.host.hashing import Fingerprint
from imgindex.files import open_regular
from imgindex.jsonfile import read_json, write_json

_VERSION = 1
_LARGEST = 64 << 10

SUFFIX = ".json"
"""Added to a file's name for its record."""


def open_own(path: Path) -> int | None:
    """Open a file of the cache for reading, or refuse it (``docs/threat-model.md`` C14).

    Returns:
        Its descriptor, or None when there is no such file.

    Raises:
        WorkspaceError: It is a link, no ordinary file, has a second name, or belongs to another user.
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
        problem = "it has a second name elsewhere"
    elif status.st_uid != os.geteuid():
        problem = f"it belongs to the user with number {status.st_uid}"
    if problem is not None:
        os.close(descriptor)
        raise _refused(path, problem)
    return descriptor


def _refused(path: Path, problem: str) -> WorkspaceError:
    return WorkspaceError(
        f"the cache file {path} is not used: {problem}", hint=f"look at it, then remove {path}"
    )


def is_unchanged(path: Path, descriptor: int) -> bool:
    """Say whether an open file of the cache is still as its record says."""
    record = read_record(path)
    now = Fingerprint.of(os.fstat(descriptor))._asdict()
    return record is not None and all(
        type(record.get(name)) is int and record[name] == value for name, value in now.items()
    )


def write_record(path: Path, descriptor: int, about: dict[str, str]) -> None:
    """Remember a file that was just verified.

    Args:
        path: The file.
        descriptor: The same file, open.
        about: What it is, for people who look into the cache.

    Raises:
        OSError: The record cannot be written.
    """
    store_record(path, {**Fingerprint.of(os.fstat(descriptor))._asdict(), **about})


def store_record(path: Path, fields: dict[str, object]) -> None:
    """Put a record beside a file.

    Args:
        path: The file.
        fields: What to remember; anything that JSON can hold.

    Raises:
        OSError: It cannot be written.
    """
    # Not durable: a lost or torn record costs no more than a second look.
    owner = path.name.partition(".")[0]
    write_json(record_path(path), fields, version=_VERSION, durable=False, owner=owner)


def touch_record(path: Path) -> None:
    """Note that a file is used now, for ``imgbuilder.cache.limit``."""
    with contextlib.suppress(OSError):  # at worst the file is removed earlier than others
        os.utime(record_path(path), follow_symlinks=False)


def record_path(path: Path) -> Path:
    """Return where the record of a file is."""
    return path.with_name(path.name + SUFFIX)


def read_record(path: Path) -> dict[str, object] | None:
    """Read the record beside a file.

    Returns:
        None when it is missing, damaged, strange, or of another version (``docs/threat-model.md`` C20).
    """
    try:
        return read_json(record_path(path), version=_VERSION, limit=_LARGEST, private=True)
    except (OSError, ValueError):
        return None


def has_content(path: Path, descriptor: int) -> bool:
    """Say whether an open disk has the size and the data that its record says; False without such a record.

    Raises:
        OSError: It cannot be read.
    """
    record = read_record(path) or {}
    known = record.get("content")
    if not isinstance(known, str) or record.get("size") != os.fstat(descriptor).st_size:
        return False
    return content_digest(descriptor) == known
