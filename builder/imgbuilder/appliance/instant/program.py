"""What libguestfs starts in place of the hypervisor: it resumes a saved appliance, if one fits.

libguestfs alone knows the command line of its hypervisor, so the decision is
made here, where that line is: does it have a shape that is known, is there a
saved state for exactly this machine, and is that state untouched? The parent
(``imgbuilder.appliance.instant``) says in a job file what it wants, and reads
in a report file what was done.

The file is run by the distribution's Python, with the standard library only,
like ``appliance/worker.py``; the package imports it too, for its pure parts.

Whatever happens here, in the end this process becomes the hypervisor, or ends
with status 1 and leaves no process behind.
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
"""The files of a state: the machine's memory and devices, what it wrote to the appliance's root while it
booted, random numbers that must not be seen again, and facts about the other three."""
GIVEN_UP = ".given-up"
"""Suffix of the file that says: no state can be made for this machine."""
RETRY_AFTER = 24 * 3600.0
"""Seconds after which making a state is tried again all the same."""
MOST_DISKS = 4
"""More disks than this are rare, and each number of disks has a state of its own."""
_HASHED = 64 << 20
"""Bytes of a file of the appliance that are hashed; a kernel or initial RAM disk has 4 to 60 MB."""
_LAUNCHED = struct.pack(">I", 0xF5F55FF5)
"""What the appliance's daemon says first; a resumed one has said it before it was saved."""

