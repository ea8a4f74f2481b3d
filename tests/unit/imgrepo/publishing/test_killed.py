"""R1: a publisher that is killed at any change of the served folder leaves the old index or the new one.

What SIGKILL right before a change leaves is what is there at that moment: one run in a child process copies
its folders before each file-system change. ``tests/fault/test_publisher_traced.py`` really kills, and so
does the test here of a disk that fills up.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.imgrepo.repository import Repository

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "os.link"}

_MENDED_EVERY = 8
"""After every how many-th state the next publisher's work is looked at too, which takes long."""


def publish_in_child(repository: Repository, before_change: Callable[[int], object]) -> int:
    """Publish in a child process that calls a function before its Nth change; return its status."""
    child = os.fork()
    if child == 0:
        _run_child(repository, before_change)
    return os.waitpid(child, 0)[1]


def _run_child(repository: Repository, before_change: Callable[[int], object]) -> None:
    numbers = itertools.count(1)
    folders = (str(repository.web), str(repository.images))

    def watch(event: str, details: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in _CHANGES or writes) and any(str(detail).startswith(folders) for detail in details[:2]):
            before_change(next(numbers))

    def fsync(descriptor: int) -> None:
        before_change(next(numbers))
        really(descriptor)

    really, os.fsync = os.fsync, fsync  # type: ignore[assignment]
    code = 1
    try:
        sys.addaudithook(watch)
        repository.publish()
        code = 0
    finally:
        os._exit(code)


@pytest.mark.row("R1")
@pytest.mark.parametrize("published_before", [False, True])
def test_killed_at_every_change(tmp_path: Path, repository: Repository, published_before: bool) -> None:
    if published_before:
        repository.add("a.img", b"a")
        repository.add("b.img", b"b")
        repository.publish()
    old = repository.served()
    repository.add("b.img", b"B")
    repository.add("c.img", b"c")
    published = repository.copy(tmp_path / "published")
    states = tmp_path / "states"
    states.mkdir()
    assert publish_in_child(published, lambda number: published.copy(states / str(number))) == 0
    new = published.served()
    outcomes = []
    for at in range(1, len(list(states.iterdir())) + 1):
        state = repository.empty_twin(states / str(at))
        state.appliances = repository.appliances
        now = state.served()
        assert now in (old, new), f"killed before change {at}"
        outcomes.append(now == new)
        if now == new:  # the copy for people is never behind
            assert (state.web / "index").read_text() == (published.web / "index").read_text()
        if at % _MENDED_EVERY == 0:
            state.publish()
            assert state.served() == new, f"not repaired after a kill before change {at}"
            assert [path for path in state.web.iterdir() if path.is_dir()] == []
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) >= 10
    assert outcomes.count(True) >= 2


def killed_before(change: int) -> Callable[[int], None]:
    def kill(number: int) -> None:
        if number >= change:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


@pytest.mark.row("R12")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small filesystem")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("left", [0, 4096, 16384, 65536])
def test_killed_with_the_disk_really_full(tmp_path: Path, repository: Repository, left: int) -> None:
    """The served folder is on a small filesystem that fills up; the publisher fails or is killed."""
    repository.add("a.img", b"a")
    repository.publish()
    old = repository.served()
    repository.add("b.img", random.Random(1).randbytes(16))
    wanted = repository.copy(tmp_path / "wanted")
    wanted.publish()
    new = wanted.served()
    small = tmp_path / "small"
    (small / "web").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small / "web")]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no filesystem can be mounted here")
    try:
        copy = Repository(small, repository.gpg_home, repository.pin, repository.key, repository.appliances)
        for name in ("images", "web"):
            shutil.copytree(repository.base / name, small / name, dirs_exist_ok=True)
        for at in (10_000, 4, 11):
            _fill(copy.web, left)
            publish_in_child(copy, killed_before(at))
            (copy.web / "filler").unlink()
            if left == 0:
                assert copy.served() == old
            assert copy.served() in (old, new), f"{left} bytes left, killed before change {at}"
        copy.publish()
        assert copy.served() == new
        assert [path for path in copy.web.iterdir() if path.is_dir()] == []
    finally:
        subprocess.run(["umount", small / "web"], check=True)


def _fill(folder: Path, left: int) -> None:
    facts = os.statvfs(folder)
    with (folder / "filler").open("wb") as file:
        file.write(bytes(max(0, facts.f_bavail * facts.f_frsize - left)))
