"""The cache with power cuts, full disks and unusual filesystems."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.cache.folder import has_content
from tests.fakes.faultserver import FaultServer, Hang, Step, honest
from tests.fault.worker import CLEAN_ERROR, DISK, PACKED, SHA, Workers

pytestmark = [
    pytest.mark.skipif(shutil.which("xz") is None, reason="the program xz is not installed"),
    pytest.mark.timeout(240),
]


def run(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr}"


@contextlib.contextmanager
def mounted(place: Path, *words: str | Path) -> Iterator[Path]:
    """Mount something for the block; a machine that does not let us skips the row, with the reason."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *map(str, words), str(place)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this machine cannot mount: {done.stderr.strip()}")
    try:
        yield place
    finally:
        run("umount", "--lazy", place)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer([honest(PACKED)]) as made:
        yield made


@pytest.fixture
def workers(tmp_path: Path, server: FaultServer) -> Iterator[Workers]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Workers(tmp_path / "cache", f"{server.url}/d.xz", scratch) as made:
        yield made


def make_ext4(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(24 << 20)
    run("mkfs.ext4", "-q", path)
    return path


@pytest.mark.row("C3")
def test_power_cut_at_each_step(workers: Workers, tmp_path: Path) -> None:
    """The backing file of a mounted filesystem is what a disk holds when the power fails.

    At each sync, rename and removal, before and after, a copy of it is looked at: an entry is absent, or is
    right. The options are such that the filesystem does nothing that was not asked of it.
    """
    image, copy = make_ext4(tmp_path / "disk.ext4"), tmp_path / "copy.ext4"
    seen: set[tuple[bool, bool]] = set()
    steps: list[str] = []
    with mounted(tmp_path / "place", "-o", "loop,noauto_da_alloc,commit=300", image) as place:
        workers.start(root=place / "cache", steps=["fsync", "replace", "unlink"])
        for step in workers.words():
            steps.append(step)
            run("cp", "--sparse=always", image, copy)
            seen.add(survived(tmp_path, copy))
            workers.pipe.send(b"go")
        assert workers.finish().right
        run("cp", "--sparse=always", image, copy)
        assert survived(tmp_path, copy) == (True, True), "what was reported as done is on the disk"
    assert seen == {(False, False), (True, False), (True, True)}, "the copies show all states"
    assert len(steps) > 15
    print(f"C3: {len(steps) + 1} copies")


def survived(folder: Path, copy: Path) -> tuple[bool, bool]:
    """Mount a copy, and return whether the template and the disk are there; if so, they must be right."""
    with mounted(folder / "after", "-o", "loop", copy) as place:
        template = place / "cache" / "templates" / SHA
        disk = place / "cache" / "disks" / f"{SHA}.raw"
        if template.exists():
            assert template.read_bytes() == PACKED
        if disk.exists():
            assert disk.read_bytes() == DISK
            record = disk.with_name(f"{disk.name}.json")
            if record.exists():
                with disk.open("rb") as file:
                    assert has_content(disk, file.fileno())
        return template.exists(), disk.exists()


@pytest.mark.row("C5")
def test_no_space_for_the_download(workers: Workers, server: FaultServer, tmp_path: Path) -> None:
    """Said before anything is downloaded, with the folder and what is needed."""
    small = len(PACKED) - (100 << 10)
    with mounted(tmp_path / "cache", "-t", "tmpfs", "-o", f"mode=700,size={small}", "none") as place:
        outcome = workers.run()
        assert outcome.code == CLEAN_ERROR
        assert str(place) in outcome.said["error"]
        assert "needs" in outcome.said["error"]
        assert "--cache DIR" in outcome.said["hint"]
        assert server.requests == []
        assert workers.leftovers() == []


@pytest.mark.row("C5")
def test_no_space_for_the_disk(workers: Workers, tmp_path: Path) -> None:
    """The template stays, for the next run with more space."""
    place = tmp_path / "cache"
    with mounted(place, "-t", "tmpfs", "-o", f"mode=700,size={len(PACKED) + (200 << 10)}", "none"):
        outcome = workers.run()
        assert outcome.code == CLEAN_ERROR
        assert "no space left" in outcome.said["error"]
        assert str(place) in outcome.said["error"]
        assert (place / "templates" / SHA).read_bytes() == PACKED
        assert workers.leftovers() == []
        run("mount", "-o", "remount,size=8M", place)
        assert workers.run().right


@pytest.mark.row("C6")
def test_file_size_limit(workers: Workers) -> None:
    """EFBIG and SIGXFSZ instead of ENOSPC: the same words."""
    outcome = workers.run(file_limit=100_000)
    assert outcome.code == CLEAN_ERROR
    assert "no space left" in outcome.said["error"]
    assert workers.run().right
    assert workers.leftovers() == []


@pytest.mark.row("C11")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting(workers: Workers, tmp_path: Path, number: signal.Signals) -> None:
    script: list[Step] = [honest(PACKED, upto=1000), Hang()]
    with (
        FaultServer(script) as stuck,
        Workers(workers.root, f"{stuck.url}/d.xz", tmp_path) as holder,
    ):
        first = holder.start()
        while not stuck.requests:
            assert Path(f"/proc/{first}").exists()
        waiting = workers.start(talk=True)
        for words in workers.words():
            assert f"waiting for pid {first}, another pybuilder that is getting the same template" == words
            os.kill(waiting, number)
        outcome = workers.finish()
        assert outcome.code == CLEAN_ERROR
        assert number.name in outcome.said["error"]
        os.kill(first, signal.SIGKILL)
        assert holder.finish().code == -signal.SIGKILL
    assert workers.run().right


@pytest.mark.row("C15")
def test_a_cache_on_a_read_only_filesystem(workers: Workers, server: FaultServer, tmp_path: Path) -> None:
    """It is read, verified, and not written; what is missing is fetched."""
    assert workers.run().right
    before = sorted((str(path), path.lstat().st_mtime_ns) for path in workers.root.rglob("*"))
    asked = len(server.requests)
    with mounted(workers.root, "--bind", workers.root):
        run("mount", "-o", "remount,bind,ro", workers.root)
        outcome = workers.run()
        assert outcome.right
        assert "working without a cache" in outcome.said["printed"][0]
        assert len(server.requests) == asked, "its template was used"
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in workers.root.rglob("*")) == before
    assert workers.leftovers() == []


