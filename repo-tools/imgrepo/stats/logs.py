"""Reads access logs of nginx and Apache: the common and the combined format, plain or gzip."""

from __future__ import annotations

import gzip
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import IO, cast
from urllib.parse import unquote, urlsplit

from imgbuilder.errors import UsageError
from imgindex.files import open_given

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
        moment: When, in UTC.
        method: Such as ``GET``.
        path: Path of the address, percent signs decoded, without query.
        status: Status code of the answer.
        sent: Bytes of the answer's body.
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
    """Read a log, line by line; None for each line that is not understood.

    Args:
        path: A log, or one that logrotate compressed with gzip; ``-`` is standard input.

    Raises:
        UsageError: It cannot be read, or is damaged.
    """
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
