"""How much the cache may hold: the files least recently used go first.

The last use of a file is the time of its record, which is set at each use; the
file's own access time is often not kept (``noatime``). What is in use stays:
a build holds a shared lock on its disk until it ends, and whoever makes or
reads an entry holds the entry's lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.appliance.instant.settings import state_folder
from imgbuilder.appliance.instant.store import KeptState, StateStore
from imgbuilder.cache.folder import CacheFolder, is_digest
from imgbuilder.cache.records import has_content, open_own, read_record, record_path
from imgbuilder.errors import WorkspaceError
from imgbuilder.events import Reporter, Step, ignore, warn
from imgbuilder.host import imagelocks
from imgbuilder.host.hashing import hash_stream
from imgbuilder.host.locks import try_exclusive

_SHARE = 4
"""The cache may take a quarter of its filesystem, unless told otherwise."""


@dataclass(frozen=True)
class Kept:
    """A file of the cache.

    Attributes:
        path: Where it is.
        digest: SHA-512 of the template that it belongs to.
        size: Bytes that it takes on the disk.
        used: When it was used last, in nanoseconds since 1970.
    """

    path: Path
    digest: str
    size: int
    used: int

    @property
    def name(self) -> str:
        """What it is, for people: the template's name, or the beginning of its digest."""
        name = (read_record(self.path) or {}).get("template")
        kind = {"templates": "template", "disks": "unpacked disk"}.get(
            self.path.parent.name, "partial download"
        )
        return f"{name if isinstance(name, str) else self.digest[:16]} ({kind})"


def default_limit(root: Path) -> int:
    """Return how many bytes a cache may hold that nobody set a limit for.

    Raises:
        OSError: The folder cannot be looked at.
    """
    return shutil.disk_usage(root).total // _SHARE


def kept_files(folder: CacheFolder) -> list[Kept]:
    """Return all files of the cache, least recently used first, without records and temporary files.

    Raises:
        OSError: A folder cannot be read.
    """
    found = []
    for place in (folder.templates, folder.disks, folder.partial):
        for path in place.iterdir() if place.is_dir() else ():
            digest, _, suffix = path.name.partition(".")
            if not is_digest(digest) or suffix not in ("", "raw", "qcow2", "auto"):
                continue
            with contextlib.suppress(OSError):  # removed meanwhile
                status = path.lstat()
                used = status.st_mtime_ns
                with contextlib.suppress(OSError):
                    used = max(used, record_path(path).lstat().st_mtime_ns)
                if stat.S_ISREG(status.st_mode):
                    found.append(Kept(path, digest, status.st_blocks * 512, used))
    return sorted(found, key=lambda item: item.used)


def shrink(folder: CacheFolder, limit: int) -> list[tuple[str, int]]:
    """Remove what was not used for longest, until the cache takes no more than a limit.

    Args:
        folder: The cache, open.
        limit: Bytes.

    Returns:
        Name and bytes of what was removed. What is in use stays, also when the limit is not reached then.

    Raises:
        OSError: The cache cannot be read.
    """
    states = StateStore(state_folder(folder.root))
    files = _by_age(folder, states)
    total = sum(item.size for item in files)
    removed = []
    for item in files:
        if total <= limit:
            break
        if isinstance(item, KeptState):
            states.make_room(item)
            removed.append(("a saved appliance", item.size))
            total -= item.size
            continue
        name = item.name
        if _remove_unused(folder, item):
            removed.append((name, item.size))
            total -= item.size
    return removed


def free_space(folder: CacheFolder, missing: int) -> list[tuple[str, int]] | None:
    """Remove what was not used for longest, until that many bytes are free; nothing if that is not enough.

    Args:
        folder: The cache, open.
        missing: Bytes.

    Returns:
        Name and bytes of what was removed; None when all that is not in use is not enough.

    Raises:
        OSError: The cache cannot be read.
    """
    states = StateStore(state_folder(folder.root))
    found = 0
    chosen: list[tuple[str, Kept | KeptState]] = []
    with contextlib.ExitStack() as held:
        ours: dict[str, bool] = {}
        for item in _by_age(folder, states):
            if found >= missing:
                break
            if isinstance(item, Kept):
                if item.digest not in ours:
                    ours[item.digest] = held.enter_context(folder.entry_if_free(item.digest))
                if not ours[item.digest] or not held.enter_context(_if_unused(item)):
                    continue
            chosen.append(("a saved appliance" if isinstance(item, KeptState) else item.name, item))
            found += item.size
        if found < missing:
            return None
        for _name, item in chosen:
            if isinstance(item, KeptState):
                states.make_room(item)
            else:
                remove_file(item.path)
    return [(name, item.size) for name, item in chosen]


def _by_age(folder: CacheFolder, states: StateStore) -> list[Kept | KeptState]:
    both: list[Kept | KeptState] = [*kept_files(folder), *states.states()]
    return sorted(both, key=lambda item: item.used)


@contextlib.contextmanager
def _if_unused(item: Kept) -> Iterator[bool]:
    """Keep others from using a file whose entry is locked; False when somebody uses it, or it is strange."""
    try:
        descriptor = open_own(item.path)
    except (WorkspaceError, OSError):
        descriptor = None  # strange, and refused at its next use
    if descriptor is None:
        yield False
        return
    try:
        yield try_exclusive(descriptor) and not imagelocks.is_locked(descriptor, changing=True)
    finally:
        os.close(descriptor)


def _remove_unused(folder: CacheFolder, item: Kept) -> bool:
    with folder.entry_if_free(item.digest) as ours:
        if not ours:
            return False
        with _if_unused(item) as unused:
            if unused:
                try:
                    remove_file(item.path)
                except OSError:
                    return False
            return unused


def remove_file(path: Path) -> None:
    """Remove a file of the cache and its record, if they are there.

    Raises:
        OSError: They cannot be removed.
    """
    record_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def verify(folder: CacheFolder, on_event: Reporter = ignore) -> tuple[list[tuple[str, int]], int]:
    """Look at all bytes of templates and disks, and remove what is not as it was when it was verified.

    Args:
        folder: The cache, open.
        on_event: Reports what is looked at.

    Returns:
        Name and bytes of what was removed, and how many files are good.

    Raises:
        OSError: The cache cannot be read.
        WorkspaceError: A lock cannot be taken.
    """
    removed, kept = [], 0
    for item in kept_files(folder):
        if item.path.parent == folder.partial:
            continue  # hashed when it is whole
        with folder.entry(item.digest, on_event):
            name = item.name
            on_event(Step(f"Verifying: {name}"))
            try:
                good = _is_good(item)
            except WorkspaceError as error:
                warn(on_event, f"{error.message}; {error.hint}")
                continue
            if good:
                kept += 1
            else:
                remove_file(item.path)
                removed.append((name, item.size))
    return removed, kept


def _is_good(item: Kept) -> bool:
    descriptor = open_own(item.path)
    if descriptor is None:
        return True  # removed meanwhile
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if item.path.name == item.digest:
            return hash_stream(file) == item.digest
        return has_content(item.path, descriptor)
