"""Processes that get the same template through one cache."""

from __future__ import annotations

import hashlib
import lzma
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from tests.fakes.faultserver import FaultServer

DISK = b"boot" + random.Random(4).randbytes(200_000).ljust(1 << 20, b"\0") + bytes(508)
PACKED = lzma.compress(DISK, preset=0)
SHA = hashlib.sha512(PACKED).hexdigest()

WORKERS = """
import hashlib, os, sys
from pathlib import Path
from imgbuilder.cache.store import TemplateCache
from imgbuilder.cache.unpack import unpack
from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source
from imgbuilder.events import Notice
from imgbuilder.fetch.web import RequestsFetcher
from imgindex.model import Entry
import filelock

root, url, sha, size, packed, count, log = sys.argv[1:]
entry = Entry("x", "d.xz", "x86_64", int(size), sha512=sha, format="raw", compressed_size=int(packed))

def say(text):
    with open(log, "a") as file:
        file.write(text + "\\n")

def counted(*arguments, **named):
    say("unpacked")
    return unpack(*arguments, **named)

def tell(event):
    if isinstance(event, Notice):
        say(event.text)

gate, go = os.pipe()
children = []
for _ in range(int(count)):
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(gate, 1)
        with TemplateCache(Path(root)) as cache:
            cache.open()
            chosen = Selection(Source("s", url), entry, url)
            disk = cache.get_disk(chosen, RequestsFetcher(), tell, unpack=counted)
            say(hashlib.sha512(disk.read_bytes()).hexdigest())
        os._exit(0)
    children.append(child)
os.close(go)  # all start at once
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


class Place:
    """A cache, and processes that get the same template."""

    def __init__(self, folder: Path) -> None:
        self.root, self.log = folder / "cache", folder / "log"
        self.log.touch()

    def start(self, server: FaultServer, count: int = 1) -> subprocess.Popen[bytes]:
        words = [self.root, f"{server.url}/d.xz", SHA, len(DISK), len(PACKED), count, self.log]
        return subprocess.Popen([sys.executable, "-c", WORKERS, *map(str, words)], start_new_session=True)

    def run(self, server: FaultServer, count: int = 1) -> None:
        process = self.start(server, count)
        try:
            assert process.wait(timeout=120) == 0
        finally:
            kill(process)

    def said(self) -> list[str]:
        return self.log.read_text().splitlines()

    def leftovers(self) -> list[Path]:
        return [*self.root.rglob(".part-*"), *(self.root / "partial").iterdir()]


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
