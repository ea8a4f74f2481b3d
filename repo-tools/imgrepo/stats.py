"""Counts downloads of templates in the logs of nginx and Apache, and draws them; no telemetry, no cookies.

Addresses of clients are counted, but not kept or printed.
"""

from __future__ import annotations

import gzip
import re
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import IO, cast
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

from imgbuilder.errors import UsageError
from imgindex.files import open_given
from imgindex.model import Index

LONGEST_LINE = 64 * 1024
"""Bytes; web servers write no longer lines."""
# Apache's vhost_combined begins with "host:port "; a client is an address, or a name.
_LINE = re.compile(
    r"(?:\S+:\d+ )?(?P<client>\S+) \S+ (?:\S+|\S.{0,200}?) "
    r"\[(?P<day>\d\d)/(?P<month>[A-Z][a-z][a-z])/(?P<year>\d{4}):"
    r"(?P<time>\d\d:\d\d:\d\d) (?P<zone>[+-]\d{4})\] "
    r'"(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) (?P<bytes>\d{1,18}|-)'
    r'(?: "(?:[^"\\]|\\.)*" "(?P<agent>(?:[^"\\]|\\.)*)")?'
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        client: Address or name, and the name of the program: both together are one client.
        path: Path of the address, percent signs decoded, without query.
    """

    client: tuple[str, str]
    moment: datetime
    method: str
    path: str
    status: int
    sent: int


def parse_line(line: str) -> Request | None:
    """Read one line of a log; None when its format is unknown."""
    found = _LINE.match(line)
    if found is None or found["month"] not in _MONTHS:
        return None
    words = found["request"].split(" ")
    if len(words) < 2:
        return None
    zone = int(found["zone"][1:3]) * 60 + int(found["zone"][3:5])
    try:
        path = unquote(urlsplit(words[1]).path)
        hour, minute, second = (int(part) for part in found["time"].split(":"))
        # A leap second is the last one of its minute here.
        local = datetime(
            int(found["year"]), _MONTHS.index(found["month"]) + 1, int(found["day"]),
            hour, minute, min(second, 59),
            tzinfo=timezone(timedelta(minutes=zone if found["zone"][0] == "+" else -zone)),
        )  # fmt: skip
        moment = local.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    sent = 0 if found["bytes"] == "-" else int(found["bytes"])
    client = (found["client"], found["agent"] or "")
    return Request(client, moment, words[0], path, int(found["status"]), sent)


def read_log(path: Path) -> Iterator[Request | None]:
    """Read a log, which may be packed by gzip, line by line; None for a line that is not understood."""
    try:
        with _opened(path) as file:
            while line := file.readline(LONGEST_LINE + 1):
                if len(line) > LONGEST_LINE:
                    yield None
                    while line and not line.endswith(b"\n"):
                        line = file.readline(LONGEST_LINE)
                elif line.strip():
                    yield parse_line(line.decode("utf-8", "replace").rstrip("\r\n"))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is a damaged gzip file: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    with open_given(path) as file:
        if file.peek(2)[:2] == _GZIP:
            with gzip.open(file) as inner:
                yield cast("IO[bytes]", inner)
        else:
            yield file


_GOOD = {200, 206}
_WHOLE = 0.99
"""Share of a file's bytes that counts as the whole file: some logs omit the bytes that were sent last."""


@dataclass
class Count:
    """The downloads of one file.

    Attributes:
        name: Template and architecture; the path of a file that the index does not name.
        downloads: Complete downloads; those in several ranges count once.
        partial: Clients that got less than the whole file on a day.
        clients: Clients with a complete download.
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
    """The downloads found in logs, by file, most downloads first; the days are None without any."""

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
        if entry.blocks is not None:  # clients that have an older disk fetch it first
            files[entry.blocks.file] = (f"{label}, updates", entry.blocks.compressed_size)
    return files


def count_downloads(
    requests: Iterable[Request | None], files: Mapping[str, tuple[str, int | None]]
) -> Statistics:
    """Count the downloads of templates, whose paths may have folders before the name.

    The bytes of one file that one client (address and program) got on one day are added up and divided by the
    size of the file. So a download in ranges, or one that was resumed, counts once.
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
            clients[label].add(client)
        count.partial += not complete
        count.sent += sent
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


_WIDTH, _HEIGHT = 720, 200
_LEFT, _BOTTOM, _TOP = 48, 28, 40
_MOST_BARS = 120
"""More days than that share bars of several days each."""
_DIGIT = 7
"""Pixels that a digit takes."""


def bar_chart(title: str, days: Mapping[date, int], first: date, last: date) -> str:
    """Draw downloads by day; days without any may be left out.

    Each bar has its number above it where there is room; the highest one has it in any case.
    """
    total = (last - first).days + 1
    step = -(-total // _MOST_BARS)
    groups = [
        (
            first + timedelta(days=at),
            sum(days.get(first + timedelta(days=at + more), 0) for more in range(step)),
        )
        for at in range(0, total, step)
    ]
    top = max([1, *(value for _day, value in groups)])
    svg = ET.Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
        attrib={"aria-label": title},
    )  # fmt: skip
    ET.SubElement(svg, "title").text = title
    style = {"font-family": "sans-serif", "font-size": "12", "fill": "currentColor"}

    def write(text: str, x: float, y: float, anchor: str) -> None:
        place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
        ET.SubElement(svg, "text", {**place, **style}).text = text

    def line(y: float, **look: str) -> None:
        place = {"x1": str(_LEFT), "x2": str(_WIDTH - 8), "y1": f"{y:.1f}", "y2": f"{y:.1f}"}
        ET.SubElement(svg, "line", {**place, "stroke": "currentColor", **look})

    room = _HEIGHT - _TOP - _BOTTOM
    width = (_WIDTH - _LEFT - 8) / len(groups)
    write(title, _LEFT, 15, "start")
    for value in sorted({0, top // 2, top}):
        y = _TOP + room - room * value / top
        write(str(value), _LEFT - 6, y + 4, "end")
        line(y, **({} if value == 0 else {"stroke-opacity": "0.2"}))
    highest = max(range(len(groups)), key=lambda number: groups[number][1])
    every = len(str(top)) * _DIGIT < width
    for number, (day, value) in enumerate(groups):
        height = room * value / top
        x, y = _LEFT + number * width, _TOP + room - height
        bar = ET.SubElement(
            svg, "rect", x=f"{x:.1f}", y=f"{y:.1f}",
            width=f"{max(0.5, width - 1):.1f}", height=f"{height:.1f}", fill="#3b6ea5",
        )  # fmt: skip
        until = "" if step == 1 else f" and {step - 1} days more"
        ET.SubElement(bar, "title").text = f"{day}{until}: {value}"
        if value and (every or number == highest):
            middle = x + (width - 1) / 2
            edge = len(str(value)) * _DIGIT / 2
            write(str(value), min(max(middle, _LEFT + edge), _WIDTH - 8 - edge), y - 4, "middle")
    write(str(first), _LEFT, _HEIGHT - 8, "start")
    write(str(last), _WIDTH - 8, _HEIGHT - 8, "end")
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"
