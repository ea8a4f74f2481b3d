"""Adds up requests to downloads."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date

from imgindex.model import Index
from imgrepo.stats.logs import Request

_GOOD = {200, 206}
_WHOLE = 0.99
"""Share of a file's bytes that counts as the whole file: some logs omit the bytes that were sent last."""


@dataclass
class Count:
    """The downloads of one file.

    Attributes:
        name: Template and architecture; the path of a file that the index does not name.
        is_known: Whether the index names it.
        downloads: Complete downloads; those in several ranges count once.
        partial: Clients that got less than the whole file on a day.
        sent: Bytes.
        clients: Different clients.
        days: Complete downloads by day (UTC).
    """

    name: str
    is_known: bool
    downloads: int = 0
    partial: int = 0
    sent: int = 0
    clients: int = 0
    days: Counter[date] = field(default_factory=Counter)


@dataclass(frozen=True)
class Statistics:
    """The downloads found in logs.

    Attributes:
        counts: By file, most downloads first.
        clients: Different clients of all files.
        lines: Lines read.
        skipped: Lines that were not understood.
        first: First day, or None.
        last: Last day, or None.
    """

    counts: tuple[Count, ...]
    clients: int
    lines: int
    skipped: int
    first: date | None
    last: date | None

    @property
    def downloads(self) -> int:
        """All complete downloads."""
        return sum(count.downloads for count in self.counts)

    @property
    def sent(self) -> int:
        """All bytes."""
        return sum(count.sent for count in self.counts)


def files_of(index: Index) -> dict[str, tuple[str, int | None]]:
    """Return the files of an index: name to template and size in bytes."""
    files: dict[str, tuple[str, int | None]] = {}
    for entry in index.entries:
        label = f"{entry.os_version} ({entry.arch})"
        files[entry.file] = (label, entry.compressed_size)
        if entry.zstd is not None:
            files[entry.zstd.file] = (label, entry.zstd.compressed_size)
    return files


def count_downloads(
    requests: Iterable[Request | None], files: Mapping[str, tuple[str, int | None]]
) -> Statistics:
    """Count the downloads of templates.

    The bytes of one file that one client (address and program) got on one day are added up and divided by the
    size of the file. So a download in ranges, or one that was resumed, counts once.

    Args:
        requests: The requests, in any order; None for lines that were not understood.
        files: The files of the index, see ``files_of``. The log's paths may have folders before the name.
    """
    lines = skipped = 0
    got: defaultdict[tuple[str, tuple[str, str], date], int] = defaultdict(int)
    whole: Counter[tuple[str, tuple[str, str], date]] = Counter()
    days: set[date] = set()
    for request in requests:
        lines += 1
        if request is None:
            skipped += 1
            continue
        if request.method != "GET" or request.status not in _GOOD:
            continue
        name = _known(request.path, files)
        if name is None:
            continue
        day = request.moment.date()
        days.add(day)
        key = (name, request.client, day)
        got[key] += request.sent
        whole[key] += request.status == 200
    counts: dict[str, Count] = {}
    clients: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for (name, client, day), sent in got.items():
        label, size = files.get(name, (name, None))
        count = counts.setdefault(label, Count(label, name in files))
        complete = _complete(sent, size, whole[name, client, day])
        count.downloads += complete
        if complete:
            count.days[day] += complete
        count.partial += not complete
        count.sent += sent
        clients[label].add(client)
    for label, count in counts.items():
        count.clients = len(clients[label])
    ordered = sorted(counts.values(), key=lambda count: (not count.is_known, -count.downloads, count.name))
    all_clients = set().union(*clients.values()) if clients else set()
    return Statistics(
        tuple(ordered), len(all_clients), lines, skipped, min(days, default=None), max(days, default=None)
    )


def _known(path: str, files: Mapping[str, tuple[str, int | None]]) -> str | None:
    """Return the file that a path means; a withdrawn or replaced template is counted by its file name."""
    parts = path.lstrip("/").split("/")
    for start in range(len(parts)):
        name = "/".join(parts[start:])
        if name in files:
            return name
    last = parts[-1]
    return last if last.endswith((".xz", ".zst", ".qcow2", ".img")) else None


def _complete(sent: int, size: int | None, answers: int) -> int:
    """Return how many whole files so many bytes are; of a file of unknown size, answers with all of it."""
    if not size:
        return answers if sent else 0
    return int(sent / size + 1 - _WHOLE)
