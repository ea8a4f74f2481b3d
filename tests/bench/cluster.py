"""The cost of a cluster: 1,000 builds that do nothing, on a Dask scheduler and two nodes of this machine.

make bench                         among the other benchmarks
python -m tests.bench.cluster
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path

import psutil

from imgbuilder.fleet.cluster import Cluster, connect
from imgbuilder.fleet.engine import build_all
from imgbuilder.fleet.hosts import read_fleet
from imgbuilder.fleet.state import FleetState
from imgbuilder.services import Settings
from tests.fakes.dasknodes import PROGRAM_VARIABLE, dask_nodes
from tests.fakes.fleetbuilder import jobs_of

_HOSTS = 1000
_FLEET = f'[defaults]\ntemplate = "x"\noutput = "out/{{host}}"\n[[host]]\nrange = "h[1-{_HOSTS}]"\n'


def main() -> None:
    """Build, and print the figures and the goals."""
    os.environ[PROGRAM_VARIABLE] = "/bin/true"
    with tempfile.TemporaryDirectory() as name, dask_nodes(Path(name) / "dask") as nodes:
        nodes.add("n1", "n2", threads=2, fake=True)
        folder = Path(name)
        (folder / "out").mkdir()
        (folder / "fleet.toml").write_text(_FLEET)
        fleet = read_fleet(folder / "fleet.toml")
        state = FleetState.of(fleet)
        with state.building(shared=False):
            jobs = jobs_of(fleet, state)
            before, started = _used(), time.monotonic()
            engine = Cluster(connect(nodes.address, nodes.tls), state, [], Settings())
            engine.check(jobs)
            done = build_all(jobs, state, engine, lambda _progress: None)
            seconds, used = time.monotonic() - started, _used() - before
    assert sum(record.built for record in done.records) == _HOSTS
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{_HOSTS} builds that do nothing, on two nodes: {seconds:.1f} s (30)")
    print(f"processor time of all processes: {used:.1f} s; coordinator: {memory:.0f} MiB (150)")


def _used() -> float:
    """Return the processor time of this process, of the cluster, and of the builds that have ended."""
    me = psutil.Process()
    own, rest = me.cpu_times(), me.children(recursive=True)
    return own.user + own.system + sum(sum(one.cpu_times()[:4]) for one in rest)


if __name__ == "__main__":
    main()
