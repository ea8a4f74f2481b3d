"""The program that libguestfs starts in place of the hypervisor: it resumes a saved appliance if one fits.

Only libguestfs knows the command line of its hypervisor, so the decision is
made here: is the command line of a known shape, is there a saved state for
exactly this machine, and is that state untouched? The parent
(``imgbuilder.appliance.instant``) writes its request to a job file and reads
the result from a report file.

It is run by the distribution's Python, with the standard library only, like
``appliance/worker.py``. The package imports it for its pure parts.

In the end this process always becomes the hypervisor, or exits with status 1
and leaves no process behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import struct
import sys
import time
from typing import Any, Optional

from .commandline import (  # without a site folder, there is no other name
    Shape,
    UnknownError,
    UnusableStateError,
    read_shape,
    resumed_arguments,
    saved_arguments,
)

MEMORY, DEVICES, OVERLAY, DRAWS, RECORD = "memory", "devices", "root.qcow2", "draws", "record.json"
"""The files of a state: the machine's memory and the state of its devices, the blocks of the appliance's root
that it wrote while it booted, random numbers that must not be used again, and facts about the others."""
CONTENT = (MEMORY, DEVICES, OVERLAY, DRAWS)
"""Those of which facts are recorded."""
MACHINE = "machine"
"""Name in the record of the facts of the machine."""
GIVEN_UP = ".given-up"
"""Suffix of the file that marks a machine for which no state could be made."""
RETRY_AFTER = 24 * 3600.0
"""Seconds after which making a state is tried again."""
_MACHINES = ("x86_64", "aarch64")
"""Architectures on which ``save`` knows the numbers of system calls."""
_HASHED = 64 << 20
"""Bytes of a kernel or initial RAM disk that are hashed; they have 4 to 60 MB."""
_HASHED_OF_ROOT = 1 << 20
_LAUNCHED = struct.pack(">I", 0xF5F55FF5)
"""The daemon's first message, which a resumed appliance sent before it was saved."""


def identity(path: str) -> list[Any]:
    """Return facts that change whenever a file is replaced or written to; its content is not read."""
    return _identity(os.stat(path), os.path.realpath(path))


