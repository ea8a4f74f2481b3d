"""Many processes and one cold template (rows C2, C7 and C8 of ``docs/threat-model.md``)."""

from __future__ import annotations

import hashlib
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgbuilder.cache.folder import CacheFolder
from tests.fakes.faultserver import FaultServer, Hang, Pause, honest

pytestmark = pytest.mark.skipif(shutil.which("xz") is None, reason="the program xz is not installed")

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
    """A cache, and processes that want the same template."""

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


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("no_proxy", "*")
    repository = Path(__file__).parents[4]
    folders = [str(repository / name) for name in ("builder", "index")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    return Place(tmp_path)


@pytest.mark.row("C7")
@pytest.mark.parametrize("count", [2, 8, 32])
def test_one_download_and_one_unpacking(place: Place, count: int) -> None:
    with FaultServer([Pause(0.3), honest(PACKED)]) as server:
        place.run(server, count)
        assert len(server.requests) == 1
    right = hashlib.sha512(DISK).hexdigest()
    assert place.said().count("unpacked") == 1
    assert place.said().count(right) == count
    assert place.leftovers() == []


def test_another_process_may_mark_the_folder_while_this_one_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        content = real(descriptor, size, offset)
        monkeypatch.setattr(os, "pread", real)
        other = CacheFolder(tmp_path / "cache")
        other.open()
        other.close()
        return content

    monkeypatch.setattr(os, "pread", pread)
    folder = CacheFolder(tmp_path / "cache")
    folder.open()
    folder.close()


def until(condition: object, process: subprocess.Popen[bytes]) -> None:
    assert callable(condition)
    while not condition():
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.row("C8")
def test_a_waiter_takes_over_from_a_killed_downloader(place: Place) -> None:
    half = len(PACKED) // 2
    part = place.root / "partial" / SHA
    with FaultServer([honest(PACKED, upto=half), Hang()], [honest(PACKED)]) as server:
        first = place.start(server)
        try:
            until(lambda: part.exists() and part.stat().st_size == half, first)
            second = place.start(server)
            try:
                until(lambda: any("waiting" in line for line in place.said()), second)
                kill(first)
                assert second.wait(timeout=60) == 0
            finally:
                kill(second)
        finally:
            kill(first)
        assert b"Range: bytes=%d-" % half in server.requests[1]
    assert place.said()[-1] == hashlib.sha512(DISK).hexdigest()
    assert place.leftovers() == []


@pytest.mark.row("C2")
def test_killed_at_random_moments(place: Place) -> None:
    """The next run is right, waits for nobody, and leaves nothing half-written."""
    moments = random.Random(2)
    with (
        FaultServer([honest(PACKED, upto=20_000), Pause(0.03)]) as broken,
        FaultServer([honest(PACKED)]) as good,
    ):
        for server in (broken, broken, broken, good, good, good, good, good):
            for disk in (place.root / "disks").glob("*.raw"):
                disk.unlink()
            process = place.start(server)
            time.sleep(moments.uniform(0.2, 0.6))
            kill(process)
    with FaultServer([honest(PACKED)]) as server:
        place.run(server)
    assert place.said()[-1] == hashlib.sha512(DISK).hexdigest()
    assert place.leftovers() == []


@pytest.mark.row("C2")
def test_what_a_killed_unpacking_left_is_removed(place: Place) -> None:
    (place.root / "disks").mkdir(parents=True)
    place.root.chmod(0o700)
    for folder in ("disks", "templates", "partial"):
        (place.root / folder).mkdir(exist_ok=True)
        (place.root / folder / f".part-{SHA}abc").write_bytes(b"half")
    other = place.root / "disks" / f".part-{'0' * 128}abc"
    other.write_bytes(b"somebody's")
    with FaultServer([honest(PACKED)]) as server:
        place.run(server)
    assert place.leftovers() == [other]
