"""The work of one node of a cluster for a fleet: it builds a host, once.

An order is a file next to the records of the fleet, in a folder that all nodes share. So what travels through
the cluster is the name of that file and, back, a record. The node reads secrets by their names, from the
shared folder, from a file of its own, or from its environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.events import ignore
from imgbuilder.fleet import child
from imgbuilder.fleet.budget import GROWING, Budget, Load, usable_processors
from imgbuilder.fleet.child import Delivery
from imgbuilder.fleet.engine import GRACE, Job
from imgbuilder.fleet.state import FleetState, Record
from imgbuilder.fleet.survey import template_digest
from imgbuilder.host import locks, process
from imgbuilder.host.arch import host_arch
from imgbuilder.host.paths import temporary_dir
from imgbuilder.outputs.store import Remote, open_store
from imgbuilder.services import Services, Settings
from imgindex import __version__
from imgindex.files import read_json, write_json

_LARGEST = 4 << 20
_POLL = 0.2
"""Seconds between two looks at a build."""
_ASK = 1.0
"""Seconds between two questions whether to stop."""
_SAME = "install the same version on all machines"


class NodeError(Exception):
    """This node cannot build the host now, and another one may.

    Attributes:
        record: The record of the host, if no other node can.
    """

    def __init__(self, record: Record) -> None:
        super().__init__(record)
        self.record = record


@dataclass(frozen=True)
class Order:
    """A host to build on a node.

    Attributes:
        version: The version of pybuilder that ordered it.
        host: The host.
        key: The digest of all that it is made of.
        recipe: Its recipe.
        template: The name of its template.
        arch: The architecture of its template; None for that of the node.
        digest: The digest of its template.
        output: The image.
        memory: Bytes of memory that the build needs.
        space: Bytes that it writes.
        inputs: Digests of the files and secrets that the recipe names.
        words: Options of ``pybuilder build``.
        settings: Sources and cache that the command line named.
        variables: What is added to the environment of the build.
        delivery: What follows the build, for an image that goes to another machine.
    """

    version: str
    host: str
    key: str
    recipe: str
    template: str
    arch: str | None
    digest: str
    output: str
    memory: int
    space: int
    inputs: Mapping[str, str]
    words: Sequence[str]
    settings: Mapping[str, Any]
    variables: Mapping[str, str]
    delivery: Mapping[str, Any] | None

    @property
    def record(self) -> Record:
        """The record of the host before the build."""
        return Record(self.host, self.key, self.digest, self.output)


def write_order(path: Path, job: Job, state: FleetState, words: Sequence[str], settings: Settings) -> None:
    """Write the order for a host into the folder of the records."""
    host, load = job.host, job.load
    named = asdict(settings)
    named["cache"] = str(settings.cache.absolute()) if settings.cache else None
    named["reuse"] = [str(file.absolute()) for file in settings.reuse]
    order = Order(
        __version__, host.name, job.key, host.text,
        host.recipe.settings["template"], host.recipe.settings.get("arch"), job.template, host.goes_to,
        load.memory, load.space, state.inputs(host), words, named,
        {name: os.environ[name] for name in ("SOURCE_DATE_EPOCH",) if name in os.environ},
        None if (delivery := job.delivery(state)) is None else delivery.as_data(),
    )  # fmt: skip
    # Losing it by a power failure costs one build.
    write_json(path, {"order": vars(order)}, version=None, durable=False)


def check_folders(marks: Mapping[str, str]) -> str:
    """Return what is wrong with the folders that this node shares with the coordinator; empty if nothing.

    Args:
        marks: A file that the coordinator has just made in each folder, and its content.
    """
    for name, content in marks.items():
        path = Path(name)
        try:
            if path.read_text() != content:
                return f"{path.parent} is another folder there"
        except OSError as error:
            return f"{path.parent} is not shared with it ({error.strerror})"
        if not os.access(path.parent, os.W_OK):
            return f"{path.parent} cannot be written to there"
    return ""


def check_places(remotes: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return why images cannot be put on other machines from here, and the hint; None if they can."""
    for fields in remotes:
        remote = Remote.from_data(fields)
        try:
            open_store(remote).found([remote.name])
        except PybuilderError as error:
            return error.message, error.hint or ""
    return None


