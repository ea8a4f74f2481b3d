"""The options of a run, and what they need of this host, checked before anything is downloaded."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.errors import ToolError, UsageError, WorkspaceError
from imgbuilder.host import paths, process
from imgbuilder.host.packages import install_hint
from imgbuilder.host.workspace import check_space
from imgbuilder.machine.model import DEFAULT_MEMORY, Firmware, Forward, Machine, board, needs_uefi
from imgbuilder.machine.qemu import find_firmware

_MEMINFO = Path("/proc/meminfo")
_LEAST_SPACE = 256 << 20
"""Bytes for the changes to the disk: a first boot needs some."""
_LIMIT = 60.0
"""Seconds for QEMU to list its displays."""


@dataclass(frozen=True)
class RunOptions:
    """The options of a run.

    Attributes:
        memory: MiB.
        processors: Their number.
        graphic: Whether it has a screen in a window, and not its console on this terminal.
        forwards: Ports of the guest that this host reaches.
        firmware: What starts it; None for what fits its disk.
        ssh: Whether root is logged in by SSH.
        keep: Whether its changes to the disk are kept.
    """

    memory: int = DEFAULT_MEMORY
    processors: int = 1
    graphic: bool = False
    forwards: tuple[Forward, ...] = ()
    firmware: Firmware | None = None
    ssh: bool = False
    keep: bool = False


def check_host(options: RunOptions, arch: str) -> None:
    """Refuse a run that this host cannot have.

    Raises:
        PybuilderError: A program, the firmware, the display, memory, space or a port is missing.
    """
    program = process.require_program(board(arch).program)
    for name in ("ssh", "ssh-keygen") if options.ssh else ():
        process.require_program(name)
    if options.firmware is Firmware.UEFI or needs_uefi(arch):
        find_firmware(Machine("", Path(), OutputFormat.RAW, arch, Firmware.UEFI))
    if options.graphic:
        _check_display(program)
    check_memory(options.memory)
    for forward in options.forwards:
        _check_port(forward)
    if not options.keep:
        check_space(paths.temporary_dir(), _LEAST_SPACE, "the changes that the guest makes to its disk")


def _check_display(program: str, environ: Mapping[str, str] = os.environ) -> None:
    if not (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")):
        raise UsageError(
            "--graphic needs a display, but neither DISPLAY nor WAYLAND_DISPLAY is set",
            hint="leave out --graphic, or type this on a desktop",
        )
    known = process.run([program, "-display", "help"], timeout=_LIMIT).stdout.split()
    if not {b"gtk", b"sdl"} & set(known):
        raise ToolError(f"{Path(program).name} cannot open windows", hint=install_hint("qemu-window"))


def check_memory(wanted: int, meminfo: Path = _MEMINFO) -> None:
    """Refuse more MiB than this host has left, swap included."""
    try:
        found = dict(re.findall(r"^(MemAvailable|SwapFree): +(\d+) kB$", meminfo.read_text(), re.MULTILINE))
    except OSError:
        return  # QEMU will find out
    left = sum(map(int, found.values())) >> 10
    if found and left < wanted:
        raise WorkspaceError(
            f"the guest's {wanted} MiB of memory do not fit: this machine has {left} MiB left",
            hint="end other programs, or give less: --memory MIB",
        )


def _check_port(forward: Forward) -> None:
    kind = socket.SOCK_STREAM if forward.kind == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind is socket.SOCK_STREAM:  # as QEMU does: connections of an earlier run may linger
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", forward.host))
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
            raise UsageError(
                f"{forward.kind} port {forward.host} of this machine {why}",
                hint=f"give another one: --forward {_other(forward)}",
            ) from error


def _other(forward: Forward) -> str:
    host = forward.host + 10000 if forward.host < 50000 else forward.host - 10000
    return f"{host}:{forward.guest}{'' if forward.kind == 'tcp' else '/udp'}"
