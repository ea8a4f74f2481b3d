"""Many processes that get the same template, which is not in the cache."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from imgbuilder.cache.folder import CacheFolder
from tests.fakes.cacheworkers import DISK, PACKED, SHA, Place, kill
from tests.fakes.faultserver import FaultServer, Hang, Pause, honest

pytestmark = pytest.mark.skipif(shutil.which("xz") is None, reason="the program xz is not installed")


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
    """The next run is right, waits for no other process, and leaves no unfinished file."""
    moments = random.Random(2)
    with (
        FaultServer([honest(PACKED, upto=20_000), Pause(0.03)]) as broken,
        FaultServer([honest(PACKED)]) as good,
    ):
        for server in (broken, broken, good, good, good):
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
    other.write_bytes(b"another user's")
    with FaultServer([honest(PACKED)]) as server:
        place.run(server)
    assert place.leftovers() == [other]
