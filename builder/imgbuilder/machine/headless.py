"""The machine for a boot check: a program reads its serial console and its screen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import ToolError
from imgbuilder.machine.model import Firmware, Machine, board

_SCREEN_MEMORY = 64 << 20
"""Bytes for the screen, whose size the guest chooses: 16 million pixels."""


@dataclass(frozen=True)
class Headless:
    """Further settings of a machine that a program watches.

    Attributes:
        accelerator: ``kvm`` or ``tcg``.
        monitor: Path of the hypervisor's socket for commands (QMP).
        ports: TCP ports of the guest that this host can reach, on ports of its loopback interface that the
            hypervisor chooses.
        firmware: UEFI firmware's code, and a copy of its variables that may be written to; None for a BIOS.
    """

    accelerator: str
    monitor: Path
    ports: tuple[int, ...] = ()
    firmware: tuple[Path, Path] | None = None


def find_firmware(machine: Machine) -> tuple[Path, Path] | None:
    """Find the firmware's code and empty variables of a machine; None for a BIOS, which QEMU has.

    Raises:
        ToolError: It is not installed.
        UsageError: The architecture is not known.
    """
    if machine.firmware is Firmware.BIOS:
        return None
    for code, variables in board(machine.arch).firmware:
        if os.access(code, os.R_OK) and os.access(variables, os.R_OK):
            return Path(code), Path(variables)
    raise ToolError(
        f"there is no UEFI firmware for machines of {machine.arch}",
        hint=f"on Debian: apt-get install {board(machine.arch).package}",
    )


def headless_command(machine: Machine, check: Headless) -> list[str]:
    """Return the program and its arguments; the serial console is standard output.

    The image is only read: the guest's changes go to an unnamed file in TMPDIR. The network is closed except
    for the forwarded ports (``restrict``). The hypervisor may not start programs. A PC's BIOS also writes to
    the serial console (``graphics=off``), where a check can read that there is nothing to boot, and the
    network card has no ROM to boot from.

    Args:
        machine: The machine; the image must be absolute.
        check: Further settings.

    Raises:
        UsageError: The architecture is not known.
    """
    facts = board(machine.arch)
    pc = machine.arch != "aarch64"
    network = "user,id=net0,restrict=on"
    network += "".join(f",hostfwd=tcp:127.0.0.1:0-:{port}" for port in check.ports)
    words = [
        facts.program, "-nodefaults", "-no-user-config",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-machine", f"{facts.machine},graphics=off" if pc else facts.machine,
        "-accel", check.accelerator, "-cpu", "max",
        "-smp", str(machine.processors), "-m", str(machine.memory),
        "-display", "none", "-serial", "stdio",
        "-chardev", f"socket,id=monitor,path={_word(check.monitor)},server=on,wait=off",
        "-mon", "chardev=monitor,mode=control",
        "-drive", f"if=none,id=disk0,file={_word(machine.image)},format={machine.format.value},snapshot=on",
        "-device", "virtio-blk-pci,drive=disk0,bootindex=0",
        "-netdev", network, "-device", "virtio-net-pci,netdev=net0,romfile=",
        "-device", "virtio-rng-pci",
        "-device", f"{'virtio-vga' if pc else 'virtio-gpu-pci'},max_hostmem={_SCREEN_MEMORY}",
    ]  # fmt: skip
    if check.firmware is not None:
        code, variables = check.firmware
        words += ["-drive", f"if=pflash,format=raw,readonly=on,file={_word(code)}"]
        words += ["-drive", f"if=pflash,format=raw,file={_word(variables)}"]
    return words


def _word(path: Path) -> str:
    """Double the commas, which end a name for QEMU otherwise."""
    return str(path).replace(",", ",,")
