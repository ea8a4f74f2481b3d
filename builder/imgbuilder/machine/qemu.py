"""QEMU's arguments for a machine, and the firmware that it needs on this host."""

from __future__ import annotations

import os
from pathlib import Path

from imgbuilder.errors import ToolError
from imgbuilder.host.packages import install_hint
from imgbuilder.machine.model import Firmware, Machine, board

FirmwareFiles = tuple[Path, Path]
"""The code of a UEFI firmware, and its variables."""


def find_firmware(machine: Machine) -> FirmwareFiles | None:
    """Find the firmware's code and empty variables of a machine; None for a BIOS, which QEMU has."""
    if machine.firmware is Firmware.BIOS:
        return None
    for code, variables in board(machine.arch).firmware:
        if os.access(code, os.R_OK) and os.access(variables, os.R_OK):
            return Path(code), Path(variables)
    raise ToolError(
        f"UEFI firmware for machines of {machine.arch} is not installed",
        hint=install_hint(board(machine.arch).uefi),
    )


def run_command(
    machine: Machine,
    accelerator: str,
    firmware: FirmwareFiles | None = None,
    *,
    write: bool = False,
    serial: str = "mon:stdio",
) -> list[str]:
    """Return the program and its arguments that run a machine, as its script does.

    Args:
        machine: The machine.
        accelerator: ``kvm`` or ``tcg``.
        firmware: Code and a copy of its variables.
        write: Whether the guest's changes to the disk are kept.
        serial: The other end of the serial console of a machine without a screen.
    """
    facts = board(machine.arch)
    words = [
        facts.program, "-name", doubled(machine.name),
        "-machine", facts.machine, "-accel", accelerator, "-cpu", "max",
        "-smp", str(machine.processors), "-m", str(machine.memory),
        "-drive", drive(machine, snapshot=not write),
        # On a full host the guest gets errors; by default, it would stop without a word.
        "-device", "virtio-blk-pci,drive=disk0,werror=report",
        "-nic", network_card(machine), "-device", "virtio-rng-pci", *flash(firmware),
    ]  # fmt: skip
    if not machine.graphic:
        return [*words, "-display", "none", "-serial", serial]
    devices = (screen(machine), "qemu-xhci", "usb-tablet", "usb-kbd")
    return [*words, *(word for device in devices for word in ("-device", device))]


def drive(machine: Machine, *, snapshot: bool) -> str:
    """Return the drive ``disk0``; with ``snapshot``, changes go to a temporary file without a name."""
    kept = "on" if snapshot else "off"
    return f"if=none,id=disk0,file={doubled(machine.image)},format={machine.format.value},snapshot={kept}"


def network_card(machine: Machine) -> str:
    """Return the network card, on a user network whose forwarded ports only this host reaches."""
    forwards = [f"hostfwd={item.kind}:127.0.0.1:{item.host}-:{item.guest}" for item in machine.forwards]
    return ",".join(["user", "model=virtio-net-pci", *forwards])


def screen(machine: Machine) -> str:
    """Return the graphics card."""
    return "virtio-gpu-pci" if machine.arch == "aarch64" else "virtio-vga"


def flash(firmware: FirmwareFiles | None) -> list[str]:
    """Return the arguments for the memory of a UEFI firmware; none for a BIOS."""
    if firmware is None:
        return []
    code, variables = firmware
    return [
        "-drive", f"if=pflash,format=raw,readonly=on,file={doubled(code)}",
        "-drive", f"if=pflash,format=raw,file={doubled(variables)}",
    ]  # fmt: skip


def doubled(name: object) -> str:
    """Double the commas of a name, which would end it for QEMU."""
    return str(name).replace(",", ",,")
