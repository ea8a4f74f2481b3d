"""Commands to a running hypervisor (QMP), through the QEMU project's library."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from imgbuilder.errors import ApplianceError
from imgbuilder.host.interrupts import uninterrupted

_BANDWIDTH = 16 * 1024**3
"""Bytes per second; QEMU's default limit is meant for networks."""
_PAUSE = 0.05


def write_memory(monitor: Path, memory: int, then: Callable[[], None], *, limit: float) -> None:
    """Write a machine's memory and devices to a file, call ``then`` while it is paused, and resume it.

    Args:
        monitor: The hypervisor's socket.
        memory: Descriptor of the file, open for writing.
        then: Called when everything is written and the machine and its disks are paused.
        limit: Seconds until it fails.
    """
    _run(_write_memory(monitor, memory, then), limit)


def write_screen(monitor: Path, picture: Path, *, limit: float) -> None:
    """Write a machine's first screen to a file, as a picture in PPM.

    Args:
        monitor: The hypervisor's socket.
        picture: Absolute path of the file, which the hypervisor writes.
        limit: Seconds until it fails.
    """
    _run(_execute(monitor, "screendump", {"filename": os.fspath(picture)}), limit)


def network_table(monitor: Path, *, limit: float) -> str:
    """Return the connections of a machine's user network, as the text of ``info usernet``."""
    # QMP has no command for this, only the monitor for people has one.
    order: dict[str, object] = {"command-line": "info usernet"}
    return str(_run(_execute(monitor, "human-monitor-command", order), limit))


def end_machine(monitor: Path, then: Callable[[], None], *, limit: float) -> None:
    """Wait until a machine is set up, call ``then``, and end the machine.

    Args:
        monitor: The hypervisor's socket.
        then: Called when the hypervisor answers; by then it has opened all disks.
        limit: Seconds until it fails.
    """
    _run(_end_machine(monitor, then), limit)


async def _end_machine(monitor: Path, then: Callable[[], None]) -> None:
    client = QMPClient("pybuilder")
    await client.connect(os.fspath(monitor))
    try:
        await client.execute("query-status")
        then()
        await client.execute("quit")
    finally:
        with contextlib.suppress(EOFError):  # it has ended already, as asked
            await client.disconnect()


async def _execute(monitor: Path, order: str, arguments: dict[str, object]) -> object:
    client = QMPClient("pybuilder")
    await client.connect(os.fspath(monitor))
    try:
        return await client.execute(order, arguments)
    finally:
        await client.disconnect()


def _run(orders: Any, limit: float) -> object:  # noqa: ANN401 - a coroutine
    try:
        # The event loop would swallow a signal's exception that is raised in one of its callbacks.
        with uninterrupted():
            return asyncio.run(asyncio.wait_for(orders, limit))
    except TimeoutError as error:
        raise ApplianceError(f"the hypervisor did not answer within {limit:.0f} seconds") from error
    except (QMPError, OSError, EOFError) as error:
        raise ApplianceError(f"the hypervisor's monitor failed: {error}") from error


async def _write_memory(monitor: Path, memory: int, then: Callable[[], None]) -> None:
    client = QMPClient("pybuilder")
    await client.connect(os.fspath(monitor))
    try:
        await client.execute("migrate-set-parameters", {"max-bandwidth": _BANDWIDTH})
        client.send_fd_scm(memory)
        await client.execute("getfd", {"fdname": "memory"})
        await client.execute("migrate", {"uri": "fd:memory"})
        while True:
            facts = await client.execute("query-migrate")
            status = facts.get("status") if isinstance(facts, dict) else None
            if status == "completed":
                break
            if status in ("failed", "cancelled", None):
                raise ApplianceError(f"the hypervisor did not write its memory: {facts}")
            await asyncio.sleep(_PAUSE)
        then()
        await client.execute("cont")
    finally:
        await client.disconnect()