def _identity(facts: os.stat_result, name: str) -> list[Any]:
    return [name, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def appliance_identity(path: str, most: int) -> list[Any]:
    """Return facts that change whenever a file of the appliance is built again.

    Its times do not count: each launch sets them, so that cleaners of temporary files keep it.

    Args:
        path: The file.
        most: Bytes of it that are hashed.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        facts = os.fstat(file.fileno())
        left = most
        while left:
            piece = file.read(min(left, 1 << 20))
            if not piece:
                break
            digest.update(piece)
            left -= len(piece)
    return [path, facts.st_dev, facts.st_ino, facts.st_size, facts.st_blocks, digest.hexdigest()]


def root_identity(path: str) -> list[Any]:
    """Return those of the root filesystem: it has a random UUID at its beginning, and is never written to."""
    return appliance_identity(path, _HASHED_OF_ROOT)


def processor() -> list[str]:
    """Return the model and the features of the host's first processor."""
    wanted = ("vendor_id", "model name", "cpu family", "model", "stepping", "microcode", "flags", "Features")
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        first = file.read(1 << 20).partition("\n\n")[0]
    return [line for line in first.split("\n") if line.partition(":")[0].strip() in wanted]


def machine_facts(shape: Shape, hypervisor: str, recipe: str) -> dict[str, str]:
    """Return a digest of each part of a machine that a state has to fit.

    Args:
        shape: The command line.
        hypervisor: Path of the hypervisor.
        recipe: Digest of our code and libguestfs's version, which make the states.
    """
    host = os.uname()
    files = ("-kernel", "-initrd", "-chardev", "-drive", "-netdev")
    parts = {
        "recipe": recipe,
        "options": [(word, "" if word in files else value) for word, value in shape.options],
        "hypervisor": identity(hypervisor),
        "appliance": [
            appliance_identity(shape.value("-kernel"), _HASHED),
            appliance_identity(shape.value("-initrd"), _HASHED),
            root_identity(shape.root),
        ],
        "kernel": [host.sysname, host.release, host.version, host.machine],
        "processor": processor(),
    }
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


def state_key(facts: dict[str, str]) -> str:
    """Return the name of the state that fits a machine."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


def open_state(folder: str, wanted: str) -> int:
    """Open a file of a state none of whose files was changed since it was made; return its descriptor.

    Raises:
        UnusableStateError: A file is changed, or other users may have access to it.
        OSError: A file cannot be read.
        ValueError: Its record is damaged.
    """
    check_private(folder)
    with open(
        os.open(os.path.join(folder, RECORD), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb"
    ) as file:
        _check_own(os.fstat(file.fileno()), RECORD)
        record = json.loads(file.read(1 << 20))
    if not isinstance(record, dict):
        raise UnusableStateError("its record is damaged")
    opened = {}
    try:
        for name in CONTENT:
            path = os.path.join(folder, name)
            opened[name] = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            facts = os.fstat(opened[name])
            _check_own(facts, name)
            if record.get(name) != _identity(facts, "")[1:]:
                raise UnusableStateError(f"its file {name} was changed")
        return opened.pop(wanted)
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def check_private(folder: str) -> None:
    """Check that a folder is private to this user, and that other users cannot replace it.

    A user who may write to a folder above it could replace it between this check and the moment when QEMU
    opens a file in it by name.
    """
    facts = os.lstat(folder)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise UnusableStateError(f"{folder} is not a private folder of this user")
    for path in (os.path.abspath(folder), os.path.realpath(folder)):
        while path != os.path.dirname(path):
            path = os.path.dirname(path)
            facts = os.lstat(path)
            for_all = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_IWOTH
            if facts.st_uid not in (0, os.geteuid()) or (for_all and not facts.st_mode & stat.S_ISVTX):
                raise UnusableStateError(
                    f"other users can replace {folder}, because they may write to {path}"
                )


def _check_own(facts: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise UnusableStateError(f"its file {name} is not a private file of this user")


def read_mark(path: str) -> Optional[str]:  # noqa: UP045 - old interpreters read this file too
    """Return the reason why no state could be made for a machine, if that was recently."""
    try:
        if abs(time.time() - os.stat(path).st_mtime) > RETRY_AFTER:
            return None
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(500).strip()
    except OSError:
        return None


class Program:
    """One run in place of the hypervisor.

    Args:
        job: The parent's request: ``mode`` (``resume``, ``make``), ``hypervisor`` (path), ``states``
            (folder), ``recipe``, ``report`` (file), ``monitor`` (socket), ``key`` and ``overlay`` (for
            ``make``).
        command: The words that start the hypervisor, its path, and its arguments.
    """

    def __init__(self, job: dict[str, Any], command: list[str]) -> None:
        self._job = job
        at = command.index(job["hypervisor"]) + 1
        self._starter, self._arguments = command[:at], command[at:]

    def run(self) -> None:
        """Become the hypervisor, or exit."""
        try:
            if os.uname().machine not in _MACHINES:
                raise UnusableStateError(f"not on {os.uname().machine}")
            shape = read_shape(self._arguments)
            machine = machine_facts(shape, self._job["hypervisor"], self._job["recipe"])
        except (UnusableStateError, OSError) as error:
            if self._job["mode"] == "make":
                self._end({"failed": str(error)})
            self._boot(str(error), unknown=isinstance(error, UnknownError))
            return
        if self._job["mode"] == "make":
            self._make(shape, machine)
        else:
            self._resume(shape, machine)

    def _resume(self, shape: Shape, machine: dict[str, str]) -> None:
        key = state_key(machine)
        folder = os.path.join(self._job["states"], key)
        facts = {
            "key": key, "root": shape.root, "root_identity": root_identity(shape.root),
            "network": shape.network, "machine": machine,
        }  # fmt: skip
        try:
            memory = open_state(folder, MEMORY)
        except FileNotFoundError:
            why = read_mark(folder + GIVEN_UP)
            if why is None:
                self._end({**facts, "missing": True})
            self._boot(f"it could not be saved the last time: {why}")
            return
        except (UnusableStateError, OSError, ValueError) as error:
            self._end({**facts, "failed": str(error)})
            return
        self._report({**facts, "resumed": True})  # before libguestfs can go on
        channel, monitor = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        try:
            monitor.bind(self._job["monitor"])
            monitor.listen(1)
            channel.connect(shape.socket)
            channel.sendall(_LAUNCHED)
        except OSError as error:
            self._end({**facts, "failed": str(error)})
        for descriptor in (memory, channel.fileno(), monitor.fileno()):
            os.set_inheritable(descriptor, True)
        overlay = os.path.join(folder, OVERLAY)
        self._become(resumed_arguments(shape, overlay, memory, channel.fileno(), monitor.fileno()))

    def _make(self, shape: Shape, machine: dict[str, str]) -> None:
        if state_key(machine) != self._job["key"]:
            self._end({"failed": "the machine changed in between"})
        memory = os.memfd_create("memory")
        os.ftruncate(memory, int(shape.value("-m")) << 20)
        os.set_inheritable(memory, True)
        self._report({"memory": memory})
        self._become(saved_arguments(shape, self._job["overlay"], memory, self._job["monitor"]))

    def _boot(self, why: str, *, unknown: bool = False) -> None:
        self._report({"booted": why, "unknown": unknown})
        self._become(self._arguments)

    def _end(self, facts: dict[str, Any]) -> None:
        self._report(facts)
        sys.exit(1)

    def _report(self, facts: dict[str, Any]) -> None:
        with open(self._job["report"], "w", encoding="utf-8") as file:
            json.dump(facts, file)

    def _become(self, arguments: list[str]) -> None:
        os.execv(self._starter[0], [*self._starter, *arguments])


def main(words: list[str]) -> None:
    """Carry out a job; the words are its file and the command that starts the hypervisor."""
    with open(words[0], encoding="utf-8") as job_file:
        Program(json.load(job_file), words[1:]).run()
