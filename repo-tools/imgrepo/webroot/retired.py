"""Files that no index names any more, and how long they stay.

A client that read the old index a moment ago still asks for the old files, and
caches between it and us may hold the old index for hours (``docs/threat-model.md``
R9). So they stay for a grace time, counted from when a publisher first saw that
nothing names them; a record in the served folder remembers that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from imgbuilder.host.workspace import explain, new_file
from imgindex.files import open_file, sync_folder
from imgindex.model import Index
from imgrepo.webroot.entries import files_of, stem_of_published

RECORD_NAME = ".pybuilder-repo-retired.json"
GRACE = timedelta(days=7)
"""How long a retired file stays, unless the publisher says otherwise."""

_LARGEST = 16 << 20
_PACKED = (".xz", ".zst")


@dataclass(frozen=True)
class Retired:
    """A file that no index names any more.

    Attributes:
        name: Its name in the served folder.
        since: When a publisher first saw that, in UTC.
        size: Bytes.
    """

    name: str
    since: datetime
    size: int


def find_retired(folder: Path, index: Index, before: Index, *, now: datetime) -> tuple[Retired, ...]:
    """Find the files that were published once and that the index does not name.

    Only packed files with names that the publisher makes, and what an index named, count: whatever else
    lies in the folder is none of our business. An image may have such a name, and lie in the same folder.

    Args:
        folder: The served folder.
        index: What is published now.
        before: What was published before.
        now: The time, in UTC.
    """
    sizes = {
        path.name: path.stat().st_size
        for path in folder.iterdir()
        if path.is_file() and not path.is_symlink()
    }
    return among(sizes, index, before, remembered=remembered(folder), now=now)


def among(
    sizes: Mapping[str, int],
    index: Index,
    before: Index,
    *,
    remembered: Mapping[str, datetime],
    now: datetime,
) -> tuple[Retired, ...]:
    """Find the files among those of a folder that were published once and are not named any more. Pure.

    Args:
        sizes: The files in the folder, by name, with their sizes in bytes.
        index: What is published now.
        before: What was published before.
        remembered: Since when a file is known not to be named.
        now: The time, in UTC.
    """
    named = {path for entry in index.entries for path in files_of(entry)}
    once = {path for entry in before.entries for path in files_of(entry) if "/" not in path}
    found = []
    for name, size in sorted(sizes.items()):
        made = name.endswith(_PACKED) and stem_of_published(name) is not None
        if (made or name in once or name in remembered) and name not in named:
            found.append(Retired(name, min(remembered.get(name, now), now), size))
    return tuple(found)


def remember(folder: Path, retired: Iterable[Retired], record_name: str = RECORD_NAME) -> None:
    """Replace the record, if it says something else.

    Raises:
        WorkspaceError: It cannot be written.
    """
    files = {item.name: item.since for item in retired}
    if files == remembered(folder, record_name):
        return
    path = folder / record_name
    record = {"version": 1, "files": {name: since.isoformat() for name, since in sorted(files.items())}}
    with new_file(path) as temporary:
        try:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise explain(error, path) from error


def choose(retired: Iterable[Retired], *, now: datetime, grace: timedelta, keep: int) -> tuple[Retired, ...]:
    """Choose which retired files may go. A pure function.

    Args:
        retired: All of them.
        now: The time, in UTC.
        grace: How long each stays at least.
        keep: How many of each image stay whatever their age, the ones retired last.
    """
    by_image: dict[str, list[Retired]] = {}
    for item in retired:
        by_image.setdefault(stem_of_published(item.name) or item.name, []).append(item)
    chosen: list[Retired] = []
    for items in by_image.values():
        newest_first = sorted(items, key=lambda item: (item.since, item.name), reverse=True)
        chosen += [item for item in newest_first[keep:] if now - item.since >= grace]
    return tuple(sorted(chosen, key=lambda item: item.name))


def delete(folder: Path, chosen: Iterable[Retired]) -> None:
    """Delete retired files, durably.

    Raises:
        WorkspaceError: One cannot be deleted.
    """
    for item in chosen:
        try:
            (folder / item.name).unlink(missing_ok=True)
        except OSError as error:
            raise explain(error, folder / item.name) from error
    sync_folder(folder)


def remembered(folder: Path, record_name: str = RECORD_NAME) -> dict[str, datetime]:
    """Return what is remembered; a record that is missing or damaged only lets files stay longer."""
    try:
        with open_file(folder / record_name) as file:
            record = json.loads(file.read(_LARGEST))
        times = {str(name): datetime.fromisoformat(since) for name, since in record["files"].items()}
        return {name: since.astimezone(UTC) for name, since in times.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
