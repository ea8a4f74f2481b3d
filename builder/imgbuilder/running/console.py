"""A running machine, with its console or a login by SSH on this terminal.

The hypervisor ends with us, however we end: then its copy of the disk, which has no name, is gone as well.
The terminal gets its settings back even when the hypervisor is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from imgbuilder.appliance.accelerator import chosen_accelerator
from imgbuilder.appliance.monitor import press_power_button
from imgbuilder.errors import ApplianceError, GuestError, ToolError
from imgbuilder.events import Reporter, Step, info, warn
from imgbuilder.host import arch, paths, process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.locks import exclusive
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.host.text import printable
from imgbuilder.host.workspace import explaining
from imgbuilder.machine.model import Forward, Machine
from imgbuilder.machine.qemu import doubled, find_firmware, run_command
from imgindex.files import make_folder

_GRACE = 5.0
"""Seconds for the hypervisor to end by itself; it puts the terminal right then."""
_SSH_LIMIT = 600.0
"""Seconds for the SSH server of the guest; under emulation a first boot takes minutes."""
_ONE_TRY = 5.0
_PAUSE = 1.0
_POWER_LIMIT = 120.0
"""Seconds for the guest to shut down."""
_CONSOLE_TAIL = 2000
"""Characters of the console that an error quotes."""
_FAILED = 255
"""Status of ssh(1) for an error of its own, or a connection that was cut."""


def run_machine(machine: Machine, on_event: Reporter, *, write: bool, password: str | None) -> None:
    """Run a machine with its console on this terminal, or with a screen, until it ends.

    Args:
        machine: The machine.
        on_event: Called with each event.
        write: Whether the guest's changes to the disk are kept.
        password: Root's password, for the user.
    """
    with _files(machine) as (_folder, firmware):
        words = run_command(machine, _accelerator(machine, on_event), firmware, write=write)
        on_event(Step(f"Starting {machine.name}"))
        if password is not None:
            info(on_event, f"log in as root with the password {password}")
        for forward in machine.forwards:
            info(on_event, forward.describe())
        if not machine.graphic:
            info(
                on_event,
                "Ctrl-A, then X ends the machine; if its console stays empty, use --ssh or --graphic",
            )
        with _terminal_kept(), _hypervisor(words, stdin=0, stdout=1) as hypervisor:
            status = hypervisor.wait()
    if status:
        raise ToolError(f"{words[0]} ended with status {status}", hint="its own message is above")


def log_in(machine: Machine, key: Path, on_event: Reporter, *, write: bool) -> int:
    """Run a machine, log root in by SSH on this terminal, and end the machine with the session.

    Returns:
        The exit status of the session.
    """
    port = _free_port()
    reached = replace(machine, forwards=(*machine.forwards, Forward(port, 22)))
    with _files(machine) as (folder, firmware):
        monitor = folder / "monitor"
        words = run_command(reached, _accelerator(machine, on_event), firmware, write=write, serial="stdio")
        words += ["-qmp", f"unix:{doubled(monitor)},server=on,wait=off"]
        on_event(Step(f"Starting {machine.name}"))
        for forward in machine.forwards:
            info(on_event, forward.describe())
        with _hypervisor(words, stdin=None, stdout=process.PIPE) as hypervisor:
            assert hypervisor.stdout is not None
            console = _Console(hypervisor.stdout)
            on_event(Step("Waiting for the SSH server of the guest"))
            _wait_for_ssh(port, hypervisor, console)
            with _terminal_kept():
                status = process.run_on_terminal(_ssh(port, key))
            ended = _has_ended(hypervisor, _GRACE if status == _FAILED else 0)
            if write and not ended:
                on_event(Step("Shutting the guest down, which keeps its changes"))
                _shut_down(monitor, hypervisor, on_event)
    if status == _FAILED and not ended:
        raise GuestError(
            "root could not be logged in by SSH, or the connection was cut",
            hint="ssh's own message is above; without --ssh, the console of the guest is shown",
        )
    return 0 if status == _FAILED else status


def run_key_file() -> Path:
    """Return the private key for this user's guests, made at the first use, with its public one."""
    path = paths.state_dir() / "run" / "id_ed25519"
    make_folder(path.parent)
    with explaining(path), exclusive(path.parent / "lock", "is making the key for logging in"):
        if not path.exists():
            with private_folder(path.parent) as folder:
                new = folder / path.name
                process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pybuilder run", "-f", new])
                # The private key last, since it marks both as complete.
                new.with_suffix(".pub").replace(path.with_suffix(".pub"))
                new.replace(path)
    return path


