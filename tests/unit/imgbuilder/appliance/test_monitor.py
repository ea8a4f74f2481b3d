"""Commands to a hypervisor: QEMU itself, and hypervisors that fail or answer with nonsense."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from imgbuilder.appliance import monitor
from imgbuilder.errors import ApplianceError

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n'
DONE = b'{"return": {}}\n'


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Path]:
    """The monitor of a QEMU with a machine that does nothing."""
    path = tmp_path / "monitor"
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-m", "8", "-accel", "tcg"]
    command += ["-netdev", "user,id=n", "-device", "e1000,netdev=n", "-vga", "std"]
    running = subprocess.Popen([*command, "-qmp", f"unix:{path},server=on,wait=off"])
    end = time.monotonic() + 30
    while not path.exists():
        assert running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    yield path
    running.kill()
    running.wait()


def test_real_machine(qemu: Path, tmp_path: Path) -> None:
    monitor.write_screen(qemu, tmp_path / "screen.ppm", limit=20)
    assert (tmp_path / "screen.ppm").read_bytes().startswith(b"P6")
    assert "VLAN" in monitor.network_table(qemu, limit=20) or "Hub" in monitor.network_table(qemu, limit=20)
    calls = []
    memory = os.open(tmp_path / "memory", os.O_WRONLY | os.O_CREAT)
    monitor.write_memory(qemu, memory, lambda: calls.append("paused"), limit=20)
    os.close(memory)
    assert (tmp_path / "memory").read_bytes().startswith(b"QEVM")
    monitor.end_machine(qemu, lambda: calls.append("set up"), limit=20)
    assert calls == ["paused", "set up"]


def test_reason_of_the_hypervisor_is_reported(qemu: Path, tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match=r"monitor failed: .*nothing.*No such file"):
        monitor.write_screen(qemu, tmp_path / "nothing" / "screen.ppm", limit=20)


@contextmanager
def hypervisor(path: Path, conversation: Callable[[socket.socket], object]) -> Iterator[Path]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            conversation(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    thread.join()
    listener.close()


def test_events_between_responses_are_passed_over(tmp_path: Path) -> None:
    def conversation(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        assert json.loads(connection.recv(4096))["execute"] == "qmp_capabilities"
        connection.sendall(b'{"event": "STOP"}\n' + DONE[:5])
        connection.sendall(DONE[5:])
        connection.recv(4096)
        connection.sendall(b'{"event": "RESUME"}\n{"return": "text"}\n')

    with hypervisor(tmp_path / "m", conversation) as path:
        assert monitor.network_table(path, limit=10) == "text"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "it closed the connection"),
        (b"[]\n", "its response cannot be read"),
        (b"\xff\n", "monitor failed"),
        (b'{"error": 7}\n', "monitor failed: 7"),
        (b"x" * 5_000_000, "its response is too long"),
    ],
)
def test_nonsense(tmp_path: Path, answer: bytes, problem: str) -> None:
    def conversation(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        connection.recv(4096)
        connection.sendall(answer)

    with (
        hypervisor(tmp_path / "m", conversation) as path,
        pytest.raises(ApplianceError, match=problem),
    ):
        monitor.network_table(path, limit=10)


def test_endless_events_end_at_the_limit(tmp_path: Path) -> None:
    def conversation(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        while True:
            connection.sendall(b'{"event": "STOP"}\n')
            time.sleep(0.01)

    with (
        hypervisor(tmp_path / "m", conversation) as path,
        pytest.raises(ApplianceError, match="did not answer within 1 seconds"),
    ):
        monitor.network_table(path, limit=1)


def test_no_hypervisor(tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match=r"monitor failed: .*No such file"):
        monitor.network_table(tmp_path / "m", limit=1)
