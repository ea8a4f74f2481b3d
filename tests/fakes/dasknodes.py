"""A Dask scheduler and its workers, each a node of its own: a process group, folders, an own CA by openssl.

``dask worker --preload tests.fakes.dasknodes`` builds with the program of ``fleetbuilder``, and takes any
template for the coordinator's.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from imgbuilder.fleet import child
from imgbuilder.fleet.node import Node
from tests.fakes.fleetbuilder import PROGRAM, ROOT

_SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": "[]",
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
}
PROGRAM_VARIABLE = "FLEET_BUILDER"
"""A command in place of the program of ``fleetbuilder``."""
_LIMIT = 120.0
"""Seconds until a process has started; on an idle machine it takes two."""


def make_authority(folder: Path) -> Path:
    """Make a certificate authority, and a certificate for all machines."""
    subprocess.run([ROOT / "examples/fleet/make-certificates", folder], check=True, capture_output=True)
    return folder


class DaskNodes:
    """A scheduler on a port of its own, and workers.

    Attributes:
        address: The scheduler's.
        tls: The folder of the certificates.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.tls = make_authority(folder / "tls")
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        place = folder / "scheduler.json"
        self._start("scheduler", "--host", "127.0.0.1", "--protocol", "tls", "--port", "0",
                    "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(place))  # fmt: skip
        _wait_for(place.exists, self.log("scheduler"))
        self.address: str = json.loads(place.read_text())["address"]

    def _start(self, name: str, *words: str) -> None:
        kind = "worker" if name != "scheduler" else name
        home = self._folder / name
        home.mkdir(exist_ok=True)
        environment = {**os.environ, **_SETTINGS, "PYTHONPATH": str(ROOT)}
        for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
            environment[variable] = str(home / variable)
        security = ["--tls-ca-file", "ca.pem", "--tls-cert", "node.pem", "--tls-key", "node.key"]
        with self.log(name).open("ab") as log:
            self._started[name] = subprocess.Popen(
                [Path(sys.executable).parent / "dask", kind, *words, *security, "--no-dashboard"],
                env=environment, cwd=self.tls, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def add(self, *names: str, threads: int = 1, fake: bool = False) -> None:
        """Start workers."""
        preload = ["--preload", "tests.fakes.dasknodes"] if fake else []
        for name in names:
            self._start(name, self.address, "--nworkers", "1", "--nthreads", str(threads), "--name", name,
                        "--local-directory", str(self._folder / name), *preload)  # fmt: skip
            # One after the other: of two that come at the same moment, Dask may close a connection at once.
            _wait_for(partial(self._is_registered, name), self.log(name))

    def _is_registered(self, name: str) -> bool:
        return "Registered to" in self.log(name).read_text()

    def log(self, name: str) -> Path:
        """Return the log of the scheduler or of a worker."""
        return self._folder / f"{name}.log"

    def answer(self, name: str, page: str) -> int:
        """Ask the HTTP server of a scheduler or worker for a page, and return the status of its answer."""
        found = re.search(r"dashboard at: +(?:http://)?([0-9.:]+)", self.log(name).read_text())
        assert found is not None
        connection = http.client.HTTPConnection(found[1], timeout=30)
        connection.request("GET", f"/{page}")
        return connection.getresponse().status

    def kill(self, name: str) -> None:
        """Kill all processes of a node but those that lead a group of their own."""
        process = self._started.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """Kill all."""
        for name in list(self._started):
            self.kill(name)

    def options(self) -> Sequence[str]:
        """Return the options of ``fleet build``."""
        return "--cluster", self.address, "--cluster-tls", str(self.tls)


@contextlib.contextmanager
def dask_nodes(folder: Path) -> Iterator[DaskNodes]:
    """Start a scheduler, and end it and its workers afterwards."""
    folder.mkdir(exist_ok=True)
    nodes = DaskNodes(folder)
    try:
        yield nodes
    finally:
        nodes.close()


def _wait_for(condition: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + _LIMIT
    while not condition():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def dask_setup(worker: object) -> None:
    """Be the preloaded module of a worker."""
    child.PROGRAM = os.environ.get(PROGRAM_VARIABLE, "").split() or PROGRAM
    Node._check_template = lambda self, order: None  # type: ignore[method-assign]
