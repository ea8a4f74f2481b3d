"""A template and a fetcher for tests of the cache."""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import shutil
from pathlib import Path

import pytest

from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.errors import PybuilderError
from imgbuilder.fetch.transfer import Download, Fetched
from imgindex.model import Entry

DISK = b"boot".ljust(1 << 20, b"\0") + b"end".ljust(512, b"\0")
PACKED = lzma.compress(DISK, preset=0)
SHA = hashlib.sha512(PACKED).hexdigest()
ENTRY = Entry("debian-12", "d.xz", "x86_64", len(DISK), sha512=SHA, format="raw", compressed_size=len(PACKED))
URL = "https://u:canary@h/d.xz"

needs_xz = pytest.mark.skipif(shutil.which("xz") is None, reason="the program xz is not installed")


class FakeFetcher:
    """Serves one file after the other; the last one for ever."""

    def __init__(self, *bodies: bytes | PybuilderError | OSError) -> None:
        self.bodies = list(bodies) or [PACKED]
        self.calls: list[Download] = []

    def fetch(self, download: Download) -> Fetched:
        self.calls.append(download)
        destination = download.destination
        body = self.bodies.pop(0) if len(self.bodies) > 1 else self.bodies[0]
        if isinstance(body, Exception):
            destination.write(b"half")
            raise body
        destination.writelines(body[start : start + 1000] for start in range(0, len(body), 1000))
        return Fetched(download.url, len(body))


def selection(entry: Entry = ENTRY, url: str = URL) -> Selection:
    return Selection(Source("s", "https://u:canary@h/index", ("F" * 40,), proxy="http://p"), entry, url)


class HeldLock:
    """Holds a lock file as another process would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.file = self.path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_error: object) -> None:
        self.file.close()
