"""R1: a publisher that is killed at any change of the served folder leaves the old index or the new one.

The publisher runs in a child process that kills itself with SIGKILL right
before its Nth file-system change, for every N.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.imgrepo.repository import Repository

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "os.link"}

_MENDED_EVERY = 5
"""After every how many-th kill the next publisher's work is looked at too, which takes as long again."""


def publish_and_die(repository: Repository, at: int) -> bool:
    """Publish in a child that dies before its change number ``at``; tell whether it died."""
    child = os.fork()
    if child == 0:
        _run_child(repository, at)
    _pid, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "publishing failed"
    return False


def _run_child(repository: Repository, at: int) -> None:
    left = itertools.count(at, -1)
    folders = (str(repository.web), str(repository.images))

    def change() -> None:
        if next(left) <= 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, details: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in _CHANGES or writes) and any(str(detail).startswith(folders) for detail in details[:2]):
            change()

    def fsync(descriptor: int) -> None:
        change()
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
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("published_before", "step"), [(False, 3), (True, 1)])
def test_killed_at_every_change(
    tmp_path: Path, repository: Repository, published_before: bool, step: int
) -> None:
    """A first publication makes the same changes in the same order, so that it is killed at each third."""
    if published_before:
        repository.add("a.img", b"a")
        repository.add("b.img", b"b")
        repository.publish()
    old = repository.served()
    repository.add("b.img", b"B")
    repository.add("c.img", b"c")
    wanted = repository.copy(tmp_path / "wanted")
    wanted.publish()
    new = wanted.served()
    outcomes = []
    for at in itertools.count(1, step):
        copy = repository.copy(tmp_path / str(at))
        died = publish_and_die(copy, at)
        now = copy.served()
        assert now in (old, new), f"killed before change {at}"
        outcomes.append(now == new)
        if now == new:  # the copy for people is never behind
            assert (copy.web / "index").read_text() == (wanted.web / "index").read_text()
        if not died:
            break
        if at % _MENDED_EVERY == 0:
            copy.publish()
            assert copy.served() == new, f"not repaired after a kill before change {at}"
            assert [path for path in copy.web.iterdir() if path.is_dir()] == []
        shutil.rmtree(copy.base)
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) >= 10 // step
    assert outcomes.count(True) >= 2 // step


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
        for at in (None, 2, 5, 9, 14):
            _fill(copy.web, left)
            child = os.fork()
            if child == 0:
                _run_child(copy, at or 10_000)
            os.waitpid(child, 0)
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
