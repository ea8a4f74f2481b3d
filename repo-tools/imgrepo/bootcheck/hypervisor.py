"""A machine that is being checked: QEMU, its console, its screen, its ports.

Whatever way the block is left, the hypervisor is gone, and so are its files.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgbuilder.appliance import monitor
from imgbuilder.errors import ToolError
from imgbuilder.host import process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.host.process import Popen
from imgbuilder.host.workspace import explain
from imgbuilder.machine.headless import Headless, find_firmware, headless_command
from imgbuilder.machine.model import Machine, board

_MONITOR_LIMIT = 10.0
"""Seconds in which the hypervisor has to do as told; no signal is heeded meanwhile."""
_VERSION_LIMIT = 60.0
_PIECE = 1 << 16
_WORDS = 4096
"""Bytes of the hypervisor's own complaints that are kept."""
_LISTEN = 0.5
"""Seconds that a port gets to send something, or to refuse."""
_VERSION = re.compile(rb"version ([0-9]+(?:\.[0-9]+)+)")
_CONNECTION = re.compile(
    r"^\s*TCP\[(?P<state>[A-Z_0-9]+)\]\s+-?\d+\s+(?P<source>\S+)\s+(?P<host>\d+)\s+\S+\s+(?P<guest>\d+)\s",
    re.MULTILINE,
)
_ANSWERED = {"ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "FIN_WAIT_2", "LAST_ACK", "CLOSING", "TIME_WAIT"}
"""States of a TCP connection (RFC 9293) that it gets into only after the other side has accepted it."""


def hypervisor_version(machine: Machine) -> str:
    """Return the version of the QEMU that runs a machine, such as ``7.2.11``.

    Raises:
        ToolError: It is not installed, or does not tell.
    """
    program = board(machine.arch).program
    found = _VERSION.search(process.run([program, "--version"], timeout=_VERSION_LIMIT).stdout)
    if found is None:
        raise ToolError(f"{program} --version does not tell its version", hint="is it QEMU?")
    return found[1].decode()


class Running:
    """A running machine; made by ``running``."""

    def __init__(self, hypervisor: Popen[bytes], orders: Path, folder: Path) -> None:
        self._hypervisor = hypervisor
        self._orders = orders
        self._folder = folder
        self._words = b""
        self._open = selectors.DefaultSelector()
        for stream in (hypervisor.stdout, hypervisor.stderr):
            assert stream is not None
            self._open.register(stream, selectors.EVENT_READ)

    def read(self, seconds: float) -> bytes | None:
        """Return what the console sent, nothing if nothing came in time; None when the machine has ended."""
        piece = b""
        for key, _ in self._open.select(max(0.0, seconds)):
            stream = key.fileobj
            assert not isinstance(stream, int)
            data: bytes = stream.read1(_PIECE)  # type: ignore[attr-defined]
            if not data:
                self._open.unregister(stream)
            elif stream is self._hypervisor.stdout:
                piece = data
            else:
                self._words = (self._words + data)[-_WORDS:]
        if not piece and not self._open.get_map():
            return None
        return piece

    def words(self) -> str:
        """Return what the hypervisor itself complained about."""
        return " ".join(self._words.decode(errors="replace").split())

    def status(self) -> int:
        """Return the exit status of the hypervisor that has closed its console; negative for a signal."""
        return process.last_status(self._hypervisor, patience=_MONITOR_LIMIT)

    def screen(self) -> Path:
        """Take a picture of the screen; return it, a file in PPM that is gone with the machine.

        Raises:
            ApplianceError: The hypervisor does not do it.
        """
        picture = self._folder / "screen.ppm"
        monitor.write_screen(self._orders, picture, limit=_MONITOR_LIMIT)
        return picture

    def answers(self, port: int) -> bool:
        """Tell whether a port of the guest accepts connections.

        QEMU's user network accepts every connection at once, before it asks the guest; so either the guest
        sends something, or QEMU says that the guest has accepted (ADR 0037).

        Raises:
            ApplianceError: The hypervisor does not tell.
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
        return list(_CONNECTION.finditer(monitor.network_table(self._orders, limit=_MONITOR_LIMIT)))

    def _forwarded(self) -> dict[int, int]:
        return {
            int(row["guest"]): int(row["host"]) for row in self._table() if row["state"] == "HOST_FORWARD"
        }


@contextmanager
def running(machine: Machine, accelerator: str, ports: tuple[int, ...]) -> Iterator[Running]:
    """Start a machine, and end it for certain when the block is left.

    Args:
        machine: What to run; nothing is written to its image.
        accelerator: ``kvm`` or ``tcg``.
        ports: TCP ports of the guest that will be asked.

    Raises:
        ToolError: QEMU, its firmware or setpriv is not installed.
        WorkspaceError: There is no room for temporary files.
    """
    found = find_firmware(machine)
    with private_folder() as folder:
        firmware = None
        if found is not None:
            firmware = (found[0], folder / "variables.fd")
            try:
                shutil.copyfile(found[1], firmware[1])
            except OSError as error:
                raise explain(error, firmware[1]) from error
        orders = folder / "monitor"
        words = headless_command(machine, Headless(accelerator, orders, ports, firmware))
        words[0] = process.require_program(words[0])
        hypervisor: Popen[bytes] | None = None
        try:
            with uninterrupted():
                # When we are killed, the kernel ends the hypervisor.
                hypervisor = process.start(
                    ["setpriv", "--pdeathsig", "KILL", "--", *words],
                    stdout=process.PIPE,
                    stderr=process.PIPE,
                )
            yield Running(hypervisor, orders, folder)
        finally:
            with uninterrupted():
                if hypervisor is not None:
                    process.end_group(hypervisor)
                    for stream in (hypervisor.stdout, hypervisor.stderr):
                        if stream is not None:
                            stream.close()
