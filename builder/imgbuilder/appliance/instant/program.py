"""The program that libguestfs starts in place of the hypervisor: it resumes a saved appliance if one fits.

Only libguestfs knows the command line of its hypervisor, so the decision is
made here: is the command line of a known shape, is there a saved state for
exactly this machine, and is that state untouched? The parent
(``imgbuilder.appliance.instant``) writes its request to a job file and reads
the result from a report file.

The file is run by the distribution's Python, with the standard library only,
like ``appliance/worker.py``. The package imports it for its pure parts.

In the end this process always becomes the hypervisor, or exits with status 1
and leaves no process behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import stat
import struct
import sys
import time
from typing import Any, NamedTuple, Optional

MEMORY, OVERLAY, DRAWS, RECORD = "memory", "root.qcow2", "draws", "record.json"
"""The files of a state: the machine's memory and devices, the blocks of the appliance's root that it wrote
while it booted, random numbers that must not be used again, and facts about the other three."""
GIVEN_UP = ".given-up"
"""Suffix of the file that marks a machine for which no state could be made."""
RETRY_AFTER = 24 * 3600.0
"""Seconds after which making a state is tried again."""
MOST_DISKS = 4
"""More disks are rare, and each number of disks needs a separate state."""
_HASHED = 64 << 20
"""Bytes of a file of the appliance that are hashed; a kernel or initial RAM disk has 4 to 60 MB."""
_LAUNCHED = struct.pack(">I", 0xF5F55FF5)
"""The daemon's first message, which a resumed appliance sent before it was saved."""

_FLAGS = {"-no-user-config", "-nodefaults", "-no-reboot", "-no-hpet"}
_OPTIONS = {
    "-global": r".*",
    "-display": r"none",
    "-machine": r"(q35,)?accel=(tcg|kvm|kvm:tcg)(,graphics=off)?",  # q35 since libguestfs 1.50
    "-cpu": r"[\w,=+-]+",
    "-m": r"\d+",
    "-rtc": r"driftfix=slew",
    "-kernel": r"/.*",
    "-initrd": r"/.*",
    "-object": r"rng-random,filename=/dev/urandom,id=rng0",
    "-device": r"(virtio-rng-pci,rng=rng0|virtio-scsi-pci,id=scsi|scsi-hd,drive=(hd\d+|appliance)"
    r"|virtio-serial-pci|virtserialport,chardev=channel0,name=org\.libguestfs\.channel\.0"
    r"|virtio-net-pci,netdev=usernet)",
    "-drive": r".*",
    "-serial": r"stdio",
    "-chardev": r"socket,path=/[^,]+,id=channel0",
    "-netdev": r"user,id=usernet,net=169\.254\.0\.0/16",
    "-append": r".*",
}
"""The options that may occur, and their values, as of libguestfs 1.48's direct backend. Others were not
tested."""
_ROOT = re.compile(r"file=(?P<path>/[^,]+),snapshot=on,id=appliance,cache=unsafe,if=none,format=raw")
_DISK = re.compile(r"(?=.*,id=hd\d+,if=none$)(?=.*,cache=(unsafe|writeback),).*")
_MACHINES = ("x86_64", "aarch64")
"""Architectures with a known number of the ioctl that renews the random numbers (``save``)."""


class Shape(NamedTuple):
    """The parts of a hypervisor's command line.

    Attributes:
        kernel: Path of the appliance's kernel.
        initrd: Path of its initial RAM disk.
        root: Path of its root filesystem.
        socket: The socket on which libguestfs waits for its daemon.
        disks: The number of disks, without the appliance's root.
        lines: The command line without the parts that differ between launches of the same machine.
    """

    kernel: str
    initrd: str
    root: str
    socket: str
    disks: int
    lines: tuple[str, ...]


class UnusableStateError(Exception):
    """The machine has to be booted; the message is the reason."""


class UnknownError(UnusableStateError):
    """A newer libguestfs starts its hypervisor in a way that was not tested."""


def read_shape(arguments: list[str]) -> Shape:
    """Parse the hypervisor's arguments.

    Raises:
        UnusableStateError: Their shape is not the one that is known to resume well.
    """
    single: dict[str, str] = {}
    roots: list[str] = []
    disks = 0
    lines: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in _FLAGS:
            lines.append(word)
            continue
        value = next(words, None)
        pattern = _OPTIONS.get(word)
        if pattern is None or value is None or re.fullmatch(pattern, value, re.DOTALL) is None:
            raise UnknownError(f"the hypervisor's option {word} {value or ''} is not known")
        if word == "-drive":
            root = _ROOT.fullmatch(value)
            if root is not None:
                roots.append(root["path"])
            elif _DISK.fullmatch(value) is not None:
                disks += 1
            else:
                raise UnknownError(f"the drive {value} is not of a known kind")
            value = "" if root is None else "root"
        elif word in ("-kernel", "-initrd", "-chardev"):
            if word in single:
                raise UnusableStateError(f"the hypervisor's option {word} is given twice")
            single[word] = value
            value = ""
        lines.append(f"{word} {value}")
    if len(roots) != 1 or len(single) != 3:
        raise UnusableStateError("the hypervisor's command line is incomplete")
    if not 1 <= disks <= MOST_DISKS:
        raise UnusableStateError(f"there are {disks} disks, not 1 to {MOST_DISKS}")
    path = single["-chardev"].split(",")[1].partition("=")[2]
    return Shape(single["-kernel"], single["-initrd"], roots[0], path, disks, tuple(lines))


