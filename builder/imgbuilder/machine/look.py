"""Finding out from an image which machine it needs, without an appliance."""

from __future__ import annotations

from pathlib import Path

from imgbuilder.disk import partition
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.machine.model import Firmware

_EFI_SYSTEM = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"


def firmware_of(image: Path, image_format: DiskFormat, arch: str) -> Firmware:
    """Tell which firmware can start an image; where both can, BIOS, which every QEMU has.

    Args:
        image: An image whose header was checked.
        image_format: Its format.
        arch: Its architecture; only PCs have a BIOS.

    Raises:
        DiskError: Its partition table cannot be read.
    """
    if arch not in {"x86_64", "i686"}:
        return Firmware.UEFI
    table = partition.read_table(image, image_format)
    if table is None:
        return Firmware.BIOS
    kinds = {part.kind.upper() for part in table.partitions}
    return Firmware.UEFI if _EFI_SYSTEM in kinds and _BIOS_BOOT not in kinds else Firmware.BIOS