def _accelerator(machine: Machine, on_event: Reporter) -> str:
    if not arch.can_run(arch.host_arch(), machine.arch):
        return "tcg"
    return "kvm" if chosen_accelerator(paths.state_dir(), on_event).usable else "tcg"


@contextmanager
def _files(machine: Machine) -> Iterator[tuple[Path, tuple[Path, Path] | None]]:
    """Yield a folder for sockets, and the firmware with a copy of its variables in it."""
    found = find_firmware(machine)
    with private_folder() as folder:
        if found is None:
            yield folder, None
            return
        code, variables = found
        with explaining(folder):
            shutil.copyfile(variables, folder / "variables.fd")
        yield folder, (code, folder / "variables.fd")


@contextmanager
def _hypervisor(words: list[str], *, stdin: int | None, stdout: int) -> Iterator[process.Popen[bytes]]:
    """Start the hypervisor, and end it when the block ends."""
    words = [process.require_program(words[0]), *words[1:]]
    hypervisor: process.Popen[bytes] | None = None
    try:
        with uninterrupted():
            # When we are killed, the kernel ends it gently, and it puts the terminal right.
            hypervisor = process.start(
                [*process.bound_to(os.getpid(), by="TERM"), *words],
                stdin=stdin, stdout=stdout, stderr=2,
                env={"TMPDIR": str(paths.temporary_dir())},  # for the copy of the disk
            )  # fmt: skip
        yield hypervisor
    finally:
        with uninterrupted():
            if hypervisor is not None:
                process.end_group(hypervisor, grace=_GRACE)
                if hypervisor.stdout is not None:
                    hypervisor.stdout.close()


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """Give the terminal back its settings when the block ends."""
    sys.stdout.flush()
    if not os.isatty(0):
        yield
        return
    settings, flags = termios.tcgetattr(0), fcntl.fcntl(0, fcntl.F_GETFL)
    try:
        yield
    finally:
        with uninterrupted(), contextlib.suppress(OSError, termios.error):  # it may have been closed
            # Otherwise the kernel would stop us here if we were in the background by now.
            before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            fcntl.fcntl(0, fcntl.F_SETFL, flags)
            termios.tcsetattr(0, termios.TCSANOW, settings)
            signal.signal(signal.SIGTTOU, before)


class _Console:
    """The serial console of a guest, which is not shown; its end is kept for errors."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._tail = stream, b""
        threading.Thread(target=self._read, name="console", daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed with the machine
            while piece := os.read(self._stream.fileno(), 1 << 16):
                self._tail = (self._tail + piece)[-_CONSOLE_TAIL:]

    def tail(self) -> str:
        """Return the last lines."""
        text = self._tail.decode(errors="replace").replace("\r", "")
        return "\n".join(printable(line) for line in text.split("\n")[-10:])


def _free_port() -> int:
    """Return a port of the loopback interface; if another program takes it meanwhile, QEMU fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_ssh(port: int, hypervisor: process.Popen[bytes], console: _Console) -> None:
    end = time.monotonic() + _SSH_LIMIT
    while not _ssh_answers(port):
        if hypervisor.poll() is not None:
            raise GuestError(f"the machine ended before its SSH server answered:\n{console.tail()}")
        if time.monotonic() >= end:
            raise GuestError(
                f"the guest's SSH server did not answer in {_SSH_LIMIT:.0f} seconds; its console:\n"
                f"{console.tail()}",
                hint="if it has none: --install openssh-server",
            )
        time.sleep(_PAUSE)


def _ssh_answers(port: int) -> bool:
    # QEMU accepts each connection before it asks the guest, so only the server's greeting (RFC 4253) counts.
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_ONE_TRY) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _ssh(port: int, key: Path) -> list[str | Path]:
    return [
        "ssh", "-F", "none", "-p", str(port), "-i", key, "-o", "LogLevel=ERROR",
        # The port is one of our own hypervisor, and each guest makes new host keys.
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        "root@127.0.0.1",
    ]  # fmt: skip


def _has_ended(hypervisor: process.Popen[bytes], patience: float) -> bool:
    """Return whether the hypervisor ends in time, because the guest was shut down."""
    end = time.monotonic() + patience
    while hypervisor.poll() is None:
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)
    return True


def _shut_down(monitor: Path, hypervisor: process.Popen[bytes], on_event: Reporter) -> None:
    try:
        press_power_button(monitor, limit=_GRACE)
        done = _has_ended(hypervisor, _POWER_LIMIT)
    except ApplianceError:
        done = _has_ended(hypervisor, _GRACE)
    if not done:
        warn(on_event, "the guest did not shut down, and was switched off: its last changes may be missing")
