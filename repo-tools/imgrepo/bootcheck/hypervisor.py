"""A machine that is being checked: QEMU, its console, its screen and its ports.

When the block that starts it ends, the hypervisor and its files are gone. Everything that the
guest can make it write is bounded.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import selectors
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from imgbuilder.appliance.monitor import network_table, write_screen
from imgbuilder.errors import DiskError, ToolError
from imgbuilder.host import process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.paths import temporary_dir
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.host.process import Popen
from imgbuilder.host.workspace import explaining
from imgbuilder.machine.model import Machine, board
from imgbuilder.machine.qemu import doubled, drive, find_firmware, flash

_SCREEN_MEMORY = 64 << 20
"""Bytes for the screen, whose size the guest chooses: 16 million pixels."""


def headless_command(
    machine: Machine,
    accelerator: str,
    monitor: Path,
    ports: tuple[int, ...] = (),
    firmware: tuple[Path, Path] | None = None,
) -> list[str]:
    """Return the program and its arguments; the serial console is standard output.

    ``monitor`` is the path of the socket for commands (QMP). The hypervisor chooses a port of the loopback
    interface for each of the guest's ``ports``. ``firmware`` is code and a copy of its variables.

    The image, whose path must be absolute, is only read: the guest's changes go to an unnamed file in TMPDIR.
    The network is closed except for the forwarded ports (``restrict``). The hypervisor may not start
    programs. A PC's BIOS also writes to the serial console (``graphics=off``), where a check can read that
    there is nothing to boot, and the network card has no ROM to boot from.
    """
    facts = board(machine.arch)
    pc = machine.arch != "aarch64"
    network = "user,id=net0,restrict=on"
    network += "".join(f",hostfwd=tcp:127.0.0.1:0-:{port}" for port in ports)
    return [
        facts.program, "-nodefaults", "-no-user-config",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine", f"{facts.machine},graphics=off" if pc else facts.machine,
        "-accel", accelerator, "-cpu", "max",
        "-smp", str(machine.processors), "-m", str(machine.memory),
        "-display", "none", "-serial", "stdio",
        "-chardev", f"socket,id=monitor,path={doubled(monitor)},server=on,wait=off",
        "-mon", "chardev=monitor,mode=control",
        "-drive", drive(machine, snapshot=True),
        "-device", "virtio-blk-pci,drive=disk0,bootindex=0",
        "-netdev", network, "-device", "virtio-net-pci,netdev=net0,romfile=",
        "-device", "virtio-rng-pci",
        "-device", f"{'virtio-vga' if pc else 'virtio-gpu-pci'},max_hostmem={_SCREEN_MEMORY}",
        *flash(firmware),
    ]  # fmt: skip


_MONITOR_LIMIT = 10.0
"""Seconds for a command to the hypervisor; signals have to wait for it."""
_VERSION_LIMIT = 60.0
_PIECE = 1 << 16
_MOST_MESSAGES = 4096
"""Bytes of the hypervisor's messages that are kept."""
_MOST_WRITTEN = 4 << 30
"""Bytes that the guest may write to its disk, which are kept in a temporary file; then it gets I/O errors."""
_LEAST_WRITTEN = 256 << 20
"""Bytes that it may write even if the host has little space: a first boot needs some."""
_LISTEN = 0.5
"""Seconds for a port to send something, or to refuse."""
_VERSION = re.compile(rb"version ([0-9]+(?:\.[0-9]+)+)")
_CONNECTION = re.compile(
    r"^\s*TCP\[(?P<state>[A-Z_0-9]+)\]\s+-?\d+\s+(?P<source>\S+)\s+(?P<host>\d+)\s+\S+\s+(?P<guest>\d+)\s",
    re.MULTILINE,
)
_ANSWERED = {"ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "FIN_WAIT_2", "LAST_ACK", "CLOSING", "TIME_WAIT"}
"""States that a TCP connection (RFC 9293) reaches only after the other side has accepted it."""


_THUMBNAIL = (320, 240)
"""Size in pixels, as entries of collections have it."""
_MOST_PIXELS = 16 << 20
"""The guest chooses the size of its screen; a picture of the largest would take gigabytes."""


def hypervisor_version(machine: Machine) -> str:
    """Return the version of the QEMU that runs a machine, such as ``7.2.11``."""
    program = board(machine.arch).program
    found = _VERSION.search(process.run([program, "--version"], timeout=_VERSION_LIMIT).stdout)
    if found is None:
        raise ToolError(f"{program} --version prints no version", hint="check that it is QEMU")
    return found[1].decode()


class Running:
    """A running machine; made by ``running``."""

    def __init__(self, hypervisor: Popen[bytes], commands: Path, folder: Path) -> None:
        self._hypervisor = hypervisor
        self._commands = commands
        self._folder = folder
        self._messages = b""
        self._open = selectors.DefaultSelector()
        for stream in (hypervisor.stdout, hypervisor.stderr):
            assert stream is not None
            self._open.register(stream, selectors.EVENT_READ)

    def read(self, seconds: float) -> bytes | None:
        """Return bytes of the console, none if none came in time; None when the machine has ended."""
        piece = b""
        for key, _ in self._open.select(max(0.0, seconds)):
            stream = key.fileobj
            assert isinstance(stream, io.BufferedReader)
            data = stream.read1(_PIECE)
            if not data:
                self._open.unregister(stream)
            elif stream is self._hypervisor.stdout:
                piece = data
            else:
                self._messages = (self._messages + data)[-_MOST_MESSAGES:]
        if not piece and not self._open.get_map():
            return None
        return piece

    def messages(self) -> str:
        """Return the hypervisor's own messages."""
        return " ".join(self._messages.decode(errors="replace").split())

    def status(self) -> int:
        """Return the exit status of a hypervisor that has closed its console; negative for a signal."""
        return process.last_status(self._hypervisor, patience=_MONITOR_LIMIT)

    def screen(self) -> Path:
        """Return a picture of the screen in PPM, a file that is removed with the machine."""
        picture = self._folder / "screen.ppm"
        write_screen(self._commands, picture, limit=_MONITOR_LIMIT)
        return picture

    def answers(self, port: int) -> bool:
        """Return whether a port of the guest accepts connections.

        QEMU's user network accepts every connection at once, before it asks the guest; so either the guest
        sends something, or QEMU says that the guest has accepted (ADR 0037).
        """
        host = self._forwarded().get(port)
        if host is None:
            return False
        try:
            with socket.create_connection(("127.0.0.1", host), timeout=_LISTEN) as connection:
                with contextlib.suppress(TimeoutError):
                    if connection.recv(1):
                        return True
                    time.sleep(_LISTEN)  # the guest refused: it may be asked again, but not at once
                    return False
                return any(
                    row["state"] in _ANSWERED and int(row["host"]) == host and int(row["guest"]) == port
                    for row in self._table()
                )
        except OSError:
            return False

    def _table(self) -> list[re.Match[str]]:
        return list(_CONNECTION.finditer(network_table(self._commands, limit=_MONITOR_LIMIT)))

    def _forwarded(self) -> dict[int, int]:
        return {
            int(row["guest"]): int(row["host"]) for row in self._table() if row["state"] == "HOST_FORWARD"
        }


@contextmanager
def running(machine: Machine, accelerator: str, ports: tuple[int, ...]) -> Iterator[Running]:
    """Start a machine, and end it when the block ends."""
    found = find_firmware(machine)
    with private_folder() as folder:
        firmware = None
        if found is not None:
            firmware = (found[0], folder / "variables.fd")
            with explaining(firmware[1]):
                shutil.copyfile(found[1], firmware[1])
        commands = folder / "monitor"
        command = headless_command(machine, accelerator, commands, ports, firmware)
        command[0] = process.require_program(command[0])
        limit = ["prlimit", f"--fsize={_write_limit()}", "--core=0", "--"]
        hypervisor: Popen[bytes] | None = None
        try:
            with uninterrupted():
                hypervisor = process.start(
                    [*process.bound_to(os.getpid()), *limit, *command],
                    stdout=process.PIPE,
                    stderr=process.PIPE,
                )
            yield Running(hypervisor, commands, folder)
        finally:
            with uninterrupted():
                if hypervisor is not None:
                    process.end_group(hypervisor)
                    for stream in (hypervisor.stdout, hypervisor.stderr):
                        if stream is not None:
                            stream.close()


def _write_limit() -> int:
    """Return how much the guest may write: never more than half of the free space."""
    folder = temporary_dir()
    with explaining(folder):
        free = shutil.disk_usage(folder).free
    return max(_LEAST_WRITTEN, min(_MOST_WRITTEN, free // 2))


def write_pictures(screen: Path, whole: Path, thumbnail: Path) -> None:
    """Write a picture in PPM as PNG, and as a small PNG with black borders where its shape differs.

    A file that is too large, or not a picture, is a DiskError.
    """
    try:
        with Image.open(screen, formats=["PPM"]) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise DiskError(f"the guest's screen of {opened.width}x{opened.height} pixels is too large")
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DiskError(f"the picture of the guest's screen cannot be read: {error}") from error
    small = picture.copy()
    small.thumbnail(_THUMBNAIL)
    canvas = Image.new("RGB", _THUMBNAIL)
    canvas.paste(small, ((_THUMBNAIL[0] - small.width) // 2, (_THUMBNAIL[1] - small.height) // 2))
    try:
        picture.save(whole, format="PNG", optimize=True)
        canvas.save(thumbnail, format="PNG", optimize=True)
    except OSError as error:
        raise DiskError(f"the picture of the guest's screen cannot be written: {error.strerror}") from error
