"""``pybuilder run`` and ``pybuilder machine``: a function for each verb."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from click.core import ParameterSource

from imgbuilder.appliance import Attachment
from imgbuilder.appliance.accelerator import kvm_verdict
from imgbuilder.building.preflight import check_disk
from imgbuilder.building.request import CustomizeRequest
from imgbuilder.building.target import find_file_target
from imgbuilder.cli.customizing import shell_with
from imgbuilder.cli.meant import comma_meant, refuse_mistyped
from imgbuilder.cli.requests import Call, appliance_options, build_request
from imgbuilder.customize.operation import Operation
from imgbuilder.customize.ops.accounts import RootPassword, SshInject
from imgbuilder.customize.passwords import PasswordSelector, PasswordSource
from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.disk.imageheader import check_other
from imgbuilder.errors import PybuilderError, UsageError, WorkspaceError
from imgbuilder.events import Step, ignore, warn
from imgbuilder.host import arch, paths
from imgbuilder.host.workspace import explaining, new_file
from imgbuilder.machine.libvirt import libvirt_xml, virt_install_command
from imgbuilder.machine.model import DEFAULT_MEMORY, Firmware, Machine, firmware_of
from imgbuilder.machine.runscript import run_script
from imgbuilder.running.checks import RunOptions, check_host
from imgbuilder.running.console import log_in, run_key_file, run_machine
from imgbuilder.running.images import ReadyImage, cached_image, customized_image, kept_image
from imgbuilder.terminal.reporter import show

_RANDOM = PasswordSelector(PasswordSource.RANDOM)
_IMAGES = frozenset({".img", *(f".{kind}" for kind in OutputFormat)})
"""Suffixes of images; another word without a slash names a template."""


def run(call: Call) -> int:
    """Run a template or an image; return 0, or the exit status of the login."""
    options = RunOptions(
        memory=call.options["memory"] or DEFAULT_MEMORY,
        processors=call.options["cpus"] or 1,
        graphic=call.options["graphic"],
        forwards=call.values.forwards,
        firmware=_chosen_firmware(call),
        ssh=call.options["ssh"],
        keep=call.options["keep"],
    )
    name = call.one_name("OS-VERSION or IMAGE", comma_meant(call) or "pybuilder run debian-12")
    check_host(options, arch.normalise(call.arch))
    if "/" in name or Path(name).suffix.lower() in _IMAGES:
        return _run_image(call, Path(name), options)
    return _run_template(call, name, options)


def _run_template(call: Call, name: str, options: RunOptions) -> int:
    given = call.ctx.get_parameter_source("output") is ParameterSource.COMMANDLINE
    if given and not options.keep:
        raise UsageError("-o names the image that --keep makes", hint="add --keep, or leave out -o")
    refuse_mistyped(call, name)
    services, reporter = call.services_with(guest_shell=shell_with(call.reporter)), call.reporter
    if Path(name).is_file():
        try:
            services.select(name, call.arch, ignore)
        except PybuilderError as error:
            error.hint = "; ".join(filter(None, [error.hint, f"to run the file: pybuilder run ./{name}"]))
            raise
    request = build_request(name, call.arch, call.options, call.values)
    # A random password is what root gets anyway, and the one of the run is remembered.
    asked = tuple(item for item in request.operations if item != RootPassword(_RANDOM))
    request = replace(request, operations=(*asked, *_key_operations(options)))
    if options.keep:
        return _start(call, kept_image(request, services, reporter), options)
    with cached_image(request, services, reporter) as image:
        return _start(call, image, options)


def _run_image(call: Call, path: Path, options: RunOptions) -> int:
    disk, found = _checked(call, path, readonly=not options.keep, in_use=True)
    image = ReadyImage(path.stem or path.name, path.absolute(), found)
    operations = call.values.operations
    if options.keep and operations:
        raise UsageError(
            f"--{operations[0].keyword} would stay in {path}",
            hint="leave out --keep, or use pybuilder-customize before",
        )
    if not options.keep:  # an image that is kept has the key of its first run, or the user's
        operations = (*operations, *_key_operations(options))
    if not operations:
        return _start(call, image, options)
    if disk is None:
        raise UsageError(
            f"{path} cannot be customized: it is a {found} image",
            hint="convert it first: qemu-img convert -O qcow2",
        )
    request = CustomizeRequest(
        (), operations=operations, keys=call.values.keys, appliance=appliance_options(call.options)
    )
    with customized_image(disk, request, call.services, call.reporter) as overlay:
        return _start(call, overlay, options)


def _key_operations(options: RunOptions) -> tuple[Operation, ...]:
    """Return the operation that lets this user log in as root; none without ``--ssh``."""
    if not options.ssh:
        return ()
    public = run_key_file().with_suffix(".pub")
    with explaining(public):
        return (SshInject("root", (public.read_text().strip(),)),)


def _start(call: Call, image: ReadyImage, options: RunOptions) -> int:
    chosen_arch = arch.normalise(call.arch)
    machine = Machine(
        name=image.name,
        image=image.path,
        format=image.format,
        arch=chosen_arch,
        firmware=options.firmware or _fitting_firmware(image.path, image.format, chosen_arch),
        memory=options.memory,
        processors=options.processors,
        graphic=options.graphic,
        forwards=options.forwards,
    )
    call.reporter.close()
    if options.ssh:
        return log_in(machine, run_key_file(), call.reporter, write=options.keep)
    run_machine(machine, call.reporter, write=options.keep, password=image.password)
    return 0


def machine_script(call: Call) -> None:
    """Write a shell script that runs an image with QEMU."""
    image, target = _image_and_target(call)
    place = image.parent.resolve() / image.name
    if target is not None:  # both can be moved together
        place = Path(os.path.relpath(place, target.parent.resolve()))
    _write(call, image, target, run_script(_machine(call, image, place)), 0o755)


def machine_libvirt(call: Call) -> None:
    """Write a domain of libvirt that runs an image."""
    _write_for_libvirt(call, libvirt_xml)


def machine_virt_install(call: Call) -> None:
    """Write the virt-install command for an image."""
    _write_for_libvirt(call, virt_install_command)


def _write_for_libvirt(call: Call, describe: Callable[..., str]) -> None:
    image, target = _image_and_target(call)
    machine = _machine(call, image, image.parent.resolve() / image.name)
    kvm = machine.arch == arch.host_arch()
    if kvm:
        verdict = kvm_verdict(paths.state_dir(), call.reporter)
        kvm = verdict.usable or verdict.forbidden  # libvirt has rights of its own
        if not kvm:
            warn(call.reporter, f"{verdict.reason}; emulation is written, which is slower")
    _write(call, image, target, describe(machine, kvm=kvm))


def _image_and_target(call: Call) -> tuple[Path, Path | None]:
    """Return the image, and the file to write; None for standard output."""
    output = call.options["output"]
    image = Path(call.one_name("IMAGE", f"pybuilder {call.label} debian-12.img"))
    return image, None if output in {None, "-"} else Path(output)


def _machine(call: Call, image: Path, place: Path) -> Machine:
    options, chosen_arch = call.options, arch.normalise(call.arch)
    _disk, found = _checked(call, image, readonly=True, in_use=False)
    return Machine(
        name=image.stem or image.name,
        image=place,
        format=found,
        arch=chosen_arch,
        firmware=_chosen_firmware(call) or _fitting_firmware(image, found, chosen_arch),
        memory=options["memsize"] or DEFAULT_MEMORY,
        processors=options["smp"] or 1,
        graphic=options["graphic"],
        forwards=call.values.forwards,
    )


def _checked(
    call: Call, image: Path, *, readonly: bool, in_use: bool
) -> tuple[Attachment | None, OutputFormat]:
    """Check an image; return it as a disk, or None where only QEMU can read it, and its format."""
    wanted = call.values.format
    if wanted is None or wanted.working is not None:
        given = Attachment(image, None if wanted is None else wanted.working, readonly=readonly)
        disk = check_disk(given, in_use=in_use)
        return disk, OutputFormat(str(disk.format))
    if not image.is_file():
        raise UsageError(f"{call.label} {image}: there is no such file")
    check_other(image, wanted.value)
    return None, wanted


def _chosen_firmware(call: Call) -> Firmware | None:
    chosen = call.options["firmware"]
    return None if chosen == "auto" else Firmware(chosen)


def _fitting_firmware(image: Path, found: OutputFormat, chosen_arch: str) -> Firmware:
    working = found.working
    return Firmware.BIOS if working is None else firmware_of(image, working, chosen_arch)


def _write(call: Call, image: Path, target: Path | None, text: str, mode: int = 0o644) -> None:
    call.reporter.close()
    if target is None:
        show(text)
        return
    place = find_file_target(target)
    if place.exists() and place.samefile(image):
        raise UsageError(f"the output {target} is the image itself", hint="give another name with -o")
    try:
        with new_file(place) as temporary:
            temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
        place.chmod(mode)
    except OSError as error:
        raise WorkspaceError(f"{target} cannot be written: {error.strerror}") from error
    call.reporter(Step(f"written: {target}"))
