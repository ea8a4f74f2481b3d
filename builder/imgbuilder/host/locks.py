"""Locks between processes of pybuilder: flock(2), which the kernel releases when a process dies."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.events import Reporter, ignore, info

if TYPE_CHECKING:
    from collections.abc import Iterator

    from filelock import BaseFileLock

_POLL = 0.1
"""Seconds between two attempts; a signal ends the wait at once."""
_HELD = r"[0-9]+: FLOCK +\S+ +\S+ +([0-9]+) ([0-9a-f]+):([0-9a-f]+):([0-9]+) "
"""A held lock in /proc/locks (proc_locks(5)): its process, and the device and inode of its file."""


def holders(status: os.stat_result) -> list[int]:
    """Return the other processes that hold a lock on a file with this status, as far as the kernel shows.

    The lock file has no process in it, so that a dead process's cannot mislead.
    """
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except (OSError, ValueError):
        return []
    here = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    found: dict[int, str] = {}
    for line in lines:
        match = re.match(_HELD, line)  # compiled here: waiting is rare
        if match and int(match[4]) == status.st_ino and int(match[1]) not in (0, os.getpid()):
            found[int(match[1])] = f"{int(match[2], 16)}:{int(match[3], 16)}"
    # On overlayfs and btrfs, /proc/locks has a different device from stat(2).
    return sorted([pid for pid, device in found.items() if device == here] or found)


def _waiting(purpose: str, status: os.stat_result) -> str:
    """Return the message of a wait, with the processes that hold the lock."""
    pids = ", ".join(map(str, holders(status)))
    return f"waiting for {f'pid {pids}, ' if pids else ''}another pybuilder that {purpose}"


def _file_lock(path: Path, mode: int = 0o600) -> BaseFileLock:
    """Return the lock of a file, which by default only its owner may open."""
    from filelock import FileLock  # late: listings need no locks

    try:
        return FileLock(path, mode=mode)
    except TypeError:  # before filelock 3.10, as in Debian 12: the mode of a file that is there stays
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode))
        return FileLock(path)


@contextlib.contextmanager
def exclusive_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock file, or yield False if another process holds it."""
    from filelock import Timeout  # late: listings need no locks

    lock = _file_lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def exclusive(path: Path, purpose: str, on_event: Reporter = ignore, *, mode: int = 0o600) -> Iterator[None]:
    """Hold a lock file, which is made if needed, for those whom ``mode`` allows, and stays."""
    from filelock import Timeout  # late, as above

    lock = _file_lock(path, mode)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        info(on_event, _waiting(purpose, path.stat()))
        lock.acquire(poll_interval=_POLL)
    try:
        yield
    finally:
        lock.release()


def lock_open_file(
    descriptor: int, *, shared: bool, purpose: str, on_event: Reporter = ignore, limit: float | None = None
) -> bool:
    """Lock an open file until it is closed; return False when the limit was reached."""
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    started = time.monotonic()
    announced = False
    while True:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            if not announced:
                info(on_event, _waiting(purpose, os.fstat(descriptor)))
                announced = True
        else:
            return True
        if limit is not None and time.monotonic() - started >= limit:
            return False
        time.sleep(_POLL)


def try_exclusive(descriptor: int) -> bool:
    """Lock an open file exclusively, if no other process holds it.

    A lock that this process holds is lost when this fails.

    Returns:
        False when another process holds it, or the filesystem has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def try_shared(descriptor: int) -> bool:
    """Lock an open file shared, until it is closed.

    Returns:
        False when another process holds it exclusively. On a filesystem without locks none does.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


# A lock file with our mark says that its folder is a cache: files are only removed from such folders. Other
# files may have the names of a cache's files, but not a lock file with this content. Those of earlier
# versions are empty.

LOCK_NAME = "lock"
"""Name of the file."""
_MARK = b"pybuilder: this folder is a cache, and what pybuilder put here can be deleted at any time\n"


class Marker(enum.Enum):
    """State of a folder according to its lock file."""

    OURS = enum.auto()
    EMPTY = enum.auto()
    """The lock file is new, or of an earlier version."""
    FOREIGN = enum.auto()


def read_marker(descriptor: int) -> Marker:
    """Read an open lock file, once: another process may mark it at any moment."""
    content = os.pread(descriptor, len(_MARK) + 1, 0)
    if content == _MARK:
        return Marker.OURS
    return Marker.FOREIGN if content else Marker.EMPTY


def mark_folder(descriptor: int) -> None:
    """Mark the folder of an open lock file as a cache."""
    if read_marker(descriptor) is not Marker.OURS:
        os.pwrite(descriptor, _MARK, 0)
