"""Builds the hosts of a fleet on the nodes of a cluster, through Dask: the one module that imports it.

Dask keeps arguments and results in memory and writes those of a failed task into logs, and it may run a task
twice. So a task is the name of an order in the shared folder, and builds only what is not built (``node``).
The coordinator gives each node only as many hosts as it has threads: all others wait here, where a signal
reaches them.
"""

from __future__ import annotations

import functools
import logging
import re
import secrets
import stat
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.errors import ToolError, UsageError
from imgbuilder.fleet.engine import GRACE, Job, Progress, Running
from imgbuilder.fleet.node import Node, NodeError, check_folders, check_places, write_order
from imgbuilder.fleet.state import ORDERS, FleetState, Record
from imgbuilder.host.packages import extra_command
from imgbuilder.outputs.store import Remote
from imgbuilder.services import Settings
from imgindex.files import write_file

if TYPE_CHECKING:
    from distributed import Client, Future

_ADDRESS = re.compile(r"(tls|tcp)://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")
_LOOPBACK = re.compile(r"127\.[0-9.]+|\[::1\]|localhost")
_CONNECT = 10
"""Seconds in which the scheduler has to answer."""
_LOOK = 1.0
"""Seconds between two looks at the nodes."""
_POLL = 0.02
_ATTEMPTS = 3
"""Nodes that try a host, if they are lost with it, or cannot build it for a reason of their own."""
_LATE = 4 * GRACE
"""Seconds after which builds that should stop are no longer waited for."""
_DISTRIBUTION = "virt-pybuilder"
TLS_FILES = ("ca.pem", "node.pem", "node.key")


@functools.cache
def _node() -> Node:
    """Return this process as a node; on workers only."""
    from distributed import get_worker

    return Node(str(get_worker().name))


def build_on_node(order: str, run: str) -> dict[str, object] | None:
    """Be the task: build the host of an order, and return the fields of its record."""
    from distributed import Event

    record = _node().build(Path(order), Event(run).is_set)
    return None if record is None else vars(record)