class Node:
    """The builds of one process of a node."""

    def __init__(self, name: str) -> None:
        """Prepare builds; the name of the node is for records."""
        self._name = name
        self._budget = Budget(usable_processors() * 8)  # the cluster says how many; memory and space say no
        self._guard = threading.Lock()
        self._loads: dict[object, tuple[Load, float]] = {}
        self._templates: dict[str, threading.Lock] = {}
        self._checked: set[str] = set()
        """Templates that are in the cache of this node, and the same as the coordinator's."""

    def build(self, path: Path, stopped: Callable[[], bool]) -> Record | None:
        """Build a host, if that was not done before; return its record, or None if it was stopped before.

        Args:
            path: The order.
            stopped: Returns whether all builds are to stop.

        Raises:
            NodeError: Another node may be able to do it.
        """
        asked = _Patience(stopped)
        try:
            order = Order(**read_json(path, version=None, limit=_LARGEST)["order"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            host = path.name.split(".", 2)[2]
            message = f"the order {path} cannot be read: {getattr(error, 'strerror', None) or error}"
            failed = self._failed(Record(host, "", "", ""), message, "share the folder with all nodes")
            raise NodeError(failed) from error
        state = FleetState(path.parent)
        with self._alone(path.with_name(f".{order.host}.lock"), asked) as mine:
            if not mine:
                return None
            known = state.record(order.host)
            if known is not None and known.key == order.key and known.built and self._is_there(order):
                return known  # built on a node that was lost before it could say so
            if (problem := self._difference(order, state)) is not None:
                return self._failed(order.record, *problem)
            with self._template(order, asked) as mine, self._admission(order, asked) as admitted:
                if not mine or not admitted:
                    return None
                record = self._build(order, state, asked)
            if record.built:
                self._checked.add(order.digest)
                state.write(record)
        return record

    @staticmethod
    def _is_there(order: Order) -> bool:
        if order.delivery is None:
            return os.path.lexists(order.output)
        remote = Delivery.from_data(order.delivery).remote
        return bool(open_store(remote).found([remote.name]))

    def _failed(self, record: Record, message: str, hint: str | None) -> Record:
        return replace(record, message=f"{message} (node {self._name})", hint=hint or "", node=self._name)

    @contextlib.contextmanager
    def _alone(self, path: Path, stopped: _Patience) -> Iterator[bool]:
        """Keep other nodes from building the host; yield False if all builds are to stop."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not (held := locks.try_exclusive(descriptor)) and not stopped():
                time.sleep(_POLL)
            yield held
        finally:
            os.close(descriptor)

    def _difference(self, order: Order, state: FleetState) -> tuple[str, str] | None:
        """Return what differs here from what the key was made of, and the hint about it."""
        if order.version != __version__:
            return f"pybuilder here is {__version__}, and that of the coordinator {order.version}", _SAME
        for name, digest in order.inputs.items():
            secret = name.startswith(("env:", "file:"))
            try:
                found = state.secret_digest(name) if secret else state.digest(Path(name))
            except UsageError as error:
                return error.message, error.hint or ""
            except OSError as error:
                return f"{name}: {error.strerror}", "share its folder with all nodes"
            if found != digest:
                return f"{name} is not the same here", "share its folder with all nodes, or copy it there"
        return None

    @contextlib.contextmanager
    def _template(self, order: Order, stopped: _Patience) -> Iterator[bool]:
        """Let the first host of a template be alone until the template is in the cache of this node."""
        with self._guard:
            lock = self._templates.setdefault(order.digest, threading.Lock())
        while not lock.acquire(timeout=_POLL):
            if stopped():
                yield False
                return
        if order.digest in self._checked:
            lock.release()
            yield True
            return
        try:
            self._check_template(order)
            yield True
        finally:
            lock.release()

    def _check_template(self, order: Order) -> None:
        named = dict(order.settings)
        named["cache"] = Path(named["cache"]) if named["cache"] else None
        named["reuse"] = [Path(name) for name in named["reuse"]]
        try:
            chosen = Services(Settings(**named)).select_disk(
                order.template, order.arch or host_arch(), ignore
            )
        except PybuilderError as error:
            raise NodeError(self._failed(order.record, error.message, error.hint)) from error
        if template_digest(chosen) != order.digest:
            message = f"the template {order.template} is another one here"
            hint = "configure the same sources on all nodes, and update them: pybuilder source list --long"
            raise NodeError(self._failed(order.record, message, hint))

    @contextlib.contextmanager
    def _admission(self, order: Order, stopped: _Patience) -> Iterator[bool]:
        """Wait until memory and space suffice for one more build here."""
        folder = temporary_dir() if order.delivery else Path(order.output).parent
        load, mine = Load(order.memory, folder, order.space), object()
        while True:
            with self._guard:
                now = time.monotonic()
                loads = [load for load, _since in self._loads.values()]
                young = [load for load, since in self._loads.values() if now - since < GROWING]
                if self._budget.obstacle(load, loads, young) is None:
                    self._loads[mine] = load, now
                    break
            if stopped():
                yield False
                return
            time.sleep(_POLL)
        try:
            yield True
        finally:
            with self._guard:
                del self._loads[mine]

    def _build(self, order: Order, state: FleetState, stopped: _Patience) -> Record:
        log, started = state.log(order.host), time.monotonic()
        record = replace(order.record, node=self._name)
        try:
            delivery = None if order.delivery is None else Delivery.from_data(order.delivery)
            build = child.start_build(order.recipe, log, order.words, order.variables, delivery)
        except (OSError, PybuilderError) as error:
            message = f"the build cannot be started: {error}"
            raise NodeError(self._failed(record, message, None)) from error
        end: float | None = None
        while not process.ends_within(build, _POLL):
            if end is None and stopped():
                end = time.monotonic()
                process.signal_group(build, signal.SIGTERM)
            elif end is not None and time.monotonic() - end > GRACE:
                process.signal_group(build, signal.SIGKILL)
        record = child.ended(record, build.returncode, time.monotonic() - started, log)
        if end is None and child.is_passing(record, build.returncode):
            raise NodeError(record)
        return record


class _Patience:
    """Asks whether to stop, but not too often: the answer comes from another machine."""

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask, self._next, self._stop = ask, 0.0, False

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._stop and now >= self._next:
            self._stop, self._next = self._ask(), now + _ASK
        return self._stop
