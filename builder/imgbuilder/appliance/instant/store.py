"""Stores saved appliances: a private folder of the cache with one folder for each state.

A state appears complete or not at all: it is written under a temporary name,
made durable, and renamed. After that it is never changed, and it is renamed
before it is removed. So readers need no lock: at worst a state disappears
while they use it, and they boot. Writers hold a lock: there is only one at a
time, and leftovers of a killed writer can be recognized. ``PYBUILDER_INSTANT`` sets when
states are used.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgbuilder.appliance.instant.commandline import UnusableStateError
from imgbuilder.appliance.instant.program import (
    GIVEN_UP,
    MACHINE,
    RECORD,
    RETRY_AFTER,
    check_private,
    read_mark,
)
from imgbuilder.errors import UsageError
from imgbuilder.host import paths
from imgbuilder.host.locks import LOCK_NAME, Marker, mark_folder, read_marker
from imgbuilder.host.text import one_line
from imgbuilder.sizes import human_size
from imgindex.files import make_folder, sync_folder, temporary_file

FOLDER = "instant"
"""Name of the folder within the cache."""
MOST_STATES = 4
"""Most states, of 150 to 250 MB each; the least recently used is dropped first."""
_PART = ".part-"
_KEY = re.compile(r"[0-9a-f]{40}")
_OURS = re.compile(rf"[0-9a-f]{{40}}({re.escape(GIVEN_UP)})?|{re.escape(_PART)}[0-9a-f]{{16}}|lock")


@dataclass(frozen=True)
class KeptState:
    """A state in the store.

    Attributes:
        path: Its folder.
        size: Bytes that it takes on the disk.
        used: The time of its last use, in nanoseconds since 1970.
    """

    path: Path
    size: int
    used: int


class StateStore:
    """The states in one folder, which is not touched before ``open``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> None:
        """Make the folder if it is missing.

        Raises:
            OSError: It cannot be made.
            UnusableStateError: Other users have access to it, or it holds other files.
        """
        make_folder(self.root)
        check_private(str(self.root))
        with self._lock(os.O_CREAT) as lock:
            if not self._is_ours(lock):
                raise UnusableStateError(f"{self.root} holds files that are not saved appliances")
            mark_folder(lock)

    def states(self) -> list[KeptState]:
        """Return the states, least recently used first; none if the folder is not ours."""
        found = []
        for path in self._entries():
            if _KEY.fullmatch(path.name):
                with contextlib.suppress(OSError):  # dropped at the same time
                    size = sum(item.lstat().st_blocks * 512 for item in path.iterdir())
                    found.append(KeptState(path, size, (path / RECORD).lstat().st_mtime_ns))
        return sorted(found, key=lambda state: state.used)

    def last_machine(self) -> dict[str, Any]:
        """Return what the machine of the state that was used last is like; empty if that is not known."""
        for state in reversed(self.states()):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                return dict(json.loads((state.path / RECORD).read_text())[MACHINE])
        return {}

    def used_bytes(self) -> int:
        """Return how many bytes the states take on the disk."""
        return sum(state.size for state in self.states())

    @contextlib.contextmanager
    def making(self) -> Iterator[Path | None]:
        """Hold the writers' lock and make a folder for a new state; None while another process writes one."""
        with self._lock() as holder:
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            self._sweep()
            new = self.root / f"{_PART}{secrets.token_hex(8)}"
            new.mkdir(mode=0o700)
            try:
                yield new
            finally:
                shutil.rmtree(new, ignore_errors=True)

    def publish(self, new: Path, key: str) -> None:
        """Give a new state its name, durably, and drop states above the limit."""
        for path in new.iterdir():
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(new)
        self.drop(key)
        new.rename(self.root / key)
        sync_folder(self.root)
        for state in self.states()[:-MOST_STATES]:
            self.drop(state.path.name)

    def drop(self, key: str) -> None:
        """Remove a state if it exists."""
        gone = self.root / f"{_PART}{secrets.token_hex(8)}"
        try:
            (self.root / key).rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone)

    def touch(self, key: str) -> None:
        """Record that a state was used now."""
        with contextlib.suppress(OSError):  # it only affects which state is dropped first
            os.utime(self.root / key / RECORD)

    def give_up(self, key: str, why: str, *, seconds: float = RETRY_AFTER) -> None:
        """Record that no state can be made for a machine, so that the builds of the next time do not try."""
        with temporary_file(self.root) as (descriptor, temporary):
            os.write(descriptor, f"{one_line(why, 400)}\n".encode())
            moment = time.time() - RETRY_AFTER + seconds  # a mark counts by its age
            os.utime(temporary, (moment, moment))
            temporary.replace(self.root / f"{key}{GIVEN_UP}")

    def make_room(self, state: KeptState) -> None:
        """Drop a state to make room; one in daily use is not made again at once."""
        self.drop(state.path.name)
        if time.time_ns() - state.used < RETRY_AFTER * 1e9:
            self.give_up(state.path.name, "the cache had no room for it")

    def describe(self) -> list[str]:
        """Return a line for each state, and for each machine without one the reason."""
        lines = [f"saved appliance, {human_size(state.size)}" for state in reversed(self.states())]
        for path in self._entries():
            if path.name.endswith(GIVEN_UP):
                why = read_mark(str(path))
                if why is not None:
                    lines.append(f"an appliance that could not be saved ({why})")
        return lines

    def delete(self) -> None:
        """Remove all our files, and the folder if it is empty then."""
        entries = self._entries()
        for path in sorted(entries, key=lambda path: path.name == LOCK_NAME):  # the lock goes last
            if _KEY.fullmatch(path.name):
                self.drop(path.name)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)  # of a killed writer, or of one that fails now
            else:
                path.unlink(missing_ok=True)
        if entries:
            with contextlib.suppress(OSError):
                self.root.rmdir()

    def _sweep(self) -> None:
        """Remove leftovers of killed writers; the caller holds their lock."""
        for path in self._entries():
            if path.name.startswith(_PART):
                shutil.rmtree(path, ignore_errors=True)

    def _entries(self) -> list[Path]:
        try:
            facts = self.root.lstat()
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
                return []
            with self._lock() as lock:
                if not self._is_ours(lock):
                    return []
            return [path for path in self.root.iterdir() if _OURS.fullmatch(path.name)]
        except OSError:
            return []

    @contextlib.contextmanager
    def _lock(self, flags: int = 0) -> Iterator[int]:
        """Open the lock file, which marks the folder as ours."""
        flags |= os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.root / LOCK_NAME, flags, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _is_ours(self, lock: int) -> bool:
        """Return whether the folder is ours, by its mark or by the names of its files."""
        marker = read_marker(lock)
        if marker is not Marker.EMPTY:
            return marker is Marker.OURS
        return all(_OURS.fullmatch(path.name) for path in self.root.iterdir())


VARIABLE = "PYBUILDER_INSTANT"
"""Environment variable that sets the mode."""


class InstantMode(enum.Enum):
    """When appliances are resumed."""

    NEVER = "no"
    EMULATED = "auto"
    """Only under emulation, where a boot is slow; long tests were run there."""
    ALWAYS = "yes"
    """Also with KVM."""


def instant_mode(environ: Mapping[str, str] = os.environ) -> InstantMode:
    """Return the mode that the environment sets; by default, emulated appliances are resumed."""
    text = environ.get(VARIABLE, "") or InstantMode.EMULATED.value
    try:
        return InstantMode(text)
    except ValueError as error:
        raise UsageError(
            f"{VARIABLE}={text} is not a valid value", hint="set it to yes, no or auto"
        ) from error


def state_folder(cache: Path | None) -> Path:
    """Return the folder of the states.

    Args:
        cache: The private cache; None for the usual one. Shared caches are not used.
    """
    return (cache if cache is not None else paths.cache_dir()) / FOLDER
