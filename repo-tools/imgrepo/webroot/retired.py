"""Files that no index names any more, and how long they stay.

A client that read the old index a moment ago still asks for the old files, and
caches on the way may serve the old index for hours (``docs/threat-model.md``
R9). So they stay for a grace time, counted from the first run that
finds them. A record in the served folder remembers that time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from imgbuilder.errors import DiskError, RepositoryError
from imgbuilder.events import Reporter, info, warn
from imgbuilder.host import imagelocks
from imgbuilder.host.workspace import explain
from imgindex.files import sync_folder
from imgindex.model import Index
from imgrepo.recordfile import Moment, RecordFile
from imgrepo.webroot.entries import files_of, stem_of_published

RECORD_NAME = ".pybuilder-repo-retired.json"
GRACE = timedelta(days=7)
"""Time that a retired file stays by default."""

_PACKED = (".xz", ".zst", ".blocklist")


@dataclass(frozen=True)
class Retired:
    """A file that no index names any more; ``since`` is when a run first noticed that, in UTC."""

    name: str
    since: datetime
    size: int


@dataclass(frozen=True)
class _RetiredFiles:
    files: dict[str, Moment]


@dataclass(frozen=True)
class ServedFiles:
    """The files of a served folder, on this machine or at an upload target.

    Attributes:
        record: The local record of when each file was first missing from the index.
        delete: Deletes files by name; returns the names that are gone now.
    """

    sizes: Mapping[str, int]
    record: Path
    delete: Callable[[Sequence[str]], Sequence[str]]


def served_files(folder: Path, on_event: Reporter) -> ServedFiles:
    """List the files of a served folder on this machine; ``on_event`` reports files that stay."""
    sizes = {
        path.name: path.stat().st_size
        for path in folder.iterdir()
        if path.is_file() and not path.is_symlink()
    }
    return ServedFiles(sizes, folder / RECORD_NAME, lambda names: _delete(folder, names, on_event))


def retire(
    files: ServedFiles,
    index: Index,
    before: Index,
    *,
    now: datetime,
    on_event: Reporter,
    grace: timedelta | None = None,
) -> tuple[str, ...]:
    """Note which files no index names any more, delete those older than ``grace``, and return their names.

    ``index`` is what is published now, and ``before`` what was published before. Without ``grace`` none are
    deleted.
    """
    found = find_retired(files, index, before, now=now)
    chosen = () if grace is None else choose(found, now=now, grace=grace)
    deleted = delete(files, found, chosen)
    for name in deleted:
        info(on_event, f"deleted: {name}")
    return deleted


def find_retired(files: ServedFiles, index: Index, before: Index, *, now: datetime) -> tuple[Retired, ...]:
    """Find the files that were published once and that the index does not name.

    Two kinds count: packed files with generated names, and files that an index once named. All other files
    stay. A source image may have a generated name as well, so the suffix must be that of a packed file.
    """
    known = _remembered(files.record)
    named = {file.name for entry in index.entries for file in files_of(entry)}
    once = {file.name for entry in before.entries for file in files_of(entry) if "/" not in file.name}
    found = []
    for name, size in sorted(files.sizes.items()):
        made = name.endswith(_PACKED) and stem_of_published(name) is not None
        if (made or name in once or name in known) and name not in named:
            found.append(Retired(name, min(known.get(name, now), now), size))
    return tuple(found)


def choose(
    retired: Iterable[Retired], *, now: datetime, grace: timedelta, keep: int = 0
) -> tuple[Retired, ...]:
    """Choose which retired files may be deleted; the newest ``keep`` files of each image stay at any age."""
    by_image: dict[str, list[Retired]] = {}
    for item in retired:
        by_image.setdefault(stem_of_published(item.name) or item.name, []).append(item)
    chosen: list[Retired] = []
    for items in by_image.values():
        newest_first = sorted(items, key=lambda item: (item.since, item.name), reverse=True)
        chosen += [item for item in newest_first[keep:] if now - item.since >= grace]
    return tuple(sorted(chosen, key=lambda item: item.name))


def delete(files: ServedFiles, retired: Iterable[Retired], chosen: Iterable[Retired]) -> tuple[str, ...]:
    """Delete the chosen ones of all retired files, remember the others, return the names of the deleted."""
    names = [item.name for item in chosen]
    deleted = tuple(files.delete(names)) if names else ()
    _remember(files.record, [item for item in retired if item.name not in deleted])
    return deleted


def _delete(folder: Path, names: Iterable[str], on_event: Reporter) -> list[str]:
    """Delete files durably; a disk that another program uses stays until a later run."""
    deleted = []
    for name in names:
        try:
            imagelocks.refuse_if_in_use(folder / name, changing=True)
            (folder / name).unlink(missing_ok=True)
        except DiskError as error:
            warn(on_event, f"{name} is not deleted: {error.message}")
            continue
        except OSError as error:
            raise explain(error, folder / name) from error
        deleted.append(name)
    sync_folder(folder)
    return deleted


def _remember(path: Path, retired: Iterable[Retired]) -> None:
    files = {item.name: item.since for item in sorted(retired, key=lambda item: item.name)}
    if files != _remembered(path):
        RecordFile(_RetiredFiles, path.name).write(path.parent, _RetiredFiles(files))


def _remembered(path: Path) -> dict[str, datetime]:
    """Read the record; one that is missing or damaged only makes files stay longer."""
    try:
        record = RecordFile(_RetiredFiles, path.name).read(path.parent)
    except RepositoryError:
        return {}
    return {} if record is None else record.files
