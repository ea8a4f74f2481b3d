"""Commands to a hypervisor: QEMU itself, and hypervisors that fail or answer with nonsense."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from imgbuilder.appliance import monitor
from imgbuilder.errors import ApplianceError

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n'
DONE = b'{"return": {}}\n'


@contextmanager
def machine(path: Path, *more: str | Path) -> Iterator[Path]:
    """The monitor of a QEMU with a machine that does nothing."""
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-m", "8", "-accel", "tcg"]
    command += ["-netdev", "user,id=usernet", "-device", "e1000,netdev=usernet", "-vga", "std"]
    running = subprocess.Popen([*command, "-qmp", f"unix:{path},server=on,wait=off", *more])
    try:
        end = time.monotonic() + 30
        while not path.exists():
            assert running.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        yield path
    finally:
        running.kill()
        running.wait()


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Path]:
    with machine(tmp_path / "monitor") as path:
        yield path


@pytest.mark.parametrize("network", [True, False])
def test_a_machine_whose_memory_is_a_file_goes_on_in_another(tmp_path: Path, network: bool) -> None:
    """The state has no memory in it, and the second machine does not write to the file."""
    memory, devices = tmp_path / "memory", tmp_path / "devices"
    with memory.open("wb") as file:
        file.truncate(8 << 20)

    def words(share: str) -> list[str]:
        backend = f"memory-backend-file,id=memory,size=8M,mem-path={memory},share={share}"
        return ["-object", backend, "-machine", "memory-backend=memory"]

    copied = []
    with machine(tmp_path / "first", *words("on")) as path, devices.open("wb") as file:
        write = lambda: copied.append(memory.read_bytes())  # noqa: E731
        monitor.write_devices(path, file.fileno(), write, limit=20)
        assert state(path) == "running"
    assert any(copied[0]), "the firmware used it"
    assert devices.stat().st_size < 1 << 21
    memory.write_bytes(copied[0])
    before = memory.stat()
    with machine(tmp_path / "second", *words("off"), "-incoming", "defer") as path:
        assert state(path) == "inmigrate"
        monitor.read_devices(path, lambda: os.open(devices, os.O_RDONLY), network=network, limit=20)
        end = time.monotonic() + 20
        while state(path) != "running":
            assert time.monotonic() < end
        time.sleep(0.2)
        # From QEMU 10 on, a table says nothing: what was removed still has one.
        gone = nullcontext() if network else pytest.raises(ApplianceError, match="not found")
        with gone, monitor._Connection(path, 20) as hypervisor:
            hypervisor.execute("set_link", {"name": "usernet", "up": True})
    assert memory.read_bytes() == copied[0]
    assert (memory.stat().st_mtime_ns, memory.stat().st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


def state(path: Path) -> str:
    with monitor._Connection(path, 20) as hypervisor:
        facts = hypervisor.execute("query-status")
    assert isinstance(facts, dict)
    return str(facts["status"])


def test_real_machine(qemu: Path, tmp_path: Path) -> None:
    monitor.write_screen(qemu, tmp_path / "screen.ppm", limit=20)
    assert (tmp_path / "screen.ppm").read_bytes().startswith(b"P6")
    assert "VLAN" in monitor.network_table(qemu, limit=20) or "Hub" in monitor.network_table(qemu, limit=20)
    calls = []
    with (tmp_path / "devices").open("wb") as devices:
        monitor.write_devices(qemu, devices.fileno(), lambda: calls.append("paused"), limit=20)
    assert (tmp_path / "devices").read_bytes().startswith(b"QEVM")
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
