"""The cache, killed or given an error at each system call that touches files.

strace kills a run before a call takes effect, or makes the call fail. Whatever
happens, the next run must be right, wait for no other process and leave nothing behind.
Each run of the tests takes other calls; with ``PYBUILDER_TEST_LONG=1`` all of them
are taken, and 1,000 runs are killed at random moments.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from imgbuilder.catalog.catalog import Selection
from tests.fakes.blocks import Site
from tests.fakes.faultserver import FaultServer, Pause, Step, honest
from tests.fault.worker import CLEAN_ERROR, DISK, PACKED, RIGHT, SHA, Outcome, Workers, count_calls

_Point = TypeVar("_Point")
LONG = bool(os.environ.get("PYBUILDER_TEST_LONG"))
SEED = int(os.environ.get("PYBUILDER_SEED", str(time.time_ns() % 10_000)))
CALLS = (
    "openat", "write", "pwrite64", "fsync", "rename", "unlink", "flock", "ftruncate", "mkdir", "fchmod",
    "utimensat", "close", "lseek",
)  # fmt: skip
ERRORS = {
    "openat": ("EIO", "EMFILE", "EACCES"),
    "write": ("ENOSPC", "EIO"),
    "pwrite64": ("ENOSPC", "EIO"),
    "fsync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "EXDEV", "EACCES"),
    "unlink": ("EIO", "EROFS"),
    "flock": ("ENOLCK", "EINTR"),
    "ftruncate": ("EIO", "ENOSPC"),
    "mkdir": ("EIO", "ENOSPC"),
    "fchmod": ("EPERM",),
    "utimensat": ("EPERM",),
    "close": ("EIO",),
    "lseek": ("EIO",),
}

pytestmark = [
    pytest.mark.skipif(shutil.which("xz") is None, reason="the program xz is not installed"),
    pytest.mark.timeout(3600 if LONG else 240),
]


def strace_works() -> str:
    """Return why these rows cannot run here; empty when they can."""
    if shutil.which("strace") is None:
        return "the program strace is not installed"
    words = ["strace", "-f", "-e", "inject=fsync:signal=SIGKILL", "sync", "/"]
    done = subprocess.run(words, capture_output=True, text=True)
    return "" if done.returncode == -signal.SIGKILL else f"strace cannot trace here: {done.stderr[-200:]}"


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with (
        FaultServer([honest(PACKED)]) as server,
        Workers(tmp_path / "cache", f"{server.url}/d.xz", scratch) as made,
    ):
        yield made


def needs_strace() -> None:
    if reason := strace_works():
        pytest.skip(f"C1, C4: {reason}")


def clear(workers: Workers) -> None:
    shutil.rmtree(workers.root, ignore_errors=True)


@dataclass
class Work:
    """The job of the runs.

    Attributes:
        wishes: What they are asked for.
        before: A cache that they begin with; None for none.
    """

    workers: Workers
    wishes: dict[str, Any] = field(default_factory=dict)
    before: Path | None = None

    def prepare(self) -> None:
        clear(self.workers)
        if self.before is not None:
            shutil.copytree(self.before, self.workers.root)


@pytest.fixture(params=["download", "update"])
def work(request: pytest.FixtureRequest, workers: Workers, tmp_path: Path) -> Iterator[Work]:
    """A first download, and an update by blocks of a disk of which a third is different."""
    if request.param == "download":
        yield Work(workers)
        return
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    older = b"old".ljust(70_000, b"-") + DISK[70_000:]
    sites = [Site(tmp_path / name, content, name="x") for name, content in (("1", older), ("2", DISK))]
    with FaultServer([sites[0].reply]) as first, FaultServer([sites[1].reply]) as second:
        old, new = (
            wishes_for(site.at(server.url)) for site, server in zip(sites, (first, second), strict=True)
        )
        assert workers.run(**old).code == RIGHT
        workers.root.rename(tmp_path / "before")
        sites[1].requests.clear()
        yield Work(workers, new, tmp_path / "before")
    assert any(part for name, part in sites[1].requests if name == "d.zst"), "an update fetches parts"


def wishes_for(chosen: Selection) -> dict[str, Any]:
    entry = chosen.entry
    assert entry.zstd is not None
    assert entry.blocks is not None
    return {
        "url": chosen.url, "sha": entry.sha512, "size": entry.size, "packed": entry.compressed_size,
        "further": {"zstd": asdict(entry.zstd), "blocks": asdict(entry.blocks)},
    }  # fmt: skip


def calls_of(work: Work, folder: Path) -> dict[str, int]:
    """Count the calls of an undisturbed run."""
    trace = folder / "trace"
    work.prepare()
    assert work.workers.run(**work.wishes).right  # it imports what is imported late
    work.prepare()
    outcome = work.workers.traced(f"--trace={','.join(CALLS)}", "--output", str(trace), **work.wishes)
    assert outcome.right, outcome.said
    assert ".py" not in trace.read_text(), "a module is imported: an error would fall on it"
    counts = count_calls(trace.read_text(), CALLS)
    assert counts.keys() >= {"openat", "pwrite64", "fsync", "rename", "flock"}
    return counts


def some(points: list[_Point], most: int) -> list[_Point]:
    """Return all points in a long run, else a few, other ones each time."""
    return points if LONG else random.Random(SEED).sample(points, min(most, len(points)))


def assert_next_run_is_right(workers: Workers, after: str, **wishes: Any) -> None:
    outcome = workers.run(**wishes)
    assert outcome.right, f"after {after}, seed {SEED}: {outcome}"
    assert workers.leftovers() == [], f"after {after}, seed {SEED}"


@pytest.mark.row("C1")
def test_killed_before_each_call(work: Work, tmp_path: Path) -> None:
    needs_strace()
    counts, workers = calls_of(work, tmp_path), work.workers
    points = [(name, str(number)) for name, count in counts.items() for number in range(1, count + 1)]
    killed = 0
    for name, number in some(points, 25):
        work.prepare()
        inject = f"--inject={name}:signal=SIGKILL:when={number}"
        outcome = workers.traced(f"--trace={name}", inject, **work.wishes)
        # A helper may have been killed instead, or the call may have come in another thread.
        assert outcome.code in (-signal.SIGKILL, CLEAN_ERROR, RIGHT), outcome
        killed += outcome.code == -signal.SIGKILL
        assert_next_run_is_right(workers, f"{name} number {number}", **work.wishes)
    print(f"C1: {len(points)} points, {killed} runs killed")
    assert killed > (len(points) // 2 if LONG else 5)


@pytest.mark.row("C4")
def test_each_call_fails(work: Work, tmp_path: Path) -> None:
    """The error is said in our words, nothing wrong is kept, and a good entry stays."""
    needs_strace()
    counts, workers = calls_of(work, tmp_path), work.workers
    points = [
        (name, str(number), error)
        for name, count in counts.items()
        for number in range(1, count + 1)
        for error in ERRORS[name]
    ]
    failed, problems = 0, list[str]()
    for name, number, error in some(points, 25):
        work.prepare()
        inject = f"--inject={name}:error={error}:when={number}"
        outcome = workers.traced(f"--trace={name}", inject, **work.wishes)
        where = f"{error} of {name} number {number}, seed {SEED}"
        if problem := problem_of(outcome):
            problems.append(f"{where}: {problem}")
        failed += outcome.code == CLEAN_ERROR
        assert_next_run_is_right(workers, where, **work.wishes)
    print(f"C4: {len(points)} points, {failed} runs failed with a clean error")
    assert problems == []


def problem_of(outcome: Outcome) -> str:
    """Say what is wrong with a run that was lied to; it may fail, but with words and advice."""
    if outcome.code == RIGHT:
        return "" if outcome.right else "wrong bytes"
    if outcome.code != CLEAN_ERROR:
        return str(outcome)
    return "" if outcome.said["hint"] else f"no hint: {outcome.said}"


@pytest.mark.row("C4")
@pytest.mark.parametrize(
    ("name", "error"),
    [("write", "ENOSPC"), ("pwrite64", "ENOSPC"), ("pwrite64", "EIO"), ("fsync", "EIO"), ("rename", "EXDEV")],
)
def test_every_call_fails_and_the_old_entry_stays(workers: Workers, name: str, error: str) -> None:
    """Not one call, but all of them, as on a disk that is full or dying."""
    needs_strace()
    assert workers.run().right
    template = workers.root / "templates" / SHA
    (workers.root / "disks" / f"{SHA}.raw").unlink()
    before = template.read_bytes()
    outcome = workers.traced(f"--trace={name}", f"--inject={name}:error={error}")
    assert problem_of(outcome) == ""
    assert outcome.code == CLEAN_ERROR
    if error == "ENOSPC" and name == "pwrite64":
        assert "no space left" in outcome.said["error"]
    assert template.read_bytes() == before
    assert_next_run_is_right(workers, f"{error} of every {name}")


@pytest.mark.row("C10")
def test_a_filesystem_without_locks(workers: Workers) -> None:
    """As NFS can be: it works without a cache, and says so."""
    needs_strace()
    outcome = workers.traced("--trace=flock", "--inject=flock:error=ENOLCK")
    if outcome.code == RIGHT:
        assert outcome.right
        assert "working without a cache" in outcome.said["printed"][0]
    else:
        assert "lock" in outcome.said["error"].lower(), outcome.said
    assert_next_run_is_right(workers, "ENOLCK")


@pytest.mark.row("C2")
@pytest.mark.parametrize("kept", [True, False])
def test_killed_at_random_moments(tmp_path: Path, *, kept: bool) -> None:
    """On a cache that each killed run leaves behind for the next, or on a new one each time."""
    moments = random.Random(SEED)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    slow: list[Step] = [honest(PACKED, upto=100_000), Pause(0.02)]
    with (
        FaultServer([honest(PACKED)], slow, [honest(PACKED)]) as server,
        Workers(tmp_path / "cache", f"{server.url}/d.xz", scratch) as workers,
    ):
        for number in range(500 if LONG else 20):
            if not kept:
                clear(workers)
            for disk in workers.root.glob("disks/*.raw"):
                disk.unlink()
            child = workers.start()
            time.sleep(moments.uniform(0, 0.15))
            with contextlib.suppress(ProcessLookupError):  # it had ended
                os.kill(child, signal.SIGKILL)
            outcome = workers.finish()
            assert outcome.code in (-signal.SIGKILL, RIGHT), outcome
            if number % 10 == 9 or not kept:
                assert_next_run_is_right(workers, f"kill number {number}")
