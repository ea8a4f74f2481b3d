"""Opening, making and replacing files with care; every room uses these functions for them.

A file that is not ours may turn out to be something else: a FIFO that nothing writes to would be
waited for without end, and a device read without end. A file of ours appears whole or not at all,
even when the power fails (``docs/threat-model.md`` F17). The same holds for our small records, as JSON.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgindex.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from io import BufferedReader
    from pathlib import Path


TEMPORARY_PREFIX = ".part-"
"""Prefix of the names of unfinished files."""

_NAMESPACES = Path("/proc/self/uid_map")
_ALL_USERS = ["0", "0", "4294967295"]
_UNKNOWN_USER = 65534
"""Owner of all files whose real owner has no number in our user namespace."""

_DESCRIPTOR = re.compile(r"/dev/(?:(stdin)|fd/([0-9]{1,6}))|/proc/self/fd/([0-9]{1,6})")


def open_file(path: Path, flags: int = 0) -> BufferedReader:
    """Open an ordinary file for reading, as ``open_regular`` does."""
    return os.fdopen(open_regular(path, flags), "rb")


def open_given(path: Path) -> BufferedReader:
    """Open a file that the user names to be read once, from its beginning to its end.

    It is an ordinary file, or one of our own open descriptors, of any kind: ``/dev/stdin``, and
    ``/dev/fd/63``, which the shell makes of ``<(command)``. There, waiting is what the user wants.
    """
    own = _DESCRIPTOR.fullmatch(str(path))
    if own is None:
        return open_file(path)
    return os.fdopen(os.dup(int(own[2] or own[3] or 0)), "rb")  # which refuses a folder


def open_regular(path: Path, flags: int = 0) -> int:
    """Open an ordinary file for reading and return its descriptor.

    A FIFO is not waited for, a device is not read, and a folder is refused before Python sees it.

    Args:
        path: The file.
        flags: Further flags of open(2), such as ``os.O_NOFOLLOW``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, "not a valid file name", str(path)) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return descriptor


def open_empty(path: Path) -> int:
    """Open a new or empty file for reading and writing and return its descriptor.

    Links are not followed, and nothing that has content is touched. A new file has mode 0600.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        os.close(descriptor)
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return descriptor


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make a folder of the user's, and its missing parents, as the XDG specification wants them.

    A parent that is made on the way is for its owner alone, whatever the umask: with a umask of 000,
    ``Path.mkdir`` would let everybody write into ``~/.cache``, and so exchange everything below it.

    Args:
        folder: The folder; an existing one stays as it is.
        mode: Its mode if it is made; the umask can only take from it.
    """
    try:
        folder.mkdir(mode)
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        make_folder(folder.parent)
        folder.mkdir(mode, exist_ok=True)
    except FileExistsError:
        if not folder.is_dir():
            raise


@contextlib.contextmanager
def temporary_file(folder: Path, owner: str = "") -> Iterator[tuple[int, Path]]:
    """Make an empty file with mode 0600; it is removed afterwards unless it was published.

    Args:
        folder: The folder that it lies in.
        owner: Part of its name, for those who clean up after a killed program.

    Yields:
        Its descriptor, open for reading and writing and closed afterwards, and its path.
    """
    import tempfile  # late: lists mostly write nothing

    descriptor, name = tempfile.mkstemp(prefix=f"{TEMPORARY_PREFIX}{owner}", dir=folder)
    path = Path(name)
    try:
        yield descriptor, path
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def publish(descriptor: int, temporary: Path, final: Path) -> None:
    """Give a finished file its name: sync the file, rename it, sync the folder, in this order.

    Args:
        descriptor: The temporary file, open.
        temporary: Its path, in the same folder as ``final``.
        final: Its name; what had that name before is replaced.

    Raises:
        OSError: One of the steps failed. A failed sync must not be tried again: the data are lost.
    """
    os.fsync(descriptor)
    temporary.replace(final)
    sync_folder(final.parent)


def write_file(path: Path, data: bytes, *, durable: bool = True, owner: str = "") -> None:
    """Write a file of ours with mode 0600, whole or not at all, in place of any earlier one.

    Args:
        path: Its name, in a folder that exists.
        data: Its content.
        durable: False where a file that is lost or torn by a power failure costs no more than time.
        owner: As for ``temporary_file``.
    """
    with temporary_file(path.parent, owner) as (descriptor, temporary):
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        if durable:
            publish(descriptor, temporary, path)
        else:
            temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writers(path: Path, status: os.stat_result, *, any_owner: bool = False) -> None:
    """Refuse a file that decides about trust, or about programs to start, if other users may change it.

    Only the user and root may; for root by sudo, also the user who called it. Groups may write: on many
    systems, each user has a private group.

    Args:
        path: The file.
        status: The result of ``os.fstat`` for the open file.
        any_owner: Whether any user may own it, as in a folder that a group of publishers shares.
    """
    if status.st_mode & stat.S_IWOTH:
        raise UsageError(
            f"every user may change {path}, and so what is trusted",
            hint=f"check its content, then run: chmod o-w {shlex.quote(str(path))}",
        )
    if not any_owner and status.st_uid not in _trusted_users():
        raise UsageError(
            f"{path} belongs to user {status.st_uid}, neither you nor root, who may change what is trusted",
            hint="check its content, then make yourself or root its owner: see chown(1)",
        )
    for folder in {*Path(os.path.realpath(path)).parents, *Path(os.path.realpath(path.parent)).parents,
                   Path(os.path.realpath(path.parent))}:  # fmt: skip
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise UsageError(
                f"every user may replace {path}, and so change what is trusted",
                hint=f"check its content, then run: chmod o-w {shlex.quote(str(folder))}",
            )


def _trusted_users() -> set[int]:
    trusted = {0, os.geteuid()}
    caller = os.environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and caller.isdecimal():
        trusted.add(int(caller))
    try:
        if _NAMESPACES.read_text().split() != _ALL_USERS:  # root's files appear with this owner there
            trusted.add(_UNKNOWN_USER)
    except OSError:
        pass  # a system without /proc has no user namespaces
    return trusted


def read_json(path: Path, *, version: int | None, limit: int, private: bool = False) -> dict[str, Any]:
    """Return the fields of a record; links are not followed.

    Args:
        path: The file.
        version: The value that its field ``version`` must have; None if it has no such field.
        limit: Bytes that it may have.
        private: Refuse a file that another user owns or may write, or that has a second name.

    Raises:
        OSError: It is missing, not an ordinary file, not private, or cannot be read.
        ValueError: It is too large, not a JSON object, or of another version.
    """
    with open_file(path, os.O_NOFOLLOW) as file:
        status = os.fstat(file.fileno())
        if private and (status.st_uid != os.geteuid() or status.st_mode & 0o022 or status.st_nlink != 1):
            raise OSError(errno.EPERM, "other users may have changed it", str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError("it is too large")
    try:
        fields = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - the content is wrong, not the caller
    if version is not None and (type(fields.get("version")) is not int or fields["version"] != version):
        raise ValueError("it is of another version")
    return fields


def write_json(
    path: Path, fields: Mapping[str, object], *, version: int | None, durable: bool, owner: str = ""
) -> None:
    """Write a record, in place of any earlier one.

    Args:
        path: The file, in a folder that exists.
        fields: Values that JSON can hold.
        version: Value of the field ``version``; None for none.
        durable: As for ``write_file``.
        owner: As for ``temporary_file``.
    """
    whole = fields if version is None else {"version": version, **fields}
    write_file(path, (json.dumps(whole, indent=2) + "\n").encode(), durable=durable, owner=owner)