class Cluster:
    """Implements ``Engine`` by the workers of a Dask scheduler."""

    def __init__(
        self,
        client: Client,
        state: FleetState,
        words: Sequence[str],
        settings: Settings,
        most: int | None = None,
    ) -> None:
        """Prepare builds.

        Args:
            client: A connection to the scheduler, which is closed at the end.
            state: Where records, logs and orders go: a folder that all nodes share.
            words: Options of ``pybuilder build`` for all hosts.
            settings: Sources and cache that the command line named.
            most: How many may run at the same time; None for as many as the nodes have threads.
        """
        from distributed import Event, as_completed

        self._client, self._state = client, state
        self._words, self._settings, self._most = words, settings, most
        self._run = f"{ORDERS}{secrets.token_hex(8)}"
        self._stop = Event(self._run, client=client)
        self._completed = as_completed(loop=client.loop, with_results=True, raise_errors=False)
        self._running: dict[Future, Running] = {}
        self._tried: defaultdict[str, list[str]] = defaultdict(list)
        """Nodes that could not build a host, or were lost with it."""
        self._nodes: Mapping[str, int] = {}
        self._looked = 0.0
        self._stopped: float | None = None

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse what cannot work, before any work.

        Raises:
            UsageError: An image cannot be made on another machine, or a folder is not shared.
            ToolError: There are no nodes, or they have other versions.
        """
        for job in jobs:
            host, problem = job.host, ""
            if host.recipe.settings.get("linked"):
                problem = "a linked image is of use only where its template is"
            elif host.output.is_block_device():
                problem = f"{host.output} is a device of one machine"
            if problem:
                raise UsageError(f"{host.place()}: {host.name}: {problem}", hint="build it without --cluster")
        self._check_versions()
        hosts = [job.host for job in jobs]
        self._check_folders({host.output.parent for host in hosts if not host.remote} | {self._state.folder})
        self._check_places([host.remote for host in hosts if host.remote])

    def _check_versions(self) -> None:
        found = self._client.get_versions(packages=[_DISTRIBUTION])
        if not found["workers"]:
            raise ToolError(
                "the scheduler has no workers",
                hint="start one on each node: dask worker ADDRESS ..., see docs/fleet.md",
            )
        ours = found["client"]["packages"]
        places = {"the scheduler": found["scheduler"], **found["workers"]}
        for place, about in places.items():
            theirs = about["packages"] if about else {}
            for package in (_DISTRIBUTION, "distributed"):
                if theirs.get(package) != ours[package]:
                    raise ToolError(
                        f"{place} has {package} {theirs.get(package) or 'not installed'}, "
                        f"and this machine {ours[package]}",
                        hint="install the same versions on all machines, and start the workers again",
                    )

    def _check_folders(self, folders: set[Path]) -> None:
        marks = {str(folder / f".{self._run}"): secrets.token_hex(8) for folder in sorted(folders)}
        try:
            for name, content in marks.items():
                write_file(Path(name), content.encode(), durable=False)
            for node, problem in self._client.run(check_folders, marks).items():
                if problem:
                    raise UsageError(
                        f"node {node}: {problem}",
                        hint="the folders of the fleet and of its images must be the same on all nodes, "
                        "such as on NFS",
                    )
        finally:
            for name in marks:
                Path(name).unlink(missing_ok=True)

    def _check_places(self, remotes: Sequence[Remote]) -> None:
        """Refuse nodes that cannot reach the servers that images go to."""
        shelves = {(one.kind, one.server, one.holder): one.as_data() for one in remotes}
        if not shelves:
            return
        for node, problem in self._client.run(check_places, list(shelves.values())).items():
            if problem:
                raise ToolError(
                    f"node {node}: {problem[0]}", hint=problem[1] or "each node puts images there itself"
                )

    def fill(self, progress: Progress) -> None:
        """See ``Engine.fill``."""
        self._look()
        progress.obstacle = None if self._nodes else "nodes"
        while (chosen := self._next(progress)) is not None:
            job, node = chosen
            progress.waiting.remove(job)
            progress.running.append(self._submit(job, node))

    def _look(self) -> None:
        """Learn which nodes there are."""
        if self._client.status != "running":
            raise self._disconnected()
        if time.monotonic() - self._looked >= _LOOK:
            try:
                self._nodes, self._looked = self._client.nthreads(), time.monotonic()
            except OSError as error:
                raise self._disconnected() from error

    @staticmethod
    def _disconnected() -> ToolError:
        return ToolError(
            "the connection to the scheduler is lost",
            hint="running builds end by themselves; run the command again when the scheduler is back",
        )

    def _next(self, progress: Progress) -> tuple[Job, str] | None:
        """Return a host and the node with the most free threads for it; None if nothing can be started."""
        used = Counter(running.node for running in progress.running)
        free = {node: threads - used[node] for node, threads in self._nodes.items() if threads > used[node]}
        if free and len(progress.running) != self._most:
            for job in progress.waiting:
                # A node that could not build it is asked again only where there is no other.
                others = self._nodes.keys() - self._tried[job.host.name]
                if usable := free.keys() & others if others else free.keys():
                    return job, max(usable, key=free.__getitem__)
        return None

    def _order(self, job: Job) -> Path:
        return self._state.folder / f".{self._run}.{job.host.name}"

    def _submit(self, job: Job, node: str) -> Running:
        name = job.host.name
        order = self._order(job)
        write_order(order, job, self._state, self._words, self._settings)
        # Dask itself never moves it: where no worker is left, it would wait for ever for one at this address.
        future = self._client.submit(
            build_on_node, str(order), self._run,
            key=f"{self._run}-{name}-{len(self._tried[name])}", workers=[node], pure=False,
        )  # fmt: skip
        running = Running(job, self._state.log(name), node)
        self._running[future] = running
        self._completed.add(future)
        return running

    def ended(self, progress: Progress, patience: float) -> list[tuple[Running, Record | None]]:
        """See ``Engine.ended``."""
        end = time.monotonic() + patience
        while progress.running and not self._completed.has_ready() and time.monotonic() < end:
            time.sleep(_POLL)
        self._look()
        found: list[tuple[Running, Record | None]] = []
        for future, result in self._completed.next_batch(block=False):
            running = self._running.pop(future, None)
            if running is None:
                continue  # its node was lost, and that was reported
            if future.status == "finished":
                record = None if result is None else Record(**result)
            else:
                record = self._failure(running, result[1] if future.status == "error" else result, progress)
            found.append((running, record))
        for future, running in list(self._running.items()):
            if running.node not in self._nodes:
                del self._running[future]
                self._client.cancel(future)
                found.append((running, self._failure(running, None, progress)))
        if self._stopped is not None and time.monotonic() - self._stopped > _LATE:
            found += [(running, None) for running in self._running.values()]
            self._running.clear()
        for running, _record in found:
            self._order(running.job).unlink(missing_ok=True)
        return found

    def _failure(self, running: Running, error: BaseException | None, progress: Progress) -> Record | None:
        """Return the record of a failed task; None if another node tries it.

        Args:
            running: The build.
            error: What ended the task; None if its node was lost.
            progress: Takes back the host.
        """
        job = running.job
        record = job.record
        if isinstance(error, NodeError):
            record = error.record
        elif error is None or type(error).__name__ == "KilledWorker":
            hint = "see the logs of the workers; their memory may be too small for it"
            record = replace(record, message="each node that began it was lost", hint=hint)
        else:
            return replace(record, message=f"the task failed: {error!r}"[:300], hint="see the worker's log")
        tried = self._tried[job.host.name]
        tried.append(running.node)
        if len(tried) >= _ATTEMPTS or progress.stopping:
            return record
        progress.waiting.insert(0, job)
        return None

    def stop(self) -> None:
        """See ``Engine.stop``."""
        if self._stopped is None:
            self._stopped = time.monotonic()
            self._stop.set()

    def close(self) -> None:
        """See ``Engine.close``."""
        try:
            if self._running and self._client.status == "running":
                self._stop.set()
                self._client.cancel(list(self._running))
        finally:
            self._client.close(timeout=_CONNECT)
            for running in self._running.values():
                self._order(running.job).unlink(missing_ok=True)


def check_address(address: str, folder: Path | None) -> None:
    """Check what ``connect`` is given, before any work.

    Raises:
        UsageError: The address or the certificates cannot be used.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UsageError(
            f"--cluster {address!r} is not the address of a scheduler", hint="--cluster tls://HOST:8786"
        )
    local = match[1] == "tcp"
    if local and not _LOOPBACK.fullmatch(match[2]):
        raise UsageError(
            f"--cluster {address}: without TLS, every program that reaches a worker can start others there",
            hint="use tls:// and --cluster-tls DIR; docs/fleet.md shows how to make the certificates",
        )
    if local == (folder is not None):
        raise UsageError(
            "--cluster-tls is for tls:// addresses"
            if local
            else f"--cluster {address} needs --cluster-tls DIR",
            hint=f"its files are {', '.join(TLS_FILES)}; docs/fleet.md shows how to make them",
        )
    if folder is not None:
        _tls_files(folder)


