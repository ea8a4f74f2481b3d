"""The folder of the cache, with its locks, and the records of its files.

Every process that uses the cache holds its lock file shared; emptying the cache needs that lock exclusively.
Making an entry needs the lock of the entry (``docs/threat-model.md`` C7 to C10, C17).

A record next to a file holds its fingerprint from when it was verified, so that it need not be hashed at
every use. When the fingerprint differs, the file is verified again (``docs/threat-model.md`` T17, C12).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imgbuilder.errors import WorkspaceError
from imgbuilder.events import Reporter, debug, ignore, warn
from imgbuilder.host.hashing import Fingerprint, content_digest
from imgbuilder.host.locks import (
    LOCK_NAME,
    Marker,
    exclusive,
    exclusive_if_free,
    holders,
    lock_open_file,
    mark_folder,
    read_marker,
    try_exclusive,
)
from imgbuilder.host.privatefolder import sweep_folders
from imgbuilder.host.workspace import sweep
from imgindex.blocklist import BLOCK_SIZES
from imgindex.files import TEMPORARY_PREFIX, make_folder, open_regular, read_json, write_json

_VERSION = 1
_LARGEST = 64 << 10

SUFFIX = ".json"
"""Suffix of the name of a record."""


def open_own(path: Path) -> int | None:
    """Open a file of the cache, or refuse it (``docs/threat-model.md`` C14); None if it is missing."""
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
    """Write the record of a file that was just verified."""
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


def remove_file(path: Path) -> None:
    """Remove a file of the cache and its record, if they exist."""
    record_path(path).unlink(missing_ok=True)  # first: it must never describe other bytes
    path.unlink(missing_ok=True)


def has_content(path: Path, descriptor: int) -> bool:
    """Tell whether an open disk has the size and the content of its record; False without such a record."""
    record = read_record(path) or {}
    known = record.get("content")
    if not isinstance(known, str) or record.get("size") != os.fstat(descriptor).st_size:
        return False
    block_size = known.partition(":")[0]
    sizes = {str(size): size for size in BLOCK_SIZES}  # a record of an earlier version has none of them
    return block_size in sizes and content_digest(descriptor, sizes[block_size]) == known


_SUBFOLDERS = ("templates", "disks", "partial", "runs", "locks")
_LOCK_OF_ENTRY = re.compile(r"[0-9a-f]{128}\.lock")
_OWN_NAME = re.compile(
    r"[0-9a-f]{128}(\.(raw|qcow2|auto)(\.links)?)?(\.json)?|[0-9a-f]{128}\.lock|"
    + re.escape(TEMPORARY_PREFIX)
    + r"\w+"
)


class CacheFolder:
    """The folder of a cache. Nothing is touched before it is opened or deleted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.templates, self.disks, self.partial, self.runs, self.locks = (
            root / name for name in _SUBFOLDERS
        )
        self._lock: int | None = None

    def open(self, on_event: Reporter = ignore) -> None:
        """Make the folder if needed, check that it is safe to use, and protect it from deletion."""
        try:
            make_folder(self.root)
            self._check_owner()
            while self._lock is None:
                self._lock = self._open_lock(os.O_CREAT)
                self._claim(self._lock)
                self._sweep(on_event)
                lock_open_file(
                    self._lock,
                    shared=True,
                    purpose="empties the cache",
                    on_event=on_event,
                )
                if os.fstat(self._lock).st_nlink == 0:  # it was deleted while we waited
                    self.close()
                    make_folder(self.root)
            for folder in (self.templates, self.disks, self.partial, self.runs, self.locks):
                _make_folder(folder)
        except OSError as error:
            self.close()
            raise self._error(error) from error
        except WorkspaceError:
            self.close()
            raise

    def close(self) -> None:
        """Let others delete the folder."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            with contextlib.suppress(OSError):  # nothing was written to it, so nothing can be lost
                os.close(lock)

    def delete(
        self, on_event: Reporter = ignore, *, limit: float = 10.0, check: Callable[[], None] = lambda: None
    ) -> bool:
        """Remove the cache's files, and the folder if nothing else is in it; return whether there was one.

        A folder that is not a cache is left alone. ``check`` is called when no process uses the cache; it
        raises an error to leave the cache as it is.
        """
        try:
            self._check_owner()
            gone = True
            while gone:
                if self._lock is None:
                    self._lock = self._open_lock(0)
                if not self._is_ours(self._lock):
                    self.close()
                    warn(on_event, f"nothing was deleted: {self.root} is not a cache of pybuilder")
                    return False
                self._lock_alone(on_event, limit)
                gone = os.fstat(self._lock).st_nlink == 0
                if gone:  # another process deleted it first; a new cache may have been made since
                    self.close()
        except FileNotFoundError:
            return False  # there is no cache
        except OSError as error:
            self.close()
            raise self._error(error) from error
        try:
            check()
            sweep_folders(self.runs)  # what killed builds left, which has other names
            sweep(self.runs)
            for folder in (self.templates, self.disks, self.partial, self.runs, self.locks):
                _empty(folder)
            if not any(os.path.lexists(self.root / name) for name in _SUBFOLDERS):
                (self.root / LOCK_NAME).unlink()  # otherwise it marks the rest as ours
            with contextlib.suppress(OSError):  # other files are in it
                self.root.rmdir()
        except OSError as error:
            raise self._error(error) from error
        finally:
            self.close()
        return True

    def _lock_alone(self, on_event: Reporter, limit: float) -> None:
        assert self._lock is not None
        purpose = "uses the cache"
        if not lock_open_file(self._lock, shared=False, purpose=purpose, on_event=on_event, limit=limit):
            pids = "".join(f", pid {pid}" for pid in holders(os.fstat(self._lock)))
            self.close()
            raise WorkspaceError(
                f"the cache {self.root} is in use by another pybuilder{pids}",
                hint="try again when it has ended",
            )

    @contextlib.contextmanager
    def entry(self, digest: str, on_event: Reporter = ignore) -> Iterator[None]:
        """Hold the lock of one entry, and remove the unfinished files of a killed holder."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(
                    exclusive(self.locks / f"{digest}.lock", "is getting the same template", on_event)
                )
                for folder in (self.templates, self.disks, self.partial, self.runs):
                    for path in folder.glob(f"{TEMPORARY_PREFIX}{digest}*"):
                        path.unlink(missing_ok=True)
                if not os.path.lexists(self.partial / digest):  # it became a template, and its record stayed
                    record_path(self.partial / digest).unlink(missing_ok=True)
            except OSError as error:
                raise self._error(error) from error
            yield

    @contextlib.contextmanager
    def entry_if_free(self, digest: str) -> Iterator[bool]:
        """Hold the lock of one entry, or yield False if another process holds it."""
        with contextlib.ExitStack() as stack:
            try:
                ours = stack.enter_context(exclusive_if_free(self.locks / f"{digest}.lock"))
            except OSError as error:
                raise self._error(error) from error
            yield ours

    def _sweep(self, on_event: Reporter) -> None:
        """Remove old unfinished files of killed runs, unless another process uses the cache right now.

        A process that writes to the cache holds its lock shared. So no file that is being written can be seen
        under the exclusive lock, however old it looks.
        """
        folders = (self.templates, self.disks, self.partial, self.runs)
        assert self._lock is not None
        if not any(stale_files(folder, time.time()) for folder in folders):
            return
        if not try_exclusive(self._lock) or os.fstat(self._lock).st_nlink == 0:
            return
        stale = [path for folder in folders for path in stale_files(folder, time.time())]
        for path in stale:
            path.unlink(missing_ok=True)
        debug(on_event, f"removed {len(stale)} unfinished files, older than a week, from {self.root}")

    def _claim(self, lock: int) -> None:
        """Mark the folder as a cache, unless other files have names of the cache's files: they could be lost.

        An empty lock file belongs to a run that is just starting, was killed then, or is of an earlier
        version.
        """
        marker = read_marker(lock)
        if marker is Marker.OURS:
            return
        if marker is Marker.EMPTY and all(_is_own_or_missing(self.root / name) for name in _SUBFOLDERS):
            mark_folder(lock)
            return
        raise WorkspaceError(
            f"{self.root} is not a cache of pybuilder, but contains files with the names of one",
            hint="choose another folder with --cache DIR",
        )

    def _is_ours(self, lock: int) -> bool:
        """Tell whether the folder is certainly a cache, by its mark or the content of earlier versions."""
        marker = read_marker(lock)
        if marker is not Marker.EMPTY:
            return marker is Marker.OURS
        folders = (self.templates, self.disks, self.partial, self.locks)
        return all(_is_folder(folder) for folder in folders) and _holds_only(self.locks, _LOCK_OF_ENTRY)

    def _check_owner(self) -> None:
        status = self.root.stat()
        hint = "choose another folder with --cache DIR"
        if not stat.S_ISDIR(status.st_mode):
            raise WorkspaceError(f"the cache {self.root} is not a folder", hint=hint)
        if status.st_uid != os.geteuid():
            raise WorkspaceError(f"the cache {self.root} belongs to another user", hint=hint)
        if status.st_mode & stat.S_IWOTH:
            raise WorkspaceError(
                f"everybody may write to the cache {self.root}", hint=f"chmod 700 {self.root}"
            )

    def _open_lock(self, flags: int) -> int:
        return os.open(self.root / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)

    def _error(self, error: OSError) -> WorkspaceError:
        return WorkspaceError(
            f"the cache {self.root} cannot be used: {error.strerror or error}",
            hint="choose another folder with --cache DIR",
        )


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise WorkspaceError(f"{folder} is not a folder", hint=f"look at it, then remove {folder}")


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _is_own_or_missing(path: Path) -> bool:
    # Each answer comes from one look: another process may make or delete the folder between two.
    try:
        return stat.S_ISDIR(path.lstat().st_mode) and _holds_only(path, _OWN_NAME)
    except FileNotFoundError:
        return True


def _holds_only(folder: Path, names: re.Pattern[str]) -> bool:
    return all(names.fullmatch(path.name) for path in folder.iterdir())


def _empty(folder: Path) -> None:
    """Remove the files whose names are the cache's; follow no link, enter no folder."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return
        for path in list(folder.iterdir()):
            if _OWN_NAME.fullmatch(path.name) and not stat.S_ISDIR(path.lstat().st_mode):
                path.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()


_WEEK = 7 * 24 * 3600
_PARTIAL = "partial"


def stale_files(folder: Path, now: float) -> list[Path]:
    """Return the unfinished files of a folder of the cache that were last written more than a week ago.

    Those are temporary files and all files of the cache in ``partial/``; a record is as old as its file.
    Links are not followed, folders are left alone (``docs/threat-model.md`` C18).
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
        is_ours = folder.name == _PARTIAL and is_digest(part.removesuffix(".raw"))
        unfinished = name.startswith(TEMPORARY_PREFIX) or is_ours
        if unfinished and ages[owner] > _WEEK:
            stale.append(folder / name)
    return stale


def is_digest(name: str) -> bool:
    """Tell whether a name is a SHA-512, as the names of cached files are."""
    return len(name) == 128 and not set(name) - set("0123456789abcdef")
