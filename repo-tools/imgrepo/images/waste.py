"""Measures what an image carries although each of its users fetches or makes it again.

The package lists of a Debian guest are 87 MB, a fifth of a small template, and each update changes all of
them. The guest may be hostile, so what is counted is limited.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterable

from imgbuilder.customize import sysprep
from imgbuilder.errors import ApplianceError, GuestCallError
from imgbuilder.events import Reporter, debug, warn
from imgbuilder.guests.ports import Guest
from imgbuilder.host.text import printable
from imgbuilder.sizes import human_size
from imgrepo.images.scan import SourceImage

_TASKS = ("package-caches", "temporary-files")
"""Tasks of ``--sysprep`` that remove such files."""
_LEAST = 1 << 20
"""Bytes that are not worth a warning."""
_MOST_FILES = 2000
"""Files that are measured; the size is a lower bound then."""
_MOST_FOLDERS = 3


def warn_of_waste(guest: Guest, image: SourceImage, on_event: Reporter) -> None:
    """Warn of large files of that kind in a mounted guest, and say which command removes them."""
    try:
        found = sysprep.find(guest, _TASKS)
        folders: dict[str, list[str]] = {}
        for one in found:
            folders.setdefault(posixpath.dirname(one.path), []).append(one.path)
        sizes = {folder: size_of(guest, paths) for folder, paths in folders.items()}
    except ApplianceError:
        raise
    except GuestCallError as error:
        debug(on_event, f"{image.name}: package lists and caches are not measured: {error.message}")
        return
    if sum(sizes.values()) < _LEAST:
        return
    largest = sorted(sizes, key=lambda folder: -sizes[folder])
    places = ", ".join(
        f"{printable(folder)} ({human_size(sizes[folder])})" for folder in largest[:_MOST_FOLDERS]
    )
    tasks = ",".join(task for task in _TASKS if any(one.task == task for one in found))
    warn(
        on_event,
        f"{image.name}: {human_size(sum(sizes.values()))} of package lists, caches and temporary files are "
        f"published with it: {places}; to remove them: pybuilder-customize -a {image.path} --sysprep {tasks}",
    )


def size_of(guest: Guest, paths: Iterable[str]) -> int:
    """Return the bytes of files, and of all files below folders; links count nothing."""
    total, left = 0, _MOST_FILES
    for path in paths:
        files = guest.files_below(path) if not guest.is_symlink(path) and guest.is_dir(path) else [path]
        for file in files[:left]:
            left -= 1
            if not guest.is_symlink(file):
                facts = guest.stat(file)
                total += facts.size if stat.S_ISREG(facts.mode) else 0
        if left <= 0:
            break
    return total