@pytest.mark.row("C16")
def test_a_cache_of_another_user(workers: Workers, server: FaultServer) -> None:
    """Files of another user are not trusted: the bytes are hashed, disks and records are not used."""
    if os.geteuid() != 0:
        pytest.skip("C16: only root can give files away")
    assert workers.run().right
    disk = workers.root / "disks" / f"{SHA}.raw"
    disk.chmod(0o600)
    disk.write_bytes(bytes(len(DISK)))
    for path in (workers.root, *workers.root.rglob("*")):
        os.chown(path, 65534, 65534)
    asked = len(server.requests)
    outcome = workers.run()
    assert outcome.right
    assert "belongs to another user" in outcome.said["printed"][0]
    assert len(server.requests) == asked
    template = workers.root / "templates" / SHA
    template.chmod(0o600)
    template.write_bytes(bytes(len(PACKED)))
    assert workers.run().right
    assert len(server.requests) == asked + 1


@pytest.mark.row("C19")
def test_tmpfs(workers: Workers) -> None:
    with mounted(workers.root, "-t", "tmpfs", "-o", "mode=700,size=16M", "none"):
        assert workers.run().right
        assert workers.run().right
        assert workers.leftovers() == []


@pytest.mark.row("C19")
def test_overlayfs(workers: Workers, tmp_path: Path) -> None:
    """The lower layer holds a cache already, as in a container image."""
    assert workers.run().right
    workers.root.rename(tmp_path / "lower")
    with mounted(tmp_path / "space", "-t", "tmpfs", "-o", "size=32M", "none") as space:
        for name in ("upper", "work"):
            (space / name).mkdir()
        layers = f"lowerdir={tmp_path / 'lower'},upperdir={space / 'upper'},workdir={space / 'work'}"
        with mounted(workers.root, "-t", "overlay", "-o", layers, "none"):
            assert workers.run().right
            assert workers.run().right
            assert workers.leftovers() == []


@pytest.mark.row("C19")
def test_fuse(workers: Workers, tmp_path: Path) -> None:
    if shutil.which("fuse2fs") is None or not Path("/dev/fuse").exists():
        pytest.skip("C19: fuse2fs or /dev/fuse is missing")
    image = make_ext4(tmp_path / "disk.ext4")
    workers.root.mkdir()
    done = subprocess.run(["fuse2fs", "-o", "fakeroot", image, workers.root], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"C19: FUSE does not work here: {done.stderr.strip()}")
    try:
        assert workers.run().right
        assert workers.run().right
        assert workers.leftovers() == []
    finally:
        run("umount", "--lazy", workers.root)
