"""Builds the hosts of a fleet on this machine, each in a process of its own.

A process holds one appliance, one set of signal handlers and one host: if it crashes, the others go on. The
first host of a template runs alone among those of that template, until the template is in the cache.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from imgbuilder.errors import WorkspaceError
from imgbuilder.fleet import child
from imgbuilder.fleet.budget import GROWING, Budget, Load
from imgbuilder.fleet.engine import GRACE, Job, Progress, Running
from imgbuilder.fleet.state import FleetState, Record
from imgbuilder.host import process
from imgbuilder.host.interrupts import uninterrupted


@dataclass(frozen=True)
class _Child:
    """The process of a build; the kernel reports its end by the descriptor ``ended``."""

    process: process.Popen[bytes]
    load: Load
    started: float
    ended: int


class Pool:
    """Implements ``Engine`` by processes of this machine."""

    def __init__(self, state: FleetState, budget: Budget, words: Sequence[str]) -> None:
        """Prepare builds.

        Args:
            state: Where their logs go.
            budget: How many may run at the same time.
            words: Options of ``pybuilder build`` for all of them.
        """
        self._state = state
        self._budget = budget
        self._words = words
        self._children: dict[Running, _Child] = {}
        self._built: set[str] = set()
        """Templates that a build has put into the cache."""
        self._used: dict[tuple[str, object, object], int] = {}
        self._stopped: float | None = None
        self._selector = selectors.DefaultSelector()

    def fill(self, progress: Progress) -> None:
        """See ``Engine.fill``."""
        progress.obstacle = None
        while (job := self._next(progress)) is not None:
            now = time.monotonic()
            loads = [child.load for child in self._children.values()]
            young = [child.load for child in self._children.values() if now - child.started < GROWING]
            # What an image of the same kind took is known by now.
            load = replace(job.load, space=max(job.load.space, self._used.get(_kind(job), 0)))
            progress.obstacle = self._budget.obstacle(load, loads, young)
            if progress.obstacle is not None:
                return
            progress.waiting.remove(job)
            self._start(job, load, progress)

    def _next(self, progress: Progress) -> Job | None:
        """Return the next host whose template is in the cache, or is not fetched by another build now."""
        fetched = {running.job.template for running in progress.running if not self._cached(running.job)}
        return next(
            (job for job in progress.waiting if self._cached(job) or job.template not in fetched), None
        )

    def _cached(self, job: Job) -> bool:
        return job.cached or job.template in self._built

    def _start(self, job: Job, load: Load, progress: Progress) -> None:
        running = Running(job, self._state.log(job.host.name))
        try:
            with uninterrupted():
                started = child.start_build(
                    job.host.text, running.log, self._words, delivery=job.delivery(self._state)
                )
                one = _Child(started, load, time.monotonic(), os.pidfd_open(started.pid))
                self._children[running] = one
                progress.running.append(running)
                self._selector.register(one.ended, selectors.EVENT_READ, running)
        except OSError as error:
            raise WorkspaceError(f"{job.host.name} cannot be started: {error.strerror or error}") from error

    def ended(self, progress: Progress, patience: float) -> list[tuple[Running, Record]]:
        """See ``Engine.ended``."""
        found = []
        for key, _events in self._selector.select(patience if progress.running else 0):
            running: Running = key.data
            one = self._children.pop(running)
            self._selector.unregister(one.ended)
            os.close(one.ended)
            found.append((running, self._record(running, one)))
        return found

    def _record(self, running: Running, one: _Child) -> Record:
        job, status = running.job, one.process.wait()
        if status == 0:
            self._built.add(job.template)
            with contextlib.suppress(OSError):
                self._used[_kind(job)] = job.host.output.stat().st_blocks * 512
        return child.ended(job.record, status, time.monotonic() - one.started, running.log)

    def stop(self) -> None:
        """See ``Engine.stop``."""
        if self._stopped is None:
            self._stopped = time.monotonic()
            self._signal(signal.SIGTERM)
        elif time.monotonic() - self._stopped > GRACE:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for one in self._children.values():
            process.signal_group(one.process, number)

    def close(self) -> None:
        """See ``Engine.close``."""
        for one in self._children.values():
            process.end_group(one.process, grace=GRACE)
            os.close(one.ended)
        self._selector.close()


def _kind(job: Job) -> tuple[str, object, object]:
    """Return what decides about the space of an image."""
    settings = job.host.recipe.settings
    return job.template, settings.get("format"), settings.get("size")