def connect(address: str, folder: Path | None) -> Client:
    """Connect to a scheduler.

    Args:
        address: Its address, such as tls://192.0.2.1:8786, which was checked.
        folder: The folder with the certificate authority, and the certificate and key of this machine.

    Raises:
        ToolError: Dask is not installed, or the scheduler does not answer, or not with a certificate of this
            authority.
    """
    try:
        from distributed import Client
        from distributed.security import Security
    except ImportError as error:
        raise ToolError(
            "builds on a cluster need Dask's distributed, which is not installed", hint=extra_command("fleet")
        ) from error
    security = None
    if folder is not None:
        authority, certificate, key = _tls_files(folder)
        security = Security(
            tls_ca_file=authority, tls_client_cert=certificate, tls_client_key=key, require_encryption=True
        )
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # its errors are raised as well
    try:
        return Client(address, security=security, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ToolError(
            f"no connection to the scheduler {address}: {error}",
            hint="check that it runs, and that one authority has signed its certificate and ours",
        ) from error


def _tls_files(folder: Path) -> tuple[str, str, str]:
    paths = [folder / name for name in TLS_FILES]
    for path in paths:
        if not path.is_file():
            raise UsageError(f"the file {path} is missing", hint="docs/fleet.md shows how to make it")
    if paths[2].stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"other users may read {paths[2]}", hint=f"run: chmod 600 {paths[2]}")
    authority, certificate, key = map(str, paths)
    return authority, certificate, key
