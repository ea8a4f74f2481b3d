"""The machine that an entry runs on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.machine.look import firmware_of
from imgbuilder.machine.model import Machine
from imgrepo.scan import measure

if TYPE_CHECKING:
    from imgrepo.library.description import Description
    from imgrepo.scan import SourceImage


def machine_of(
    image: SourceImage, description: Description, *, tested: str | None = None, beside: bool = True
) -> Machine:
    """Describe the machine.

    Args:
        image: The entry's image.
        description: What its contributor says.
        tested: Version of QEMU that the image was booted with.
        beside: Whether the image lies beside the script that is made of this; else its path is absolute.

    Raises:
        DiskError: The image is damaged, or not what its name says.
    """
    measure(image)
    table = description.machine
    firmware = table.firmware or firmware_of(image.path, image.format, description.arch)
    return Machine(
        name=description.title or image.stem,
        image=Path(image.name) if beside else image.path.absolute(),
        format=OutputFormat.QCOW2 if image.format is DiskFormat.QCOW2 else OutputFormat.RAW,
        arch=description.arch,
        firmware=firmware,
        memory=table.memory,
        processors=table.processors,
        graphic=table.graphic,
        forwards=table.ports,
        hints=tuple(description.hints.splitlines()),
        tested=tested,
    )
