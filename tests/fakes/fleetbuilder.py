"""A program in place of ``pybuilder build``: the seed of a recipe says how it ends. And a coordinator of it.

``python -m tests.fakes.fleetbuilder FLEET [SCHEDULER CERTIFICATES]`` builds a fleet with it, two hosts at a
time, and prints a line when other builds run than before.
"""

from __future__ import annotations

import os
import signal
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

from imgbuilder.fleet import child
from imgbuilder.fleet.budget import Budget, Load
from imgbuilder.fleet.cluster import Cluster, connect
from imgbuilder.fleet.engine import Engine, Job, Progress, build_all
from imgbuilder.fleet.entries import FleetError
from imgbuilder.fleet.hosts import Fleet, read_fleet
from imgbuilder.fleet.places import Places
from imgbuilder.fleet.pool import Pool
from imgbuilder.fleet.state import FleetState
from imgbuilder.services import Settings
from imgbuilder.terminal.boundary import run_command
from imgbuilder.terminal.reporter import ConsoleReporter

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, str(Path(__file__)))


def build_like_it(arguments: Sequence[str]) -> int:
    """Be the builder of one host."""
    assert list(arguments[:3]) == ["build", "--recipe", "/dev/stdin"], arguments
    recipe = tomllib.loads(sys.stdin.read())
    output = Path(recipe["output"] if "-o" not in arguments else arguments[-1])
    folder = Path(os.environ.get("FAKE_BUILDER_FOLDER") or output.parent)
    with (folder / "arguments").open("ab") as file:
        file.write(Path("/proc/self/cmdline").read_bytes())
    mine = folder / f"running-{os.getpid()}"
    mine.touch()
    with (folder / "counts").open("a") as counts:
        counts.write(f"{len(list(folder.glob('running-*')))}\n")
    print("[   0.1] Doing what", output.name, "needs", flush=True)
    word = recipe.get("seed", "")
    if word == "wait":
        with (folder / "go").open("rb"):  # a FIFO: waits for its writer
            pass
    mine.unlink()
    if word == "fail":
        print("pybuilder: error: it does not fit\n  make it smaller", file=sys.stderr)
        return 1
    if word == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "crash its node":
        os.kill(os.getppid(), signal.SIGKILL)
    if word == "silent":
        return 7
    output.write_text(os.environ.get("ROOT_PW", "image"))
    if word.startswith("disk"):
        with output.open("wb") as disk:
            disk.truncate(16 << 20)
            disk.write(word.encode() * 1000)
    return 0


def jobs_of(fleet: Fleet, state: FleetState, *, cached: bool = True, changed: bool = False) -> list[Job]:
    """Return the jobs of a fleet's hosts that are due, or also of those that would be different."""
    jobs, places = [], Places(fleet.hosts)
    for host in fleet.hosts:
        template = str(host.recipe.settings["template"])
        key = state.key(host, template)
        record = state.record(host.name)
        there = record is not None and record.built and places.has(host)
        standing = state.standing(host, record, key, template, there=there)
        if standing.due or (changed and standing.stale):
            jobs.append(Job(host, key, template, cached, Load(0, host.output.parent, 0)))
    return jobs


def coordinate(
    path: Path,
    on_change: Callable[[Progress], None],
    *,
    jobs: int = 2,
    cached: bool = True,
    changed: bool = False,
    cluster: Sequence[str] = (),
) -> Progress:
    """Build a fleet with this program, here or on a cluster: its address, and the folder of certificates."""
    fleet = read_fleet(path)
    state = FleetState.of(fleet)
    with state.building(shared=False):
        found = jobs_of(fleet, state, cached=cached, changed=changed)
        if problems := Places(fleet.hosts).check(found, state):
            raise FleetError(path, problems)
        engine: Engine = Pool(state, Budget(jobs), [])
        if cluster:
            engine = Cluster(connect(cluster[0], Path(cluster[1])), state, [], Settings(), jobs)
            engine.check(found)
        with mock.patch.object(child, "PROGRAM", PROGRAM):
            return build_all(found, state, engine, on_change)


class _Printer:
    def __init__(self) -> None:
        self._last = ""

    def __call__(self, progress: Progress) -> None:
        names = " ".join(running.job.host.name for running in progress.running if running.says)
        line = f"running {names} stopping {progress.stopping}"
        if line != self._last:
            print(line, flush=True)
        self._last = line


if __name__ == "__main__":
    if sys.argv[1:2] == ["build"]:
        sys.exit(build_like_it(sys.argv[1:]))
    name, where = Path(sys.argv[1]), sys.argv[2:]
    sys.exit(
        run_command(
            lambda: coordinate(name, _Printer(), cluster=where), ConsoleReporter("fleet"), verbose=False
        )
    )
