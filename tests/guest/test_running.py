"""An ordinary user runs a template on a real terminal, logs in, reaches a port, and nothing is left.

What ``pybuilder run`` starts is emulated, so a boot takes a minute or more.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.terminal import Terminal
from tests.guest.conftest import long
from tests.guest.machine import free_port
from tests.guest.person import Person, leftovers, person_id

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1200)]
BOOT = 600.0
"""Seconds for a boot on a busy machine."""
WORDS = ("run", "debian-12", "--hostname", "runner", "--memory", "768")


@contextmanager
def running(person: Person, *words: str) -> Iterator[Terminal]:
    """Run pybuilder on a terminal; at the end the terminal is as before, and nothing is left."""
    environment = person.environment({"PYBUILDER_HOSTSIDE": "auto", "TERM": "xterm"})
    terminal = Terminal(person.command("pybuilder", *WORDS, *words), environment, person.home)
    try:
        yield terminal
        assert terminal.settings() == terminal.before
        assert hypervisors(person) == []
        assert leftovers(person, [person.home]) == []
        assert list(person.home.glob("*.qcow2")) == []
    finally:
        terminal.close()


def hypervisors(person: Person) -> list[str]:
    """Return the hypervisors that the person runs; one that was just killed has some seconds."""
    end = time.monotonic() + 10
    while (found := _hypervisors(person)) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def _hypervisors(person: Person) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if process.stat().st_uid == person_id(person) and "qemu-system" in words:
                found.append(words)
        except OSError:
            continue
    return found


def greeting(port: int, limit: float) -> bytes:
    """Return what the guest's SSH server sends first; QEMU accepts connections before that is there."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            try:
                if data := connection.recv(8):
                    return data
            except OSError:
                pass
        time.sleep(1)
    return b""


def test_the_console_is_here_and_a_port_is_forwarded(configured: Person) -> None:
    port = free_port()
    with running(configured, "--forward", f"{port}:22") as terminal:
        password = terminal.wait_for(r"log in as root with the password (\w+)\s", 300)[1]
        terminal.wait_for(f"tcp port {port} of this machine is port 22 of the guest", 20)
        assert terminal.wait_for(r"Log in as root with the password (\w+)\s", BOOT)[1] == password
        terminal.wait_for("runner login: ", 120)
        terminal.type("root\r")
        terminal.wait_for("Password: ", 120)
        terminal.type(f"{password}\r")
        terminal.wait_for("root@runner:~# ", 120)
        terminal.type("touch left; sleep 1000\r")
        time.sleep(3)
        terminal.type("\x03")  # is for the guest
        terminal.wait_for("root@runner:~# ", 60)
        terminal.type("echo $((6 * 7)) $(stat -c %s left)\r")
        terminal.wait_for(r"[\r\n]42 0\r", 60)
        assert greeting(port, BOOT) == b"SSH-2.0-"
        terminal.type("\x01x")
        assert terminal.wait(60) == 0
    with running(configured, "--forward", f"{port}:22") as terminal:
        again = terminal.wait_for(r"log in as root with the password (\w+)\s", 120)[1]
        assert again == password, "it was not built again"
        assert "Setting the hostname" not in terminal.text
        os.kill(terminal.process.pid, 15)
        assert terminal.wait(60) == 128 + 15


@long
def test_root_is_logged_in_by_ssh_and_the_session_ends_the_machine(configured: Person) -> None:
    with running(configured, "--ssh") as terminal:
        terminal.wait_for("Waiting for the SSH server of the guest", 300)
        terminal.wait_for("root@runner:~# ", BOOT)
        terminal.type("echo $((6 * 7)); cat left\r")
        terminal.wait_for(r"[\r\n]42\r", 60)
        terminal.wait_for("cat: left: No such file", 60)
        terminal.type("exit 3\r")
        assert terminal.wait(60) == 3
