"""The hypervisor's command line, as libguestfs makes it, and those of a machine that is saved or resumed.

Imports the standard library only, for ``program``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MOST_DISKS = 4
"""Disks of the saved machine; more are rare."""
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
_ONCE = {"-machine", "-m", "-kernel", "-initrd", "-chardev", "-append"}
_ROOT = re.compile(r"file=(?P<path>/[^,]+),snapshot=on,id=appliance,cache=unsafe,if=none,format=raw")
_DISK = re.compile(r"(?=.*,id=hd\d+,if=none$)(?=.*,cache=(unsafe|writeback),).*")
DUMMY = 64 << 20
"""Size in bytes of the empty disks of the saved machine."""
_NO_DISK = f"driver=null-co,size={DUMMY},read-zeroes=on,id=hd{{}},if=none"
_NETWORK = "user,id=usernet,net=169.254.0.0/16"
_CARD = "virtio-net-pci,netdev=usernet"


class Shape(NamedTuple):
    """The parts of a hypervisor's command line.

    One saved machine serves all that differ only in the number of their disks, in their network, and in what
    they print. So it has all disks and the network; what a machine must not have is taken from it when it is
    resumed.

    Attributes:
        options: The options and their values, as the machine is saved.
        socket: The socket on which libguestfs waits for its daemon.
        disks: The number of disks, without the appliance's root.
        network: Whether it shall have a network.
    """

    options: tuple[tuple[str, str], ...]
    socket: str
    disks: int
    network: bool

    def value(self, option: str) -> str:
        """Return the value of an option that occurs once."""
        return next(value for word, value in self.options if word == option)

    @property
    def root(self) -> str:
        """Path of the appliance's root filesystem."""
        return next(str(root["path"]) for _word, value in self.options if (root := _ROOT.fullmatch(value)))

    def arguments(self, changes: dict[str, str]) -> list[str]:
        """Return the hypervisor's arguments.

        Args:
            changes: New values by option; that of ``-drive`` is for the root.
        """
        found: list[str] = []
        for word, value in self.options:
            if word in changes and (word != "-drive" or _ROOT.fullmatch(value)):
                value = changes[word]
            found += [word, value] if value else [word]
        return found


class UnusableStateError(Exception):
    """The machine has to be booted; the message is the reason."""


class UnknownError(UnusableStateError):
    """A newer libguestfs starts its hypervisor in a way that was not tested."""


def read_shape(arguments: list[str]) -> Shape:
    """Parse the hypervisor's arguments.

    Raises:
        UnusableStateError: Their shape is not the one that is known to resume well.
    """
    options: list[tuple[str, str]] = []
    disks, network = 0, False
    words = iter(arguments)
    for word in words:
        if word in _FLAGS:
            options.append((word, ""))
            continue
        value = next(words, None)
        pattern = _OPTIONS.get(word)
        if pattern is None or value is None or re.fullmatch(pattern, value, re.DOTALL) is None:
            raise UnknownError(f"the hypervisor's option {word} {value or ''} is not known")
        if word == "-drive" and _ROOT.fullmatch(value):
            for number in range(disks, MOST_DISKS):
                options += [(word, _NO_DISK.format(number)), ("-device", f"scsi-hd,drive=hd{number}")]
        elif word == "-drive" and _DISK.fullmatch(value):
            disks += 1
        elif word == "-drive":
            raise UnknownError(f"the drive {value} is not of a known kind")
        elif word == "-netdev" or value == _CARD:
            network = True
            continue
        options.append((word, _usual(word, value)))
    counts = [sum(word == once for word, _value in options) for once in _ONCE]
    roots = sum(_ROOT.fullmatch(value) is not None for _word, value in options)
    if {roots, *counts} != {1}:
        raise UnusableStateError("the hypervisor's command line is incomplete, or has an option twice")
    if not 1 <= disks <= MOST_DISKS:
        raise UnusableStateError(f"there are {disks} disks, not 1 to {MOST_DISKS}")
    options += [("-netdev", _NETWORK), ("-device", _CARD)]
    shape = Shape(tuple(options), "", disks, network)
    return shape._replace(socket=shape.value("-chardev").split(",")[1].partition("=")[2])


def _usual(word: str, value: str) -> str:
    """Return an option's value with a network, and without the messages of ``--verbose``."""
    if word == "-machine":
        return value.replace(",graphics=off", "")
    if word == "-append":
        usual = ["quiet", "guestfs_network=1"]
        others = [one for one in value.split() if one not in ("guestfs_verbose=1", *usual)]
        return " ".join([*others, *usual])
    return value


def resumed_arguments(shape: Shape, overlay: str, memory: int, channel: int, monitor: int) -> list[str]:
    """Return the arguments of a machine that waits for the saved state of its devices.

    Args:
        shape: The machine.
        overlay: The saved overlay of its root; only read.
        memory: Descriptor of its saved memory. It is only read, a page when it is needed.
        channel: Descriptor of the connection to libguestfs.
        monitor: Descriptor of the socket on which the hypervisor takes commands.
    """
    changed = _with_memory(
        shape, memory, "off",
        {"-drive": _drive(overlay, "snapshot=on,"), "-chardev": f"socket,fd={channel},id=channel0",
         "-netdev": _NETWORK if shape.network else f"{_NETWORK},restrict=on"},
    )  # fmt: skip
    control = f"socket,fd={monitor},id=monitor,server=on,wait=off"
    return [*changed, "-chardev", control, "-mon", "monitor,mode=control", "-incoming", "defer"]


def saved_arguments(shape: Shape, overlay: str, memory: int, monitor: str) -> list[str]:
    """Return the arguments of a machine that boots, with its memory in an open file, and can be saved."""
    changed = _with_memory(shape, memory, "on", {"-drive": _drive(overlay, "")})
    return [*changed, "-qmp", f"unix:{_escaped(monitor)},server=on,wait=off"]


def _with_memory(shape: Shape, memory: int, share: str, changes: dict[str, str]) -> list[str]:
    size = f"id=memory,size={shape.value('-m')}M"
    backend = f"memory-backend-file,{size},mem-path=/proc/self/fd/{memory},share={share}"
    machine = f"{shape.value('-machine')},memory-backend=memory"
    return ["-object", backend, *shape.arguments({**changes, "-machine": machine})]


def _drive(overlay: str, snapshot: str) -> str:
    return f"file={_escaped(overlay)},{snapshot}id=appliance,cache=unsafe,if=none,format=qcow2"


def _escaped(path: str) -> str:
    return path.replace(",", ",,")