def identity(path: str) -> list[Any]:
    """Return facts that change whenever a file is replaced or written to; its content is not read."""
    return _identity(os.stat(path), os.path.realpath(path))


def _identity(facts: os.stat_result, name: str) -> list[Any]:
    return [name, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def appliance_identity(path: str) -> list[Any]:
    """Return facts that change whenever a file of the appliance is built again.

    Its times do not count: each launch sets them, so that cleaners of temporary files keep it. Kernel and
    initial RAM disk are hashed completely. Of the large root filesystem only the beginning is hashed: it has
    a random UUID there, and is never written to.
    """
    digest = hashlib.blake2b(digest_size=20)
    with open(path, "rb") as file:
        facts = os.fstat(file.fileno())
        left = _HASHED
        while left:
            piece = file.read(min(left, 1 << 20))
            if not piece:
                break
            digest.update(piece)
            left -= len(piece)
    return [path, facts.st_dev, facts.st_ino, facts.st_size, facts.st_blocks, digest.hexdigest()]


def processor() -> list[str]:
    """Return the model and the features of the host's first processor."""
    wanted = ("vendor_id", "model name", "cpu family", "model", "stepping", "microcode", "flags", "Features")
    found = []
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if not line.strip():
                break
            if name.strip() in wanted:
                found.append(f"{name.strip()}={value.strip()}")
    return found


def state_key(shape: Shape, hypervisor: str, recipe: str) -> str:
    """Return the name of the state that fits a machine: a digest of all its parts.

    Args:
        shape: The command line.
        hypervisor: Path of the hypervisor.
        recipe: Digest of our code and libguestfs's version, which make the states.
    """
    host = os.uname()
    facts = {
        "recipe": recipe,
        "lines": shape.lines,
        "hypervisor": identity(hypervisor),
        "appliance": [appliance_identity(path) for path in (shape.kernel, shape.initrd, shape.root)],
        "host": [host.sysname, host.release, host.version, host.machine],
        "processor": processor(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


def open_state(folder: str) -> tuple[int, dict[str, Any]]:
    """Open the memory of a state that was not changed since it was made; return its descriptor and record.

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
    memory = -1
    try:
        for name in (OVERLAY, DRAWS, MEMORY):
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            facts = os.fstat(descriptor)
            memory, previous = descriptor, memory
            if previous >= 0:
                os.close(previous)
            _check_own(facts, name)
            if record.get(name) != _identity(facts, "")[1:]:
                raise UnusableStateError(f"its file {name} was changed")
    except BaseException:
        if memory >= 0:
            os.close(memory)
        raise
    return memory, record


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


def resumed_arguments(arguments: list[str], overlay: str, memory: int, channel: int) -> list[str]:
    """Turn the arguments that boot a machine into those that resume it.

    Args:
        arguments: The arguments of the boot.
        overlay: The saved overlay of the root; only read.
        memory: Descriptor of the saved memory.
        channel: Descriptor of the connection to libguestfs.
    """
    changed = _with_root(
        arguments, f"file={_escaped(overlay)},snapshot=on,id=appliance,cache=unsafe,if=none,format=qcow2"
    )
    at = changed.index("-chardev") + 1
    changed[at] = f"socket,fd={channel},id=channel0"
    return [*changed, "-incoming", f"fd:{memory}"]


def saved_arguments(arguments: list[str], overlay: str, monitor: str) -> list[str]:
    """Turn the arguments that boot a machine into those that boot it with an overlay and a monitor socket."""
    changed = _with_root(
        arguments, f"file={_escaped(overlay)},id=appliance,cache=unsafe,if=none,format=qcow2"
    )
    return [*changed, "-qmp", f"unix:{_escaped(monitor)},server=on,wait=off"]


def _with_root(arguments: list[str], drive: str) -> list[str]:
    return [drive if _ROOT.fullmatch(word) else word for word in arguments]


def _escaped(path: str) -> str:
    return path.replace(",", ",,")


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
            (folder), ``recipe``, ``report`` (file), ``key``, ``overlay`` and ``monitor`` (for ``make``).
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
            key = state_key(shape, self._job["hypervisor"], self._job["recipe"])
        except (UnusableStateError, OSError) as error:
            if self._job["mode"] == "make":
                self._end({"failed": str(error)})
            self._boot(str(error), unknown=isinstance(error, UnknownError))
            return
        if self._job["mode"] == "make":
            self._make(key)
        else:
            self._resume(shape, key)

    def _resume(self, shape: Shape, key: str) -> None:
        folder = os.path.join(self._job["states"], key)
        facts = {"key": key, "root": shape.root, "root_identity": appliance_identity(shape.root)}
        try:
            memory, _record = open_state(folder)
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
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            channel.connect(shape.socket)
            channel.sendall(_LAUNCHED)
        except OSError as error:
            self._end({**facts, "failed": str(error)})
        for descriptor in (memory, channel.fileno()):
            os.set_inheritable(descriptor, True)
        overlay = os.path.join(folder, OVERLAY)
        self._become(resumed_arguments(self._arguments, overlay, memory, channel.fileno()))

    def _make(self, key: str) -> None:
        if key != self._job["key"]:
            self._end({"failed": "the machine changed in between"})
        self._report({"making": True})
        self._become(saved_arguments(self._arguments, self._job["overlay"], self._job["monitor"]))

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


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as job_file:
        Program(json.load(job_file), sys.argv[2:]).run()
