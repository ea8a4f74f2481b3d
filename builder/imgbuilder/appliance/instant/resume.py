"""Resumes an appliance from its saved state, or saves one first.

Every failure here ends the same way: a debug line, the state is dropped, and
the appliance is booted.
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgbuilder.appliance import monitor
from imgbuilder.appliance.connection import Connection
from imgbuilder.appliance.instant import program, save
from imgbuilder.appliance.instant.commandline import DUMMY, UnusableStateError
from imgbuilder.appliance.instant.store import StateStore
from imgbuilder.appliance.options import Attachment
from imgbuilder.errors import ApplianceError, PybuilderError
from imgbuilder.events import Reporter, Step, debug, info
from imgbuilder.host.interrupts import uninterrupted

_FOLDER = Path(program.__file__).parent
PROGRAM = (
    "-I", "-S", "-c",
    "import sys; sys.path.insert(0, sys.argv[1]); from instant import program; program.main(sys.argv[2:])",
    str(_FOLDER.parent),
)  # fmt: skip
"""The interpreter's arguments for the program that libguestfs starts in place of the hypervisor.

Only its package is imported: our other packages may need a newer interpreter, and take long to load.
"""
_ANSWER_LIMIT = 30.0
"""Seconds for a resumed appliance to answer; it takes one, and ten on a very busy host."""
_ENTROPY = 512
"""Bytes of the host's random numbers for each resumed appliance."""
_RANDOM_DEVICE = "/dev/urandom"
_MONITOR = "monitor"
"""The socket of the hypervisor's monitor, in the private folder."""
_BUSY = 600.0
"""Seconds after which saving is tried again if the host was too busy for it."""
_CHANGES = {
    "recipe": "pybuilder or libguestfs",
    "options": "the appliance's memory or options",
    "hypervisor": "the hypervisor",
    "appliance": "packages of this host",
    "kernel": "this host's kernel",
    "processor": "the processor",
}
"""Parts of a machine (``program.machine_facts``) for users."""


