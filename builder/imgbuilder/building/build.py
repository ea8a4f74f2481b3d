"""Builds an image from a template: prepare, fetch, copy and grow, customize, finish."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.appliance import Attachment
from imgbuilder.building.output import OutputWriter, open_output, scratch_folder
from imgbuilder.building.plan import BuildPlan
from imgbuilder.building.preflight import Prepared, prepare
from imgbuilder.building.request import BuildRequest
from imgbuilder.customize import run as customization
from imgbuilder.customize.context import GuestContext, read_facts
from imgbuilder.customize.failure import FailureHandler
from imgbuilder.customize.network import guest_proxies, host_proxies
from imgbuilder.disk import imageheader, partition
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import OperationError
from imgbuilder.events import Reporter, Step
from imgbuilder.growth import decide as growth
from imgbuilder.growth import session
from imgbuilder.growth.decide import Growth
from imgbuilder.guests.ports import Appliance, FilesystemUse
from imgbuilder.host import arch, workspace
from imgbuilder.services import Services
from imgbuilder.sizes import human_size


@dataclass(frozen=True)
class BuildResult:
    """The finished image.

    Attributes:
        path: The image.
        format: Its format.
        size: Its virtual size in bytes.
        filesystems: Space of the guest's filesystems.
        root_password: The random root password, when one was set.
    """

    path: Path
    format: OutputFormat
    size: int
    filesystems: tuple[FilesystemUse, ...]
    root_password: str | None


def build(request: BuildRequest, services: Services, on_event: Reporter) -> BuildResult:
    """Build an image.

    Returns:
        Facts about the finished image, which is durable at its final place.

    Raises:
        PybuilderError: It could not be built; an older file at the output's place is still there,
            unless ``delete_on_failure`` is off or ``on_error`` keeps the image.
    """
    on_event = customization.mask(request.operations, host_proxies(os.environ)).reporter(on_event)
    prepared = prepare(request, services, on_event)
    image = prepared.plan.image
    scratch = scratch_folder(image)
    handler = FailureHandler(prepared.selection.entry.os_version, request.on_error, services.guest_shell)
    with (
        services.open_cache(scratch, on_event) as cache,
        open_output(
            prepared.plan,
            on_event,
            keep_on_failure=lambda: handler.keep or not request.delete_on_failure,
            sync=request.sync,
        ) as output,
        # Innermost: it measures the free space, and the outer blocks free some by removing temporary files.
        workspace.blaming_full_disk(scratch),
    ):
        disk = services.template_disk(cache, prepared.selection, on_event)
        plan = _with_format(prepared.plan, disk)
        growing = _fill(output, plan, disk, on_event, has_keys=bool(request.keys))
        on_event(Step("Opening the new disk"))
        options = services.settings.appliance_options(request.appliance, network=prepared.network)
        sector_size = partition.sector_size(output.path, output.format)
        disks = [Attachment(output.path, output.format, sector_size=sector_size), *prepared.attachments]
        with services.open_appliance(disks, options, on_event) as appliance:
            session.open_guest(
                appliance,
                expand=plan.template.expand,
                lvexpand=plan.template.lvexpand,
                growth=growing,
                keys=request.keys,
                on_event=on_event,
            )
            appliance.show_attached()
            outcome = _customize(request, prepared, appliance, on_event, handler)
            uses = tuple(appliance.filesystem_use())
            on_event(Step("Finishing off"))
            appliance.unmount_all()
            appliance.shutdown()
    return BuildResult(image.path, image.format, plan.size, uses, outcome.root_password)


def summary(result: BuildResult) -> str:
    """Return the table that is printed after a build, in virt-builder's form (docs/compatibility.md)."""
    total = sum(use.total for use in result.filesystems)
    free = sum(use.free for use in result.filesystems)
    rows = [
        ("Output file", str(result.path)),
        ("Output size", human_size(result.size)),
        ("Output format", result.format.value),
    ]
    if total:
        rows += [
            ("Total usable space", human_size(total)),
            ("Free space", f"{human_size(free)} ({100 * free // total}%)"),
        ]
    return "\n".join(f"{label:>30}: {value}" for label, value in rows)


def _with_format(plan: BuildPlan, disk: Path) -> BuildPlan:
    """Return the plan with the template's format; if the index names none, the header decides it."""
    if plan.template.format is not None:
        return plan
    return plan.with_format(DiskFormat(imageheader.find_format(disk, plan.template.size, role=Role.TEMPLATE)))


def _fill(
    output: OutputWriter, plan: BuildPlan, disk: Path, on_event: Reporter, *, has_keys: bool
) -> Growth | None:
    """Fill the output with the template's unpacked disk and grow its partition table; return what grows."""
    template = plan.template
    assert template.format is not None
    growing = None
    if plan.grows:
        growing = growth.check_growable(
            disk, template.format, template.expand, template.lvexpand, plan.size, has_keys=has_keys
        )
    output.fill(disk, template.format, plan.size)
    if growing is not None:
        on_event(Step(f"Resizing (in place) to expand the disk to {human_size(plan.size)}"))
        growth.grow_table(output.path, output.format, growing)
    return growing


def _customize(
    request: BuildRequest,
    prepared: Prepared,
    appliance: Appliance,
    on_event: Reporter,
    handler: FailureHandler,
) -> customization.CustomizeResult:
    """Customize the guest; on failure, keep the image if the user wants it."""
    context = _context(request, prepared, appliance)
    try:
        return customization.customize(appliance, request.operations, context, on_event, handler.rescue)
    except OperationError as error:
        explained = handler.explain(appliance, error)
        if handler.keep and prepared.plan.image.target.device is None:  # a device was not written to
            on_event(Step(f"Keeping the unfinished image: {prepared.plan.image.path}"))
            appliance.unmount_all()
            appliance.shutdown()
        raise explained from error


def _context(request: BuildRequest, prepared: Prepared, appliance: Appliance) -> GuestContext:
    guest_arch = arch.normalise(prepared.selection.entry.arch)
    return GuestContext(
        facts=read_facts(appliance),
        arch=guest_arch,
        runs_commands=arch.can_run(arch.host_arch(), guest_arch),
        network=prepared.network,
        proxies=guest_proxies(os.environ),
        implicit_root_password=True,
        follow=request.appliance.verbose,
        command_limit=request.command_timeout,
    )
