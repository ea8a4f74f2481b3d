"""Ways to run an entry: a script for QEMU, and input for libvirt."""

from __future__ import annotations

import enum
from pathlib import Path

from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.events import Reporter
from imgbuilder.host.workspace import explaining
from imgbuilder.machine.libvirt import libvirt_xml, virt_install_command
from imgbuilder.machine.model import Machine, firmware_of
from imgbuilder.machine.runscript import run_script
from imgrepo.images.scan import SourceImage, measure
from imgrepo.library.description import Description
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import BOOT_FILE, Verdict
from imgrepo.recordfile import write_text


class Form(enum.Enum):
    """A kind of input for libvirt; users type its value."""

    XML = "libvirt-xml"
    VIRT_INSTALL = "virt-install"


def write_run_script(folder: EntryFolder, on_event: Reporter) -> Path:
    """Write the script ``run`` of an entry, for the machine in its ``entry.toml``, and return its path.

    The script warns about a QEMU older than the one of the boot check.
    """
    text = run_script(script_machine(folder, on_event))
    write_text(folder.run_script, text)
    with explaining(folder.run_script):
        mode = folder.run_script.stat().st_mode
        folder.run_script.chmod(mode | (mode & 0o444) >> 2)
    return folder.run_script


def script_machine(folder: EntryFolder, on_event: Reporter) -> Machine:
    """Return the machine that the script starts; its image is in the script's folder."""
    return machine_of(folder.image(), folder.read(), tested=_tested(folder, on_event))


def machine_text(folder: EntryFolder, form: Form, on_event: Reporter) -> str:
    """Return the input for libvirt; the image's path in it is absolute."""
    machine = machine_of(folder.image(), folder.read(), tested=_tested(folder, on_event), relative=False)
    return libvirt_xml(machine) if form is Form.XML else virt_install_command(machine)


def _tested(folder: EntryFolder, on_event: Reporter) -> str | None:
    record = BOOT_FILE.read(folder.boot)
    if record is None or record.verdict is not Verdict.BOOTED:
        return None
    return record.qemu or None if record.image.fits(folder.image(), on_event) else None


def machine_of(
    image: SourceImage, description: Description, *, tested: str | None = None, relative: bool = True
) -> Machine:
    """Return the machine that an entry runs on; ``tested`` is the version of QEMU that booted the image.

    The image is in the folder of the script, or, unless it is ``relative``, at an absolute path.
    """
    measure(image)
    table = description.machine
    firmware = table.firmware or firmware_of(image.path, image.format, description.arch)
    return Machine(
        name=description.title or image.stem,
        image=Path(image.name) if relative else image.path.absolute(),
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
