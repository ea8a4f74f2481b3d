"""A built image, booted under QEMU: its serial console, and ports forwarded to the loopback interface."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.guest.person import Person

TEMPLATE_ROOT = "/dev/sda3"
"""The root of the template that the tests build from, as the appliance names it."""


HOST = "169.254.2.2"
"""This host as the appliance's network of QEMU calls it."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Machine:
    """A running machine."""

    def __init__(self, process: subprocess.Popen[bytes], ports: dict[int, int]) -> None:
        self.ports = ports
        self._process = process
        self._text = ""
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while piece := self._process.stdout.read1(65536):  # type: ignore[attr-defined]
            with self._news:
                self._text += piece.decode(errors="replace")
                self._news.notify_all()

    def wait(self, limit: float) -> None:
        """Wait until it is off."""
        self._process.wait(limit)

    @property
    def console(self) -> str:
        """Everything that the serial console showed so far."""
        with self._news:
            return self._text

    def wait_for(self, marker: str, limit: float) -> str:
        """Wait until the console shows ``marker``; return the console."""
        end = time.monotonic() + limit
        with self._news:
            while marker not in self._text:
                left = end - time.monotonic()
                if left <= 0 or self._process.poll() is not None:
                    raise AssertionError(
                        f"no {marker!r} on the console within {limit} s:\n{self._text[-4000:]}"
                    )
                self._news.wait(min(left, 1.0))
            return self._text


@contextmanager
def booted(
    person: Person,
    image: Path,
    image_format: str,
    ports: tuple[int, ...] = (),
    *,
    extra: tuple[str, ...] = (),
    network: bool = True,
    kept: bool = False,
) -> Iterator[Machine]:
    """Boot an image, with emulation, as the person; ``extra`` goes to QEMU.

    Nothing is written to the image unless it is ``kept``. Without ``network``, UEFI does not first wait for
    a boot server.
    """
    forwarded = {port: free_port() for port in ports}
    rules = "".join(f",hostfwd=tcp:127.0.0.1:{host}-:{guest}" for guest, host in forwarded.items())
    process = subprocess.Popen(
        person.command(
            "qemu-system-x86_64", "-accel", "tcg", "-m", "768", "-display", "none", "-serial", "stdio",
            "-monitor", "none", "-no-reboot",
            "-drive", f"file={image},format={image_format},if=virtio,snapshot={'off' if kept else 'on'}",
            "-nic", f"user,model=virtio-net-pci{rules}" if network else "none", *extra,
        ),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=person.environment(), start_new_session=True,
    )  # fmt: skip
    try:
        yield Machine(process, forwarded)
    finally:
        process.kill()
        process.wait()
