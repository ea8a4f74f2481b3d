"""``--run-script``, ``--libvirt-xml`` and ``--virt-install``: how to run an image that was built."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgbuilder.appliance import Attachment
from imgbuilder.building.localdisk import check_disk
from imgbuilder.building.target import find_file_target
from imgbuilder.cli.list_mode import show
from imgbuilder.cli.requests import Values
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.disk.imageheader import check_other
from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.events import Step
from imgbuilder.host import arch
from imgbuilder.host.workspace import new_file
from imgbuilder.machine.libvirt import libvirt_xml, virt_install_command
from imgbuilder.machine.model import DEFAULT_MEMORY, Firmware, Machine, firmware_of
from imgbuilder.machine.runscript import run_script
from imgbuilder.terminal.console import ConsoleReporter


def describe_machine(
    reporter: ConsoleReporter, options: Mapping[str, Any], values: Values, mode: str
) -> None:
    """Write what an option asks for, to standard output or to the file of ``--output``.

    Args:
        reporter: Reports what was written.
        options: The command line.
        values: What its values mean.
        mode: The option: ``run_script``, ``libvirt_xml`` or ``virt_install``.

    Raises:
        PybuilderError: The image is none, or the file cannot be written.
    """
    target = None if options["output"] in {None, "-"} else Path(options["output"])
    machine = _machine(f"--{mode.replace('_', '-')}", Path(options[mode]), options, values, target)
    kvm = machine.arch == arch.host_arch()
    match mode:
        case "run_script":
            text = run_script(machine)
        case "libvirt_xml":
            text = libvirt_xml(machine, kvm=kvm)
        case _:
            text = virt_install_command(machine, kvm=kvm)
    reporter.close()
    if target is None:
        show(text)
        return
    _write(target, Path(options[mode]), text, 0o755 if mode == "run_script" else 0o644)
    reporter(Step(f"written: {target}"))


def _machine(
    option: str, image: Path, options: Mapping[str, Any], values: Values, target: Path | None
) -> Machine:
    wanted = values.format
    chosen_arch = arch.normalise(options["arch_"] or arch.host_arch())
    firmware = None if options["firmware"] == "auto" else Firmware(options["firmware"])
    if wanted is None or wanted.working is not None:
        disk = check_disk(
            Attachment(image, None if wanted is None else wanted.working, readonly=True), in_use=False
        )
        found = OutputFormat(str(disk.format))
        if firmware is None:
            firmware = firmware_of(image, DiskFormat(str(disk.format)), chosen_arch)
    elif not image.is_file():
        raise UsageError(f"{option} {image}: there is no such file")
    else:  # nobody but QEMU reads these
        check_other(image, wanted.value)
        found = wanted
    place = image.parent.resolve() / image.name
    if option == "--run-script" and target is not None:
        place = Path(os.path.relpath(place, target.parent.resolve()))
    return Machine(
        name=image.stem or image.name,
        image=place,
        format=found,
        arch=chosen_arch,
        firmware=firmware or Firmware.BIOS,
        memory=options["memsize"] or DEFAULT_MEMORY,
        processors=options["smp"] or 1,
        graphic=options["graphic"],
        forwards=values.forwards,
    )


def _write(target: Path, image: Path, text: str, mode: int) -> None:
    place = find_file_target(target)
    if place.exists() and place.samefile(image):
        raise UsageError(f"the output {target} is the image itself", hint="give another name with -o")
    try:
        with new_file(place) as temporary:
            temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
        place.chmod(mode)
    except OSError as error:
        raise WorkspaceError(f"{target} cannot be written: {error.strerror}") from error
