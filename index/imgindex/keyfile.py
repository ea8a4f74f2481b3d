"""Reading a publisher's key file from disk, and refusing what cannot be one (``reliability.md`` S30)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from imgindex.errors import UsageError
from imgindex.regular import open_file

if TYPE_CHECKING:
    from pathlib import Path

_MAX_KEY_FILE_SIZE = 1_000_000
"""Largest key file in bytes."""


def read_key_file(path: Path, where: str) -> bytes:
    """Read a key file whole.

    Args:
        path: The file.
        where: The source that names it, for error messages.

    Returns:
        What is in it, which is not empty; whether that is a key is gpg's to say.

    Raises:
        UsageError: It is missing, unreadable, empty, too large, no regular file, or everybody may
            change it.
    """
    hint = "put the publisher's public key there, or correct the path in the source's configuration"
    try:
        with open_file(path) as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_KEY_FILE_SIZE + 1)
    except OSError as error:
        raise UsageError(f"{where}: cannot read the key file {path}: {error.strerror}", hint=hint) from error
    if status.st_mode & stat.S_IWOTH:
        raise UsageError(
            f"{where}: everybody may change the key file {path}, and so the key that is trusted",
            hint=f"check the key in it, then run: chmod o-w {path}",
        )
    if not data.strip():
        raise UsageError(f"{where}: the key file {path} is empty", hint=hint)
    if len(data) > _MAX_KEY_FILE_SIZE:
        raise UsageError(f"{where}: the key file {path} is too large to be one", hint=hint)
    return data
