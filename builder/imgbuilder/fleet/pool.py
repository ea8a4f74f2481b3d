"""Builds the hosts of a fleet on this machine, each in a process of ``pybuilder build``.

A process holds one appliance, one set of signal handlers and one host: if it crashes, the others go on. Its
recipe comes from a file that has no name, so that nothing about the host is in its arguments. The first host
of a template runs alone among those of that template, until the template is in the cache.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from imgbuilder.errors import ProgramKilledError, WorkspaceError
from imgbuilder.fleet.budget import Budget, Load
from imgbuilder.fleet.hosts import Host
from imgbuilder.fleet.state import FleetState, Record
from imgbuilder.host import process
from imgbuilder.host.interrupts import counting, uninterrupted
from imgbuilder.host.text import one_line
from imgindex.files import open_file

_TICK = 0.5
"""Seconds between two looks at the memory, and two drawings of the progress."""
_GROWING = 10.0
"""Seconds in which a build has not yet taken the memory that it needs."""
_GRACE = 5.0
"""Seconds that builds have to end after the second Ctrl-C."""
_TAIL = 4096
_LONGEST = 300
PROGRAM = (sys.executable, "-m", "imgbuilder")
"""The command that builds a host."""


@dataclass(frozen=True)
class Job:
    """A host to build.

    Attributes:
        host: The host.
        key: The digest of all that it is made of.
        template: The digest of its template.
        cached: Whether the template is in the cache, unpacked.
        load: What it needs of this machine.
    """

    host: Host
    key: str
    template: str
    cached: bool
    load: Load


@dataclass
class Running:
    """A build that runs."""

    job: Job
    load: Load
    child: process.Popen[bytes]
    log: Path
    started: float
    ended: int = field(default=-1)
    """The descriptor by which the kernel reports the end of the process."""

    @property
    def says(self) -> str:
        """The last line of its log."""
        lines = _tail(self.log).rstrip("\n").split("\n")
        return one_line(lines[-1], _LONGEST)


@dataclass
class Progress:
    """The state of all builds, for those who show it."""

    waiting: list[Job]
    running: list[Running] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    stopping: int = 0
    """The number of signals that asked to stop."""
    obstacle: str | None = None
    """The resource that is short, if the next build has to wait: processors, memory or space."""


def build_all(
    jobs: Sequence[Job],
    state: FleetState,
    budget: Budget,
    words: Sequence[str],
    on_change: Callable[[Progress], None],
    program: Sequence[str] = PROGRAM,
) -> Progress:
    """Build hosts; the failure of one does not stop the others.

    The first signal lets the running builds end and starts no more, the second one stops them.

    Args:
        jobs: The hosts.
        state: Where their records and logs go.
        budget: How many may run at the same time.
        words: Options of ``pybuilder build`` for all of them.
        on_change: Called when a build has started or ended, and about twice in a second.
        program: The command that builds a host.

    Raises:
        Interrupted: A signal came; what was built is recorded.
    """
    pool = _Pool(list(jobs), state, budget, [*program, "build", "--recipe", "/dev/stdin", *words], on_change)
    with counting() as signals:
        return pool.run(signals)


class _Pool:
    def __init__(
        self,
        jobs: list[Job],
        state: FleetState,
        budget: Budget,
        command: list[str],
        on_change: Callable[[Progress], None],
    ) -> None:
        self._state = state
        self._budget = budget
        self._command = command
        self._on_change = on_change
        self._progress = Progress(jobs)
        self._cached = {job.template for job in jobs if job.cached}
        self._used: dict[tuple[str, object, object], int] = {}
        self._selector = selectors.DefaultSelector()

    def run(self, signals: Callable[[], int]) -> Progress:
        progress = self._progress
        stopped: float | None = None
        try:
            while progress.running or progress.waiting:
                progress.stopping = signals()
                if progress.stopping:
                    progress.waiting.clear()
                if progress.stopping > 1 and stopped is None:
                    stopped = time.monotonic()
                    self._signal(signal.SIGTERM)
                if stopped is not None and time.monotonic() - stopped > _GRACE:
                    self._signal(signal.SIGKILL)
                self._start()
                self._on_change(progress)
                self._reap()
        finally:
            for running in progress.running:
                process.end_group(running.child, grace=_GRACE)
            self._selector.close()
        self._on_change(progress)
        return progress

    def _signal(self, number: int) -> None:
        for running in self._progress.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.child.pid, number)

    def _start(self) -> None:
        """Start as many builds as the machine can carry."""
        progress = self._progress
        progress.obstacle = None
        while (job := self._next()) is not None:
            now = time.monotonic()
            loads = [running.load for running in progress.running]
            young = [running.load for running in progress.running if now - running.started < _GROWING]
            # What an image of the same kind took is known by now.
            load = replace(job.load, space=max(job.load.space, self._used.get(_kind(job), 0)))
            progress.obstacle = self._budget.obstacle(load, loads, young)
            if progress.obstacle is not None:
                return
            progress.waiting.remove(job)
            self._start_one(job, load)

    def _next(self) -> Job | None:
        """Return the next host whose template is in the cache, or is not fetched by another build now."""
        fetched = {running.job.template for running in self._progress.running} - self._cached
        return next((job for job in self._progress.waiting if job.template not in fetched), None)

    def _start_one(self, job: Job, load: Load) -> None:
        log = self._state.log(job.host.name)
        try:
            with tempfile.TemporaryFile() as recipe, _new_file(log) as output, uninterrupted():
                recipe.write(job.host.text.encode())
                recipe.seek(0)
                # Our own program gets our whole environment: it may have the values of secrets.
                child = process.start(
                    [*process.bound_to(os.getpid(), by="TERM"), *self._command],
                    stdin=recipe,
                    stdout=output,
                    stderr=output,
                    env=os.environ,
                )
                running = Running(job, load, child, log, time.monotonic(), os.pidfd_open(child.pid))
                self._progress.running.append(running)
                self._selector.register(running.ended, selectors.EVENT_READ, running)
        except OSError as error:
            raise WorkspaceError(f"{job.host.name} cannot be started: {error.strerror or error}") from error

    def _reap(self) -> None:
        """Wait a moment for builds that end, and write their records."""
        for key, _events in self._selector.select(_TICK):
            running: Running = key.data
            running.child.wait()
            self._selector.unregister(running.ended)
            os.close(running.ended)
            self._progress.running.remove(running)
            record = self._record(running)
            self._state.write(record)
            self._progress.records.append(record)

    def _record(self, running: Running) -> Record:
        job, status = running.job, running.child.returncode
        record = Record(
            host=job.host.name,
            built=status == 0,
            key=job.key,
            template=job.template,
            seconds=round(time.monotonic() - running.started, 1),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            output=str(job.host.output),
        )
        if status == 0:
            self._cached.add(job.template)
            with contextlib.suppress(OSError):
                self._used[_kind(job)] = job.host.output.stat().st_blocks * 512
            return record
        message, hint = _error_in(_tail(running.log))
        if not message:
            completed = process.Completed(status, b"", "")
            failure = process.failure("the build", completed)
            message, hint = failure.message, failure.hint or ""
            if not isinstance(failure, ProgramKilledError):
                hint = f"see {running.log}"
        return replace(record, message=message, hint=hint)


def _kind(job: Job) -> tuple[str, object, object]:
    """Return what decides about the space of an image."""
    settings = job.host.recipe.settings
    return job.template, settings.get("format"), settings.get("size")


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """Open a new log, in place of an earlier one."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_APPEND, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _tail(log: Path) -> str:
    """Return the end of a log."""
    try:
        with open_file(log, os.O_NOFOLLOW) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read(_TAIL).decode(errors="replace")
    except OSError:
        return ""


def _error_in(text: str) -> tuple[str, str]:
    """Return the last error of a log, and its hint, which is indented below it."""
    lines = text.split("\n")
    for at in range(len(lines) - 1, -1, -1):
        start, mark, message = lines[at].partition("pybuilder: error: ")
        if mark and not start:
            hint = lines[at + 1].strip() if at + 1 < len(lines) and lines[at + 1].startswith("  ") else ""
            return one_line(message, _LONGEST), one_line(hint, _LONGEST)
    return "", ""