_FLAGS = {"-no-user-config", "-nodefaults", "-no-reboot", "-no-hpet"}
_OPTIONS = {
    "-global": r".*",
    "-display": r"none",
    "-machine": r"accel=(tcg|kvm|kvm:tcg)(,graphics=off)?",
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
"""Every option that may occur, and its values: libguestfs 1.48's direct backend. Another shape may be as
good, but nobody has tried it."""
_ROOT = re.compile(r"file=(?P<path>/[^,]+),snapshot=on,id=appliance,cache=unsafe,if=none,format=raw")
_DISK = re.compile(r"(?=.*,id=hd\d+,if=none$)(?=.*,cache=(unsafe|writeback),).*")
_MACHINES = ("x86_64", "aarch64")
"""Where the number of the ioctl that renews the random numbers is known (``guestside``)."""


class Shape(NamedTuple):
    """What a hypervisor's command line says.

    Attributes:
        kernel: Path of the appliance's kernel.
        initrd: Path of its initial RAM disk.
        root: Path of its root filesystem.
        socket: Where libguestfs waits for its daemon.
        disks: How many disks there are beside the appliance's own.
        lines: The command line without what may differ between two launches of the same machine.
    """

    kernel: str
    initrd: str
    root: str
    socket: str
    disks: int
    lines: tuple[str, ...]


class UnfitError(Exception):
    """This machine is booted, not resumed; the message says why."""


def read_shape(arguments: list[str]) -> Shape:
    """Recognise a command line.

    Args:
        arguments: The hypervisor's arguments.

    Raises:
        UnfitError: It is not of the one shape that is known to resume well.
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
            raise UnfitError(f"the hypervisor's option {word} {value or ''} is not known")
        if word == "-drive":
            root = _ROOT.fullmatch(value)
            if root is not None:
                roots.append(root["path"])
            elif _DISK.fullmatch(value) is not None:
                disks += 1
            else:
                raise UnfitError(f"the drive {value} is not of a known kind")
            value = "" if root is None else "root"
        elif word in ("-kernel", "-initrd", "-chardev"):
            if word in single:
                raise UnfitError(f"the hypervisor's option {word} is given twice")
            single[word] = value
            value = ""
        lines.append(f"{word} {value}")
    if len(roots) != 1 or len(single) != 3:
        raise UnfitError("the hypervisor's command line lacks something")
    if not 1 <= disks <= MOST_DISKS:
        raise UnfitError(f"there are {disks} disks, not 1 to {MOST_DISKS}")
    path = single["-chardev"].split(",")[1].partition("=")[2]
    return Shape(single["-kernel"], single["-initrd"], roots[0], path, disks, tuple(lines))


def identity(path: str) -> list[Any]:
    """Return what changes whenever a file is replaced or written to; no byte of it is read.

    Raises:
        OSError: It is not there.
    """
    return _identity(os.stat(path), os.path.realpath(path))


def _identity(facts: os.stat_result, name: str) -> list[Any]:
    return [name, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def appliance_identity(path: str) -> list[Any]:
    """Return what changes whenever a file of the appliance is made anew.

    Its times say nothing: each launch sets them, lest those who tidy up take it for abandoned. Kernel and
    initial RAM disk are hashed wholly. Of the root filesystem, which is large, the beginning is: each has
    a random UUID there (which is in the command line, too), and nobody ever writes to it.

    Raises:
        OSError: It is not there.
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
    """Return what the host's first processor is and can do."""
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
    """Return the name of the state that fits a machine: a digest of everything that shapes it.

    Args:
        shape: The command line.
        hypervisor: Path of the hypervisor.
        recipe: Digest of how states are made: our code and libguestfs's version.

    Raises:
        OSError: A file of the machine is not there.
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
    """Open the memory of a state, if nobody touched the state since it was made.

    Args:
        folder: The state.

    Returns:
        The open descriptor of its memory, and its record.

    Raises:
        UnfitError: A part of it is missing, changed, or not this user's alone.
        OSError: It cannot be read.
        ValueError: Its record is damaged.
    """
    check_private(folder)
    with open(
        os.open(os.path.join(folder, RECORD), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb"
    ) as file:
        _check_own(os.fstat(file.fileno()), RECORD)
        record = json.loads(file.read(1 << 20))
    if not isinstance(record, dict):
        raise UnfitError("its record is damaged")
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
                raise UnfitError(f"its file {name} was changed")
    except BaseException:
        if memory >= 0:
            os.close(memory)
        raise
    return memory, record


def check_private(folder: str) -> None:
    """See that a folder is this user's and closed to everybody else, and that nobody can exchange it.

    Whoever may write to a folder above it can put another one in its place between this look and the moment
    when QEMU opens a file in it by its name.

    Raises:
        UnfitError: It is not.
        OSError: It is not there.
    """
    facts = os.lstat(folder)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise UnfitError(f"{folder} is not a private folder of this user")
    for path in (os.path.abspath(folder), os.path.realpath(folder)):
        while path != os.path.dirname(path):
            path = os.path.dirname(path)
            facts = os.lstat(path)
            for_all = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_IWOTH
            if facts.st_uid not in (0, os.geteuid()) or (for_all and not facts.st_mode & stat.S_ISVTX):
                raise UnfitError(f"other users can exchange {folder}, because they may write to {path}")


def _check_own(facts: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise UnfitError(f"its file {name} is not a private file of this user")


def resumed_arguments(arguments: list[str], overlay: str, memory: int, channel: int) -> list[str]:
    """Turn the command line that boots a machine into the one that resumes it.

    Args:
        arguments: The arguments of the boot.
        overlay: What the saved machine wrote to its root; only read.
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
    """Turn the command line that boots a machine into the one that boots it to be saved.

    Args:
        arguments: The arguments of the boot.
        overlay: Where what it writes to its root goes.
        monitor: Socket at which it takes orders.
    """
    changed = _with_root(
        arguments, f"file={_escaped(overlay)},id=appliance,cache=unsafe,if=none,format=qcow2"
    )
    return [*changed, "-qmp", f"unix:{_escaped(monitor)},server=on,wait=off"]


def _with_root(arguments: list[str], drive: str) -> list[str]:
    return [drive if _ROOT.fullmatch(word) else word for word in arguments]


def _escaped(path: str) -> str:
    return path.replace(",", ",,")


def read_mark(path: str) -> Optional[str]:  # noqa: UP045 - old interpreters read this file too
    """Return why no state was made for a machine, if that is not long ago."""
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
        job: What the parent wants: ``mode`` (``resume``, ``make``), ``hypervisor`` (path), ``starter`` (words
            before it), ``states`` (folder), ``recipe``, ``report`` (file), ``key``, ``overlay`` and
            ``monitor`` (for ``make``).
        arguments: The hypervisor's arguments.
    """

    def __init__(self, job: dict[str, Any], arguments: list[str]) -> None:
        self._job = job
        self._arguments = arguments

    def run(self) -> None:
        """Become the hypervisor, or end."""
        try:
            if os.uname().machine not in _MACHINES:
                raise UnfitError(f"not on {os.uname().machine}")
            shape = read_shape(self._arguments)
            key = state_key(shape, self._job["hypervisor"], self._job["recipe"])
        except (UnfitError, OSError) as error:
            if self._job["mode"] == "make":
                self._end({"failed": str(error)})
            self._boot(str(error))
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
        except (UnfitError, OSError, ValueError) as error:
            self._end({**facts, "failed": str(error)})
            return
        self._tell({**facts, "resumed": True})  # before libguestfs can go on
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
            self._end({"failed": "the machine changed meanwhile"})
        self._tell({"making": True})
        self._become(saved_arguments(self._arguments, self._job["overlay"], self._job["monitor"]))

    def _boot(self, why: str) -> None:
        self._tell({"booted": why})
        self._become(self._arguments)

    def _end(self, on_event: dict[str, Any]) -> None:
        self._tell(on_event)
        sys.exit(1)

    def _tell(self, on_event: dict[str, Any]) -> None:
        with open(self._job["report"], "w", encoding="utf-8") as file:
            json.dump(on_event, file)

    def _become(self, arguments: list[str]) -> None:
        words = [*self._job["starter"], self._job["hypervisor"], *arguments]
        os.execv(words[0], words)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as job_file:
        Program(json.load(job_file), sys.argv[2:]).run()
