"""The description of a virtual machine, and of the boards that QEMU emulates."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.disk.partition import read_table
from imgbuilder.errors import UsageError

DEFAULT_MEMORY = 1024
"""MiB: enough for a server without much on it."""
_EFI_SYSTEM = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
"""Types of GPT partitions."""
_FORWARD = re.compile(r"(?:(?P<host>[0-9]{1,5}):)?(?P<guest>[0-9]{1,5})(?:/(?P<kind>tcp|udp))?")


class Firmware(enum.Enum):
    """The firmware that starts the system on the disk."""

    BIOS = "bios"
    UEFI = "uefi"


@dataclass(frozen=True)
class Forward:
    """A port of the guest that can be reached from the host only."""

    host: int
    guest: int
    kind: str = "tcp"
    """``tcp`` or ``udp``."""

    @classmethod
    def parse(cls, text: str) -> Forward:
        """Read ``GUEST``, ``HOST:GUEST`` or ``HOST:GUEST/udp``; the host adds 8000 to ports below 1024."""
        found = _FORWARD.fullmatch(text)
        guest = int(found["guest"]) if found else 0
        host = int(found["host"]) if found and found["host"] else guest + 8000 * (guest < 1024)
        if found is None or not 0 < guest < 65536 or not 0 < host < 65536:
            raise UsageError(f"--forward {text!r} is not a port", hint="such as 80, 8080:80 or 5353:53/udp")
        return cls(host, guest, found["kind"] or "tcp")

    def describe(self) -> str:
        """Return a line about it for the user."""
        return f"{self.kind} port {self.host} of this machine is port {self.guest} of the guest"


@dataclass(frozen=True)
class Machine:
    """A machine that runs an image."""

    name: str
    image: Path
    """The image; absolute, or relative to the folder of the script."""
    format: OutputFormat
    arch: str = "x86_64"
    """Processor architecture, as QEMU calls it."""
    firmware: Firmware = Firmware.BIOS
    memory: int = DEFAULT_MEMORY
    """MiB."""
    processors: int = 1
    graphic: bool = False
    """The guest has a screen; otherwise its serial console is the terminal."""
    forwards: tuple[Forward, ...] = ()
    hints: tuple[str, ...] = ()
    """Lines of text for the user, shown before the start."""
    tested: str | None = None
    """Version of QEMU that the image was tested with, such as ``7.2``; None for none."""


@dataclass(frozen=True)
class Board:
    """QEMU's and libvirt's names for the machine of an architecture."""

    machine: str
    """QEMU's machine type; a changing alias, so that a script outlives the versions of QEMU."""
    serial: str
    program: str
    firmware: tuple[tuple[str, str], ...]
    """Places of the UEFI firmware's code and of its empty variables, in pairs."""
    uefi: str
    """Its name in the table of packages."""


_OVMF = ("/usr/share/OVMF", "/usr/share/edk2/ovmf", "/usr/share/edk2/x64", "/usr/share/qemu")
BOARDS = {
    "x86_64": Board(
        "q35",
        "ttyS0",
        "qemu-system-x86_64",
        (
            *((f"{place}/OVMF_CODE_4M.fd", f"{place}/OVMF_VARS_4M.fd") for place in _OVMF[:1]),
            *((f"{place}/OVMF_CODE.fd", f"{place}/OVMF_VARS.fd") for place in _OVMF[:2]),
            (f"{_OVMF[2]}/OVMF_CODE.4m.fd", f"{_OVMF[2]}/OVMF_VARS.4m.fd"),
            (f"{_OVMF[3]}/ovmf-x86_64-code.bin", f"{_OVMF[3]}/ovmf-x86_64-vars.bin"),
        ),
        "uefi-x86_64",
    ),
    "i686": Board(
        "q35",
        "ttyS0",
        "qemu-system-i386",
        (
            # It could check signatures, but its empty variables have no keys.
            (f"{_OVMF[0]}/OVMF32_CODE_4M.secboot.fd", f"{_OVMF[0]}/OVMF32_VARS_4M.fd"),
            ("/usr/share/edk2/ovmf-ia32/OVMF_CODE.fd", "/usr/share/edk2/ovmf-ia32/OVMF_VARS.fd"),
            ("/usr/share/edk2/ia32/OVMF_CODE.4m.fd", "/usr/share/edk2/ia32/OVMF_VARS.4m.fd"),
            ("/usr/share/qemu/ovmf-ia32-code.bin", "/usr/share/qemu/ovmf-ia32-vars.bin"),
        ),
        "uefi-i386",
    ),
    "aarch64": Board(
        "virt",
        "ttyAMA0",
        "qemu-system-aarch64",
        (
            ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
            (
                "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw",
                "/usr/share/edk2/aarch64/vars-template-pflash.raw",
            ),
            ("/usr/share/edk2/aarch64/QEMU_CODE.fd", "/usr/share/edk2/aarch64/QEMU_VARS.fd"),
            ("/usr/share/qemu/aavmf-aarch64-code.bin", "/usr/share/qemu/aavmf-aarch64-vars.bin"),
        ),
        "uefi-aarch64",
    ),
}
"""The architectures that can be described, by virt-builder's names."""


def board(arch: str) -> Board:
    """Return QEMU's names for the machine of an architecture."""
    name = "i686" if arch == "i386" else arch
    if name not in BOARDS:
        raise UsageError(
            f"machines of the architecture {arch} cannot be described", hint=f"known are {', '.join(BOARDS)}"
        )
    return BOARDS[name]


def needs_uefi(arch: str) -> bool:
    """Return whether the machine of an architecture has no BIOS."""
    return arch not in {"x86_64", "i686", "i386"}


def firmware_of(image: Path, image_format: DiskFormat, arch: str) -> Firmware:
    """Return the firmware that can start an image; where both can, BIOS, which every QEMU has."""
    if needs_uefi(arch):
        return Firmware.UEFI
    table = read_table(image, image_format)
    if table is None:
        return Firmware.BIOS
    kinds = {part.kind.upper() for part in table.partitions}
    return Firmware.UEFI if _EFI_SYSTEM in kinds and _BIOS_BOOT not in kinds else Firmware.BIOS
