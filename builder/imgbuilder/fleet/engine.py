"""Builds the hosts of a fleet by an engine: processes of this machine (``pool``), or nodes (``cluster``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from imgbuilder.fleet.budget import Load
from imgbuilder.fleet.child import Delivery, last_line
from imgbuilder.fleet.hosts import Host
from imgbuilder.fleet.state import FleetState, Record
from imgbuilder.host.arch import host_arch
from imgbuilder.host.interrupts import counting

_TICK = 0.5
"""Seconds between two looks at what is short, and two drawings of the progress."""
GRACE = 5.0
"""Seconds that builds have to end after the second Ctrl-C."""


@dataclass(frozen=True)
class Job:
    """A host to build.

    Attributes:
        host: The host.
        key: The digest of all that it is made of.
        template: The digest of its template.
        cached: Whether the template is in the cache, unpacked.
        load: What it needs of the machine that builds it.
    """

    host: Host
    key: str
    template: str
    cached: bool
    load: Load

    @property
    def record(self) -> Record:
        """The record of the host before the build."""
        return Record(self.host.name, self.key, self.template, self.host.goes_to)

    def delivery(self, state: FleetState) -> Delivery | None:
        """Return what follows the build, for an image that goes to another machine."""
        host, settings = self.host, self.host.recipe.settings
        if host.remote is None:
            return None
        return Delivery(
            host.name, host.remote, settings.get("format", "raw"), settings.get("arch") or host_arch(),
            str(state.folder),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Running:
    """A build that runs.

    Attributes:
        job: Its host.
        log: Its messages.
        node: The node of a cluster that builds it, or an empty text.
    """

    job: Job
    log: Path
    node: str = ""

    @property
    def says(self) -> str:
        """The last line of its log."""
        return last_line(self.log)


@dataclass
class Progress:
    """The state of all builds, for those who show it."""

    waiting: list[Job]
    running: list[Running] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    stopping: int = 0
    """The number of signals that asked to stop."""
    obstacle: str | None = None
    """The resource that is short, if the next build has to wait: processors, memory, space or nodes."""


class Engine(Protocol):
    """Runs builds."""

    def fill(self, progress: Progress) -> None:
        """Start as many waiting builds as possible, and say what holds the next one back."""

    def ended(self, progress: Progress, patience: float) -> Sequence[tuple[Running, Record | None]]:
        """Return builds that have ended, after a moment of waiting; without a record, one never began."""

    def stop(self) -> None:
        """Stop the running builds; called again and again until all have ended."""

    def close(self) -> None:
        """Stop what still runs, and release everything."""


def build_all(
    jobs: Sequence[Job], state: FleetState, engine: Engine, on_change: Callable[[Progress], None]
) -> Progress:
    """Build hosts; the failure of one does not stop the others.

    The first signal lets the running builds end and starts no more, the second one stops them.

    Args:
        jobs: The hosts.
        state: Where their records go.
        engine: Runs them, and is closed.
        on_change: Called when a build has started or ended, and about twice in a second.

    Raises:
        Interrupted: A signal came; what was built is recorded.
    """
    progress = Progress(list(jobs))
    with counting() as signals, contextlib.closing(engine):
        while progress.running or progress.waiting:
            progress.stopping = signals()
            if progress.stopping:
                progress.waiting.clear()
            if progress.stopping > 1:
                engine.stop()
            engine.fill(progress)
            on_change(progress)
            for running, record in engine.ended(progress, _TICK):
                progress.running.remove(running)
                if record is not None:
                    state.write(record)
                    progress.records.append(record)
        on_change(progress)
    return progress
