"""Commands to a running hypervisor, by the QEMU machine protocol (QMP)."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from imgbuilder.errors import ApplianceError
from imgbuilder.host.interrupts import uninterrupted

_BANDWIDTH = 16 * 1024**3
"""Bytes per second; QEMU's default limit is meant for networks."""
_PAUSE = 0.05
_SHORT_PAUSE = 0.002
_LONGEST = 4 * 1024**2
"""Bytes of one response; the hypervisor runs code of strangers."""


_WITHOUT_MEMORY = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
"""A machine's state has no memory in it that is an open file."""


def write_devices(monitor: Path, devices: int, then: Callable[[], None], *, limit: float) -> None:
    """Write the state of a machine's devices to a file, call ``then`` while it is paused, and let it go on.

    Args:
        monitor: The hypervisor's socket.
        devices: Descriptor of the file, open for writing.
        then: Called when everything is written and the machine and its disks are paused.
        limit: Seconds until it fails.
    """
    with uninterrupted(), _Connection(monitor, limit) as hypervisor:
        hypervisor.execute("migrate-set-capabilities", _WITHOUT_MEMORY)
        hypervisor.execute("migrate-set-parameters", {"max-bandwidth": _BANDWIDTH})
        hypervisor.execute("getfd", {"fdname": "devices"}, descriptor=devices)
        hypervisor.execute("migrate", {"uri": "fd:devices"})
        while True:
            facts = hypervisor.execute("query-migrate")
            status = facts.get("status") if isinstance(facts, dict) else None
            if status == "completed":
                break
            if status in ("failed", "cancelled", None):
                raise ApplianceError(f"the hypervisor did not write its state: {facts}")
            time.sleep(_PAUSE)
        then()
        hypervisor.execute("cont")


def read_devices(monitor: Path, devices: Callable[[], int], *, network: bool, limit: float) -> None:
    """Start a waiting machine with the saved state of its devices.

    Args:
        monitor: The hypervisor's socket.
        devices: Opens the file; called when the hypervisor has opened all disks.
        network: Whether the machine keeps its network, ``usernet``.
        limit: Seconds until it fails.
    """
    with _Connection(monitor, limit) as hypervisor:
        hypervisor.execute("migrate-set-capabilities", _WITHOUT_MEMORY)
        descriptor = devices()
        try:
            hypervisor.execute("getfd", {"fdname": "devices"}, descriptor=descriptor)
        finally:
            os.close(descriptor)
        hypervisor.execute("migrate-incoming", {"uri": "fd:devices"})
        if not network:
            while not _runs(hypervisor.execute("query-status")):
                time.sleep(_SHORT_PAUSE)
            # From QEMU 10 on, what is removed still works until its card is removed too: so nothing may pass.
            hypervisor.execute("set_link", {"name": "usernet", "up": False})
            hypervisor.execute("netdev_del", {"id": "usernet"})


def _runs(status: object) -> bool:
    return isinstance(status, dict) and status.get("running") is True


def write_screen(monitor: Path, picture: Path, *, limit: float) -> None:
    """Write a machine's first screen to a file, as a picture in PPM.

    Args:
        monitor: The hypervisor's socket.
        picture: Absolute path of the file, which the hypervisor writes.
        limit: Seconds until it fails.
    """
    with _Connection(monitor, limit) as hypervisor:
        hypervisor.execute("screendump", {"filename": os.fspath(picture)})


def network_table(monitor: Path, *, limit: float) -> str:
    """Return the connections of a machine's user network, as the text of ``info usernet``."""
    # QMP has no command for this, only the monitor for people has one.
    with _Connection(monitor, limit) as hypervisor:
        return str(hypervisor.execute("human-monitor-command", {"command-line": "info usernet"}))


def press_power_button(monitor: Path, *, limit: float) -> None:
    """Ask the guest of a machine to shut down."""
    with _Connection(monitor, limit) as hypervisor:
        hypervisor.execute("system_powerdown")


def end_machine(monitor: Path, then: Callable[[], None], *, limit: float) -> None:
    """Wait until a machine is set up, call ``then``, and end the machine.

    Args:
        monitor: The hypervisor's socket.
        then: Called when the hypervisor answers; by then it has opened all disks.
        limit: Seconds until it fails.
    """
    with _Connection(monitor, limit) as hypervisor:
        hypervisor.execute("query-status")
        then()
        hypervisor.execute("quit")


class _Connection:
    """A connection to a hypervisor's monitor, ready for commands; every failure is an ``ApplianceError``.

    Args:
        monitor: The hypervisor's socket.
        limit: Seconds for all commands together.
    """

    def __init__(self, monitor: Path, limit: float) -> None:
        self._monitor, self._limit = monitor, limit
        self._end = time.monotonic() + limit
        self._socket = socket.socket(socket.AF_UNIX)
        self._received = b""

    def __enter__(self) -> _Connection:
        try:
            self._socket.settimeout(self._left())
            self._socket.connect(os.fspath(self._monitor))
            self._message()  # its greeting
            self._answer("qmp_capabilities", {}, [])
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._socket.close()
        if isinstance(error, TimeoutError):
            raise ApplianceError(f"the hypervisor did not answer within {self._limit:.0f} seconds") from error
        if isinstance(error, OSError | EOFError | ValueError):
            raise ApplianceError(f"the hypervisor's monitor failed: {error}") from error

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, descriptor: int | None = None
    ) -> object:
        """Carry out a command and return what it returns.

        Args:
            command: Its name.
            arguments: Its arguments.
            descriptor: An open file that is handed over with the command.
        """
        return self._answer(command, arguments or {}, [] if descriptor is None else [descriptor])

    def _answer(self, command: str, arguments: Mapping[str, object], descriptors: list[int]) -> object:
        order = json.dumps({"execute": command, "arguments": arguments}).encode()
        self._socket.settimeout(self._left())
        socket.send_fds(self._socket, [order], descriptors)
        while True:
            message = self._message()
            if "return" in message:
                return message["return"]
            if "error" in message:
                error = message["error"]
                raise ValueError(error.get("desc") if isinstance(error, dict) else error)
            # Everything else is an event.

    def _message(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            self._socket.settimeout(self._left())
            piece = self._socket.recv(65536)
            if not piece:
                raise EOFError("it closed the connection")
            self._received += piece
            if len(self._received) > _LONGEST:
                raise ValueError("its response is too long")
        line, _, self._received = self._received.partition(b"\n")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("its response cannot be read")  # noqa: TRY004 - of the response, not of an argument
        return message

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