@dataclass(frozen=True)
class Job:
    """A request to ``program``."""

    file: Path
    result: Path

    def answer(self) -> dict[str, Any]:
        """Return the report; empty if there is none."""
        try:
            found = json.loads(self.result.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Instant:
    """Opens resumed appliances.

    Attributes:
        store: The saved states.
        runtime: Private folder with a short path.
        hypervisor: Path of the hypervisor.
        version: libguestfs's version.
        launch: Starts an appliance with disks and ``program`` in place of the hypervisor.
        on_event: Called with debug lines.
    """

    store: StateStore
    runtime: Path
    hypervisor: str
    version: str
    launch: Callable[[Sequence[Attachment], Job], Connection]
    on_event: Reporter

    def open(self, disks: Sequence[Attachment]) -> Connection | None:
        """Resume an appliance with disks; save its state first if there is none.

        Returns:
            The appliance, or None if it has to be booted as usual.
        """
        try:
            self.store.open()
        except (OSError, UnusableStateError) as error:
            debug(self.on_event, f"the appliance is booted: {error}")
            return None
        for made in (False, True):
            outcome = self._resume(disks, made=made)
            if not isinstance(outcome, _Missing):
                return outcome
            if made or not self._make(outcome):
                return None
        return None

    def _resume(self, disks: Sequence[Attachment], *, made: bool) -> Connection | _Missing | None:
        job = self._job({"mode": "resume"})
        connection: Connection | None = None
        try:
            connection = self.launch(disks, job)
            answer = job.answer()
            if "booted" in answer:
                self._report_boot(str(answer["booted"]), unknown=bool(answer.get("unknown")))
                return connection
            key = str(answer["key"])
            self._greet(connection, key, disks, network=bool(answer["network"]))
            _check_root(answer)
        except (PybuilderError, UnusableStateError, OSError, ValueError, KeyError) as error:
            _close(connection)
            answer = job.answer()
            if answer.get("missing"):
                return _Missing(str(answer["key"]), str(answer["root"]), dict(answer["machine"]))
            self._drop(answer, str(answer.get("failed") or error), for_long=made)
            return None
        except BaseException:
            _close(connection)
            raise
        self.store.touch(key)
        debug(self.on_event, f"the appliance was resumed from {self.store.root / key}")
        return connection

    def _report_boot(self, why: str, *, unknown: bool) -> None:
        """Report why an appliance was booted; for an unknown libguestfs, once a day and in ``describe()``."""
        mark = hashlib.sha256(why.encode()).hexdigest()[:40]
        if not unknown or program.read_mark(str(self.store.root / f"{mark}{program.GIVEN_UP}")) is not None:
            debug(self.on_event, f"the appliance was booted, not resumed: {why}")
            return
        info(
            self.on_event, f"libguestfs {self.version} boots its appliance each time, which is slower: {why}"
        )
        try:
            self.store.give_up(mark, why)
        except OSError as problem:
            debug(self.on_event, f"that cannot be noted: {problem}")

    def _greet(self, connection: Connection, key: str, disks: Sequence[Attachment], *, network: bool) -> None:
        """Give a resumed appliance fresh random numbers, the time and its disks, and check them."""
        recorded = frozenset((self.store.root / key / program.DRAWS).read_text().split())
        if len(recorded) != save.CHAIN:
            raise ApplianceError("its recorded random numbers are damaged")
        # The hypervisor opened the overlay by name after the program had checked it, so check again.
        monitor.read_devices(
            self.runtime / _MONITOR,
            lambda: program.open_state(str(self.store.root / key), program.DEVICES),
            network=network,
            limit=_ANSWER_LIMIT,
        )
        entropy = self.runtime / "entropy"
        entropy.touch(mode=0o600)
        try:
            entropy.write_bytes(secrets.token_bytes(_ENTROPY))
            # The daemon itself writes it; a new process would draw random numbers first.
            connection.call("debug_upload", str(entropy), _RANDOM_DEVICE, 0o600, limit=_ANSWER_LIMIT)
        finally:
            entropy.unlink()
        script = save.greeting_script(time.time(), len(disks), network=network)
        text = connection.call("debug", "sh", [script], limit=_ANSWER_LIMIT)
        answer = save.read_answer(str(text))
        save.check_draws(answer, recorded)
        save.check_sizes(answer, [_virtual_size(disk) for disk in disks])

    def _drop(self, answer: dict[str, Any], why: str, *, for_long: bool) -> None:
        debug(self.on_event, f"the saved appliance is dropped, and the appliance booted: {why}")
        key = answer.get("key")
        if not isinstance(key, str):
            return
        try:
            self.store.drop(key)
            if for_long:
                self.store.give_up(key, why)
        except OSError as error:
            debug(self.on_event, f"it cannot be dropped: {error}")

    def _make(self, missing: _Missing) -> bool:
        """Save a state; False if that fails or another process is just doing it."""
        try:
            with self.store.making() as new:
                if new is None:
                    debug(self.on_event, "the appliance is booted: another pybuilder is saving one")
                    return False
                self.on_event(Step(f"Saving a booted appliance, {self._reason(missing.machine)}"))
                self._make_in(new, missing)
                self.store.publish(new, missing.key)
                return True
        except (PybuilderError, OSError) as error:
            debug(self.on_event, f"the appliance cannot be saved, and is booted: {error}")
            seconds = _BUSY if isinstance(error, save.BusyError) else program.RETRY_AFTER
            try:
                self.store.give_up(missing.key, " ".join(str(error).split()), seconds=seconds)
            except OSError as problem:
                debug(self.on_event, f"that cannot be noted: {problem}")
            return False

    def _reason(self, machine: dict[str, str]) -> str:
        """Return why no saved appliance fits: what is another than in the last one that was used."""
        last = self.store.last_machine()
        changed = [text for name, text in _CHANGES.items() if last.get(name, machine[name]) != machine[name]]
        if not changed:
            return "so that the next ones start at once"
        return f"since {' and '.join(changed)} changed"

    def _make_in(self, new: Path, missing: _Missing) -> None:
        overlay = save.new_overlay(missing.root, new)
        job = self._job({"mode": "make", "key": missing.key, "overlay": str(overlay)})
        dummy = self.runtime / "dummy"
        with dummy.open("wb") as file:
            file.truncate(DUMMY)
        try:
            connection = self.launch([Attachment(dummy, "raw")], job)
        except ApplianceError as error:
            raise ApplianceError(str(job.answer().get("failed") or error)) from error
        try:
            save.prepare(connection)
            memory = f"/proc/{connection.call('get_pid')}/fd/{job.answer()['memory']}"
            save.save(connection, self.runtime / _MONITOR, memory, new, missing.machine)
        finally:
            with uninterrupted():
                connection.close()
            dummy.unlink()

    def _job(self, wanted: dict[str, str]) -> Job:
        job = Job(self.runtime / "instant.job", self.runtime / "instant.report")
        monitor_socket = self.runtime / _MONITOR
        for path in (job.result, monitor_socket):
            path.unlink(missing_ok=True)
        facts = {
            **wanted,
            "hypervisor": self.hypervisor,
            "states": str(self.store.root),
            "recipe": recipe(self.version),
            "report": str(job.result),
            "monitor": str(monitor_socket),
        }
        job.file.touch(mode=0o600)
        job.file.write_text(json.dumps(facts))
        return job


@dataclass(frozen=True)
class _Missing:
    """The result if there is no state for a machine."""

    key: str
    root: str
    machine: dict[str, str]


@functools.cache
def recipe(version: str) -> str:
    """Return a digest of our code and libguestfs's version, which make the states."""
    digest = hashlib.sha256(version.encode())
    for path in sorted(_FOLDER.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _close(connection: Connection | None) -> None:
    if connection is not None:
        with uninterrupted():
            connection.close()


def _check_root(answer: dict[str, Any]) -> None:
    """Check that the appliance's root, which was opened by name, is still that of the state."""
    if program.root_identity(str(answer["root"])) != answer["root_identity"]:
        raise ApplianceError("the appliance's root was replaced at the same time")


def _virtual_size(disk: Attachment) -> int | None:
    """Return the size in bytes of a disk in the appliance; None if unknown."""
    if disk.format != "raw":
        return None
    facts = disk.path.stat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_size % 512:
        return None
    return facts.st_size
