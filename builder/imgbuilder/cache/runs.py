"""Images of ``pybuilder run`` in the cache: small, read-only, each over an unpacked disk.

``runs/KEY.qcow2`` is named by a digest of what was asked for; the file's record names the disk. An image is
made again when it, the disk or the request changed, and goes when its disk goes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.cache.folder import (
    CacheFolder,
    is_unchanged,
    open_own,
    read_record,
    touch_record,
    write_record,
)
from imgbuilder.cache.links import lies_over
from imgbuilder.host.hashing import content_digest
from imgbuilder.host.locks import try_shared
from imgbuilder.sizes import human_size

SUFFIX = ".qcow2"


@dataclass(frozen=True)
class RunImage:
    """An image of the cache that is in use.

    Attributes:
        path: The image.
        facts: What was recorded when it was made.
    """

    path: Path
    facts: dict[str, str]


class RunImages:
    """The files in ``ROOT/runs``, and locks on those in use."""

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._in_use: list[int] = []  # descriptors whose locks protect files from removal

    def path(self, key: str) -> Path:
        """Return the place of an image, which need not exist."""
        return self._folder.runs / f"{key}{SUFFIX}"

    def use(self, key: str, disk: Path) -> RunImage | None:
        """Return a good image over a disk, protected from removal until ``release``; None without one."""
        path = self.path(key)
        descriptor = open_own(path)
        if descriptor is None:
            return None
        record = read_record(path) or {}
        # A removal between opening and locking shows as a change: it sets the change time.
        good = try_shared(descriptor) and is_unchanged(path, descriptor) and record.get("disk") == disk.name
        if not (good and lies_over(path, disk)):
            os.close(descriptor)
            return None
        self._in_use.append(descriptor)
        touch_record(path)
        touch_record(disk)  # after its images, so that they are removed before it
        return RunImage(path, {name: str(value) for name, value in record.items()})

    def make(self, key: str, disk: Path, build: Callable[[Path], dict[str, str]]) -> RunImage:
        """Make an image; ``build`` writes it to a path and returns what to record about it."""
        path = self.path(key)
        facts = build(path)
        path.chmod(0o400)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._in_use.append(descriptor)
        try_shared(descriptor)
        about = {**facts, "disk": disk.name, "content": content_digest(descriptor)}
        write_record(path, descriptor, about)
        touch_record(disk)
        return RunImage(path, about)

    def describe(self) -> list[str]:
        """Return a line for each image: its size, its template, and how that was customized."""
        lines = []
        for path in sorted(self._folder.runs.glob(f"*{SUFFIX}")):
            record = read_record(path)
            if record is not None:
                size = human_size(path.stat().st_blocks * 512)
                parts = [str(record.get("template")), str(record.get("customized", ""))]
                lines.append(f"image of a run, {size}: {'; '.join(filter(None, parts))}")
        return lines

    def release(self) -> None:
        """Unlock the images in use."""
        while self._in_use:
            with contextlib.suppress(OSError):  # nothing was written to it, so nothing can be lost
                os.close(self._in_use.pop())


def images_over(folder: CacheFolder, disk: Path) -> list[Path]:
    """Return the images of runs that lie over a disk."""
    return [
        path for path in folder.runs.glob(f"*{SUFFIX}") if (read_record(path) or {}).get("disk") == disk.name
    ]
