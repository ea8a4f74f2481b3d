"""Reading a publisher's key file from disk, and refusing what cannot be one (``docs/threat-model.md`` S30).

And what key and configuration files have in common: who may change them chooses what is trusted.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from imgindex.errors import UsageError
from imgindex.files import open_file

_MAX_KEY_FILE_SIZE = 1_000_000
"""Largest key file in bytes."""

_NAMESPACES = Path("/proc/self/uid_map")
_ALL_USERS = ["0", "0", "4294967295"]
_UNKNOWN_USER = 65534
"""The owner of all files whose owner has no number in our user namespace."""


def check_writers(path: Path, status: os.stat_result) -> None:
    """Refuse a file that says what is trusted, or what is started, if strangers may change it.

    That is everybody but the user and root; for root by sudo, the user who called it is none either.
    Groups may write: many systems give each user one of his own.

    Args:
        path: The file.
        status: What ``os.fstat`` said of it when it was opened.

    Raises:
        UsageError: Others may change the file, or put another one in its place.
    """
    if status.st_mode & stat.S_IWOTH:
        raise UsageError(
            f"everybody may change {path}, and so what is trusted",
            hint=f"check what is in it, then run: chmod o-w {shlex.quote(str(path))}",
        )
    if status.st_uid not in _trusted_users():
        raise UsageError(
            f"{path} belongs to user {status.st_uid}, neither you nor root, who may change what is trusted",
            hint="check what is in it, then make it your own, or root's: see chown(1)",
        )
    for folder in {*Path(os.path.realpath(path)).parents, *Path(os.path.realpath(path.parent)).parents,
                   Path(os.path.realpath(path.parent))}:  # fmt: skip
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise UsageError(
                f"everybody may put another file in the place of {path}, and so change what is trusted",
                hint=f"check what is in it, then run: chmod o-w {shlex.quote(str(folder))}",
            )


def _trusted_users() -> set[int]:
    trusted = {0, os.geteuid()}
    caller = os.environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and caller.isdecimal():
        trusted.add(int(caller))
    try:
        if _NAMESPACES.read_text().split() != _ALL_USERS:  # root's own files look like nobody's there
            trusted.add(_UNKNOWN_USER)
    except OSError:
        pass  # a system without /proc has no user namespaces
    return trusted


def read_key_file(path: Path, where: str) -> bytes:
    """Read a key file whole.

    Args:
        path: The file.
        where: The source that names it, for error messages.

    Returns:
        What is in it, which is not empty; whether that is a key is gpg's to say.

    Raises:
        UsageError: It is missing, unreadable, empty, too large, no regular file, or everybody may
            change it, or put another one in its place.
    """
    hint = "put the publisher's public key there, or correct the path in the source's configuration"
    try:
        with open_file(path) as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_KEY_FILE_SIZE + 1)
    except OSError as error:
        raise UsageError(f"{where}: cannot read the key file {path}: {error.strerror}", hint=hint) from error
    try:
        check_writers(path, status)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from error
    if not data.strip():
        raise UsageError(f"{where}: the key file {path} is empty", hint=hint)
    if len(data) > _MAX_KEY_FILE_SIZE:
        raise UsageError(f"{where}: the key file {path} is too large to be one", hint=hint)
    return data
