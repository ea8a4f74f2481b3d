"""The limit for builds at the same time on this machine, by processors, memory and space."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_RESERVE = 512 << 20
"""Bytes of memory that stay free for the rest of the machine."""
_PRESSURE = 5.0
"""Percent of the last ten seconds in which all processes waited for memory; above it, no build is started."""
_APPLIANCE = 1280 << 20
"""Bytes of memory of an appliance with libguestfs's default, and of QEMU around it."""
_BUILD = 160 << 20
"""Bytes of memory of pybuilder itself."""
GROWING = 10.0
"""Seconds in which a build has not yet taken the memory that it needs."""


@dataclass(frozen=True)
class Load:
    """The needs of a build.

    Attributes:
        memory: Bytes of memory.
        folder: Where its image goes.
        space: Bytes that it will write there, as far as that is known.
    """

    memory: int
    folder: Path
    space: int


def memory_of(*, appliance: bool, memsize: int | None) -> int:
    """Return the bytes of memory that a build needs."""
    if not appliance:
        return _BUILD
    return _BUILD + (_APPLIANCE if memsize is None else (memsize << 20) + (300 << 20))


def usable_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Budget:
    """The limits for builds at the same time.

    Attributes:
        jobs: The most builds.
        proc: The folder of the kernel's figures.
    """

    jobs: int
    proc: Path = _PROC

    def obstacle(self, load: Load, running: Sequence[Load], young: Sequence[Load]) -> str | None:
        """Return why one more build should wait; None if it can start.

        A single build is never held back: if something is short, it fails with the reason.

        Args:
            load: The needs of the build.
            running: The needs of all that run.
            young: Those of them that have not yet taken what they need.
        """
        if not running:
            return None
        if len(running) >= self.jobs:
            return "processors"
        memory = self._meminfo().get("MemAvailable")
        if memory is not None and memory - _RESERVE < load.memory + sum(other.memory for other in young):
            return "memory"
        if self._pressure() > _PRESSURE:
            return "memory"
        same = [other.space for other in running if other.folder == load.folder]
        if shutil.disk_usage(load.folder).free < load.space + sum(same):
            return "space"
        return None

    def _meminfo(self) -> Mapping[str, int]:
        try:
            text = (self.proc / "meminfo").read_text()
        except OSError:
            return {}
        found = re.findall(r"^(\w+): +([0-9]+) kB$", text, re.MULTILINE)
        return {name: int(number) << 10 for name, number in found}

    def _pressure(self) -> float:
        """Return the share of time in which all processes waited for memory; 0 if the kernel does not say."""
        try:
            text = (self.proc / "pressure/memory").read_text()
        except OSError:
            return 0.0
        match = re.search(r"^full avg10=([0-9.]{1,8}) ", text, re.MULTILINE)
        return float(match[1]) if match else 0.0
