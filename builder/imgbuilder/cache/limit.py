"""The limit of the cache: the least recently used files are removed first.

The last use of a file is the time of its record, which is set at each use; access times are often not kept
(``noatime``). Files in use stay: a build holds a shared lock on its disk until it ends, and a process that
makes or reads an entry holds the lock of the entry.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imgbuilder.appliance.instant.store import KeptState, StateStore, state_folder
from imgbuilder.cache.folder import (
    CacheFolder,
    has_content,
    is_digest,
    open_own,
    read_record,
    record_path,
    remove_file,
)
from imgbuilder.cache.links import links_of
from imgbuilder.cache.runs import images_over
from imgbuilder.errors import WorkspaceError
from imgbuilder.events import Reporter, Step, ignore, warn
from imgbuilder.host import imagelocks
from imgbuilder.host.hashing import hash_stream
from imgbuilder.host.locks import try_exclusive

_SHARE = 4
"""The cache may use a quarter of its filesystem by default."""


@dataclass(frozen=True)
class Kept:
    """A file of the cache."""

    path: Path
    digest: str
    """SHA-512 of the template that it belongs to."""
    size: int
    """Bytes that it uses on disk."""
    used: int
    """Time of its last use, in nanoseconds since 1970."""

    @property
    def name(self) -> str:
        """Its name for people: the template's name, or the beginning of its digest."""
        name = (read_record(self.path) or {}).get("template")
        return f"{name if isinstance(name, str) else self.digest[:16]} ({_KINDS[self.path.parent.name]})"


_KINDS = {
    "templates": "template",
    "disks": "unpacked disk",
    "partial": "partial download",
    "runs": "image of a run",
}


def default_limit(root: Path) -> int:
    """Return the number of bytes that a cache may hold for which no limit was set."""
    return shutil.disk_usage(root).total // _SHARE


def kept_files(folder: CacheFolder) -> list[Kept]:
    """Return all files of the cache, least recently used first, without records and temporary files."""
    found = []
    # A disk and an image over it may have been used in the same moment: then the image goes first.
    for place in (folder.templates, folder.runs, folder.disks, folder.partial):
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
    """Remove the least recently used files until the cache uses at most ``limit`` bytes.

    Returns:
        Names and sizes of the removed files. Files in use stay, even if the limit is then exceeded.
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
    """Remove the least recently used files until ``missing`` bytes are free; nothing if that is not enough.

    Returns:
        Names and sizes of the removed files; None when all unused files together are not enough.
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
                _remove(folder, item)
    return [(name, item.size) for name, item in chosen]


def _by_age(folder: CacheFolder, states: StateStore) -> list[Kept | KeptState]:
    both: list[Kept | KeptState] = [*kept_files(folder), *states.states()]
    return sorted(both, key=lambda item: item.used)


@contextlib.contextmanager
def _if_unused(item: Kept) -> Iterator[bool]:
    """Lock a file whose entry is locked; yield False if a process uses it, or it is not a file of ours."""
    try:
        descriptor = open_own(item.path)
    except (WorkspaceError, OSError):
        descriptor = None  # refused at its next use
    if descriptor is None:
        yield False
        return
    try:
        is_locked = not try_exclusive(descriptor) or imagelocks.is_locked(descriptor, changing=True)
        yield not is_locked and not _is_linked(item.path)
    finally:
        os.close(descriptor)


def _is_linked(disk: Path) -> bool:
    """Tell whether images lie over a disk; if that is not known, it counts as such."""
    try:
        return bool(links_of(disk))
    except WorkspaceError:
        return True


def _remove_unused(folder: CacheFolder, item: Kept) -> bool:
    with folder.entry_if_free(item.digest) as ours:
        if not ours:
            return False
        with _if_unused(item) as unused:
            if unused:
                try:
                    _remove(folder, item)
                except OSError:
                    return False
            return unused


def _remove(folder: CacheFolder, item: Kept) -> None:
    """Remove a file, and with a disk the images of runs over it."""
    if item.path.parent == folder.disks:  # none of them is running: QEMU would have locked the disk as well
        for image in images_over(folder, item.path):
            remove_file(image)
    remove_file(item.path)


class Verified(NamedTuple):
    """The result of checking all bytes of the cache.

    Attributes:
        removed: Names and sizes of the damaged files, which were removed.
        linked: Names of damaged disks that stay, because images lie over them.
        good: The number of good files.
        kept: Damaged disks that stay to be repaired, by the digest of their template.
    """

    removed: list[tuple[str, int]]
    linked: list[str]
    good: int
    kept: dict[str, str]


def verify(folder: CacheFolder, on_event: Reporter = ignore, *, repairable: Collection[str] = ()) -> Verified:
    """Check all bytes of templates and disks, and remove those that changed since they were verified.

    Damaged disks of the templates with the digests ``repairable`` stay, and are not used before they are
    repaired.
    """
    removed, linked, good_files = [], [], 0
    kept: dict[str, str] = {}
    for item in kept_files(folder):
        if item.path.parent == folder.partial:
            continue  # hashed when it is complete
        with folder.entry(item.digest, on_event):
            name = item.name
            on_event(Step(f"Verifying: {name}"))
            try:
                good = _is_good(item)
            except WorkspaceError as error:
                warn(on_event, f"{error.message}; {error.hint}")
                continue
            if good:
                good_files += 1
            elif item.path.parent == folder.disks and item.digest in repairable:
                record_path(item.path).unlink(missing_ok=True)
                kept[item.digest] = name
            elif _is_linked(item.path):
                linked.append(name)
            else:
                remove_file(item.path)
                removed.append((name, item.size))
    return Verified(removed, linked, good_files, kept)


def _is_good(item: Kept) -> bool:
    descriptor = open_own(item.path)
    if descriptor is None:
        return True  # removed meanwhile
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if item.path.name == item.digest:
            return hash_stream(file) == item.digest
        return has_content(item.path, descriptor)
