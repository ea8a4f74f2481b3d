"""Builds of a fleet: within limits, recorded, stopped and gone on with. The builder is a small program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from imgbuilder.errors import WorkspaceError
from imgbuilder.fleet import child
from imgbuilder.fleet.budget import Budget, Load, memory_of
from imgbuilder.fleet.engine import Progress
from imgbuilder.fleet.hosts import read_fleet
from imgbuilder.fleet.state import FleetState, Record, Standing
from tests.fakes.fleetbuilder import ROOT, coordinate

CANARY = "canary-9c1"


def fleet(folder: Path, *seeds: str, more: str = "") -> Path:
    (folder / "out").mkdir(exist_ok=True)
    hosts = "".join(f'[[host]]\nname = "h{n}"\nseed = "{seed}"\n' for n, seed in enumerate(seeds, 1))
    path = folder / "fleet.toml"
    path.write_text(f'[defaults]\ntemplate = "x"\noutput = "out/{{host}}"\n{more}\n{hosts}')
    return path


def records(path: Path) -> dict[str, tuple[bool, str, str]]:
    state = FleetState(path.with_suffix(".state"))
    found = [state.record(file.stem) for file in sorted(state.folder.glob("*.json"))]
    return {one.host: (one.built, one.message, one.hint) for one in found if one is not None}


@pytest.mark.row("L1", "L2")
def test_the_failure_of_one_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOT_PW", CANARY)
    path = fleet(tmp_path, "", "fail", "crash", "silent", "", more='[secrets]\nROOT = "env:ROOT_PW"\n')
    progress = coordinate(path, lambda _progress: None)
    log = path.with_suffix(".state") / "h4.log"
    assert records(path) == {
        "h1": (True, "", ""),
        "h2": (False, "it does not fit", "make it smaller"),
        "h3": (False, "the build was killed by SIGKILL", "probably out of memory (see: dmesg)"),
        "h4": (False, "the build failed with status 7", f"see {log}"),
        "h5": (True, "", ""),
    }
    assert len(progress.records) == 5
    assert "Doing what h4 needs" in log.read_text()
    # The builds have the secret, and no other file or process.
    assert (tmp_path / "out/h1").read_text() == CANARY
    known = [*path.with_suffix(".state").iterdir(), tmp_path / "out/arguments"]
    assert not [file for file in known if CANARY.encode() in file.read_bytes()]
    assert b"h1" not in (tmp_path / "out/arguments").read_bytes()


def test_only_what_is_not_built_is_built(tmp_path: Path) -> None:
    path = fleet(tmp_path, "", "fail")
    coordinate(path, lambda _progress: None)
    before = (tmp_path / "out/h1").stat().st_ino
    assert [record.host for record in coordinate(path, lambda _progress: None).records] == ["h2"]
    fleet(tmp_path, "", "")
    assert [record.host for record in coordinate(path, lambda _progress: None).records] == ["h2"]
    assert coordinate(path, lambda _progress: None).records == []
    assert (tmp_path / "out/h1").stat().st_ino == before
    (tmp_path / "out/h1").unlink()
    assert [record.host for record in coordinate(path, lambda _progress: None).records] == ["h1"]


def test_the_key_has_all_that_an_image_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOT_PW", "first value")
    (tmp_path / "tree").mkdir()
    for name in ("a.conf", "pw", "tree/inner"):
        (tmp_path / name).write_text("one")
    (tmp_path / "r.toml").write_text(
        '[[operation]]\nupload = "a.conf"\ndestination = "/etc/a"\n[[operation]]\ncopy-in = "tree"\n'
        'directory = "/srv"\n[[operation]]\nroot-password = "file:pw"\n'
    )
    path = fleet(tmp_path, "", more='[secrets]\nROOT = "env:ROOT_PW"\n')
    path.write_text('recipe = "r.toml"\n' + path.read_text())
    coordinate(path, lambda _progress: None)

    def standing(template: str = "x") -> Standing:
        host = read_fleet(path).hosts[0]
        state = FleetState(path.with_suffix(".state"))
        return state.standing(host, state.record("h1"), state.key(host, template), template, there=True)

    assert standing() is Standing.BUILT
    assert standing("a newer one") is Standing.OUTDATED
    for name in ("a.conf", "pw", "tree/inner"):
        (tmp_path / name).write_text("two")
        assert standing() is Standing.CHANGED, name
        (tmp_path / name).write_text("one")
        assert standing() is Standing.BUILT, name
    monkeypatch.setenv("ROOT_PW", "second value")
    assert standing() is Standing.CHANGED
    (path.with_suffix(".state") / "h1.json").write_text('{"version": 1, "host": "h1"}')
    assert standing() is Standing.NEW, "a damaged record is none"


@pytest.mark.parametrize("cached", [True, False])
def test_limits(tmp_path: Path, *, cached: bool) -> None:
    path = fleet(tmp_path, *[""] * 5)
    seen: list[tuple[int, int]] = []

    def look(progress: Progress) -> None:
        seen.append((len(progress.running), len(progress.records)))

    coordinate(path, look, jobs=3, cached=cached)
    counts = [int(line) for line in (tmp_path / "out/counts").read_text().split()]
    assert max(counts) <= 3
    assert max(running for running, _ended in seen) == 3
    first = max(running for running, ended in seen if ended == 0)
    assert first == (3 if cached else 1), "the template is fetched once"


def _proc(folder: Path, available: int, pressure: float) -> Path:
    (folder / "pressure").mkdir(parents=True)
    (folder / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {available >> 10} kB\n")
    (folder / "pressure/memory").write_text(
        f"some avg10=90.00 avg60=1\nfull avg10={pressure:.2f} avg60=0.00\n"
    )
    return folder


def test_what_holds_a_build_back(tmp_path: Path) -> None:
    small = Load(memory_of(appliance=False, memsize=None), tmp_path, 0)
    large = Load(memory_of(appliance=True, memsize=2048), tmp_path, 0)
    huge = Load(0, tmp_path, 1 << 60)
    plenty = _proc(tmp_path / "plenty", 8 << 30, 0)
    budget = Budget(2, plenty)
    assert budget.obstacle(huge, [], []) is None, "one build always starts, and says itself what is short"
    assert budget.obstacle(large, [small], []) is None
    assert budget.obstacle(small, [small, small], []) == "processors"
    assert budget.obstacle(huge, [small], []) == "space"
    assert budget.obstacle(small, [huge], []) == "space", "the running ones write as well"
    tight = Budget(9, _proc(tmp_path / "tight", 2 << 30, 0))
    assert tight.obstacle(large, [small], []) == "memory"
    assert tight.obstacle(small, [small], []) is None
    assert tight.obstacle(small, [large], [large]) == "memory", "what was just started still grows"
    assert Budget(9, _proc(tmp_path / "pressed", 8 << 30, 12.5)).obstacle(small, [small], []) == "memory"
    assert Budget(9, tmp_path / "nothing known").obstacle(large, [small], []) is None


@contextmanager
def coordinator(path: Path, *cluster: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.fleetbuilder", path, *cluster],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} was not printed")


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """A fleet of one quick host and three that wait until the test writes to out/go."""
    path = fleet(tmp_path, "", "wait", "wait", "wait")
    os.mkfifo(tmp_path / "out/go")
    return path


def release(path: Path) -> None:
    with (path.parent / "out/go").open("wb"):
        pass


@pytest.mark.row("L2")
def test_the_first_signal_lets_the_running_builds_end(waiting: Path) -> None:
    with coordinator(waiting) as process:
        wait_for(process, "running h2 h3")
        process.send_signal(signal.SIGINT)
        wait_for(process, "running h2 h3 stopping 1")
        release(waiting)
        _out, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
    assert {host: built for host, (built, _m, _h) in records(waiting).items()} == dict.fromkeys(
        ("h1", "h2", "h3"), True
    )
    assert not (waiting.parent / "out/h4").exists()


@pytest.mark.row("L2")
def test_the_second_signal_stops_them(waiting: Path) -> None:
    with coordinator(waiting) as process:
        wait_for(process, "running h2 h3")
        for number in (1, 2):
            process.send_signal(signal.SIGTERM)
            if number == 1:
                wait_for(process, "stopping 1")
        process.communicate(timeout=30)
        assert process.returncode == 143
    assert records(waiting)["h2"][:2] == (False, "the build was killed by SIGTERM")
    assert "h4" not in records(waiting)


@pytest.mark.row("L2")
def test_a_killed_coordinator_leaves_no_build_and_the_next_one_goes_on(waiting: Path) -> None:
    with coordinator(waiting) as process:
        wait_for(process, "running h2 h3")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2
        process.kill()
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert (len(gone), alive) == (2, [])
    assert list(records(waiting)) == ["h1"]
    image = (waiting.parent / "out/h1").stat().st_ino
    fleet(waiting.parent, "", "", "", "")
    done = coordinate(waiting, lambda _progress: None)
    assert sorted(record.host for record in done.records) == ["h2", "h3", "h4"]
    assert (waiting.parent / "out/h1").stat().st_ino == image, "what was built is not built twice"


def test_two_builds_of_one_fleet(tmp_path: Path) -> None:
    path = fleet(tmp_path, "")
    state = FleetState(path.with_suffix(".state"))
    with state.building(shared=True):
        with pytest.raises(WorkspaceError, match="being built by another process"):
            coordinate(path, lambda _progress: None)
        with state.building(shared=True):
            pass


def test_a_finished_image_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a fleet would push everything else out of it."""
    image, given_back = tmp_path / "web1.img", []

    def advise(descriptor: int, _start: int, _count: int, advice: int) -> None:
        given_back.append((Path(f"/proc/self/fd/{descriptor}").readlink(), advice))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    image.write_bytes(b"content")
    record = Record("web1", "key", "digest", str(image))
    assert not child.ended(record, 1, 1.0, tmp_path / "log").built
    assert given_back == []
    assert child.ended(record, 0, 1.0, tmp_path / "log").built
    assert given_back == [(image, os.POSIX_FADV_DONTNEED)]
