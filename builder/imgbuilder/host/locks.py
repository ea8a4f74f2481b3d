"""Waiting for other processes of ours: flock(2), which the kernel frees when a process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.events import Reporter, ignore, info

if TYPE_CHECKING:
    from collections.abc import Iterator

_POLL = 0.1
"""Seconds between two looks; a signal ends the wait at once."""
_HELD = r"[0-9]+: FLOCK +\S+ +\S+ +([0-9]+) ([0-9a-f]+):([0-9a-f]+):([0-9]+) "
"""A held lock in /proc/locks (proc_locks(5)): its process, and the device and the inode of its file."""


def holders(status: os.stat_result) -> list[int]:
    """Return which other processes hold a lock on a file, as far as the kernel tells us.

    Lock files themselves say nothing, so that one of a dead process cannot mislead (``threat-model.md`` C10).

    Args:
        status: The file's.
    """
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except (OSError, ValueError):
        return []
    here = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    found: dict[int, str] = {}
    for line in lines:
        match = re.match(_HELD, line)  # compiled here: mostly nobody waits
        if match and int(match[4]) == status.st_ino and int(match[1]) not in (0, os.getpid()):
            found[int(match[1])] = f"{int(match[2], 16)}:{int(match[3], 16)}"
    # On overlayfs and btrfs the kernel calls the device here by another name than there.
    return sorted([pid for pid, device in found.items() if device == here] or found)


def _waiting(purpose: str, status: os.stat_result) -> str:
    """Say for whom we wait (C11)."""
    pids = ", ".join(map(str, holders(status)))
    return f"waiting for {f'pid {pids}, ' if pids else ''}another pybuilder that {purpose}"


@contextlib.contextmanager
def exclusive_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock file, unless somebody else does.

    Yields:
        False when somebody does.

    Raises:
        OSError: The lock cannot be taken, for another reason than that somebody holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=0o600)
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
def exclusive(path: Path, purpose: str, on_event: Reporter = ignore) -> Iterator[None]:
    """Hold a lock file, which is made if needed and stays.

    Args:
        path: The file.
        purpose: What the user is told that the holder does, when somebody else holds it.
        on_event: Called with each event.

    Raises:
        OSError: The lock cannot be taken, for another reason than that somebody holds it.
    """
    from filelock import FileLock, Timeout  # late: listings need no locks

    lock = FileLock(path, mode=0o600)
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
    """Lock an open file until it is closed.

    Args:
        descriptor: The file.
        shared: Whether others may hold it shared at the same time.
        purpose: What the user is told that the holder does, when somebody else holds it.
        on_event: Called with each event.
        limit: Most seconds to wait; None for no limit.

    Returns:
        False when the limit was reached.

    Raises:
        OSError: The filesystem has no locks.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    started = time.monotonic()
    told = False
    while True:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            if not told:
                info(on_event, _waiting(purpose, os.fstat(descriptor)))
                told = True
        else:
            return True
        if limit is not None and time.monotonic() - started >= limit:
            return False
        time.sleep(_POLL)


def try_exclusive(descriptor: int) -> bool:
    """Lock an open file for us alone, if nobody else holds it in any way.

    A lock that we hold ourselves is lost when this fails.

    Returns:
        False when somebody holds it, or the filesystem has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def try_shared(descriptor: int) -> bool:
    """Lock an open file together with others, until it is closed.

    Returns:
        False when somebody holds it alone. On a filesystem without locks nobody does.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
