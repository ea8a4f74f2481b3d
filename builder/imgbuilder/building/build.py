"""Building an image: the way from a request to a disk that boots."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from imgbuilder.appliance import Attachment
from imgbuilder.appliance.instant.settings import instant_mode
from imgbuilder.building import delivery
from imgbuilder.building.delivery import Work
from imgbuilder.building.localdisk import check_disk
from imgbuilder.building.place import find_place
from imgbuilder.building.plan import BuildPlan, Target, TemplateFacts, make_plan
from imgbuilder.building.request import BuildRequest, NetworkMode
from imgbuilder.cache.store import TemplateCache
from imgbuilder.cache.variants import files_of, usable
from imgbuilder.catalog.catalog import Selection
from imgbuilder.customize import run as customization
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import read_facts
from imgbuilder.customize.failure import FailureHandler
from imgbuilder.customize.network import guest_proxies, host_proxies
from imgbuilder.disk import imageheader, partition
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat, parse_format
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import OperationError, UsageError
from imgbuilder.events import Reporter, Step, warn
from imgbuilder.fetch.router import offline_error, will_ask
from imgbuilder.growth import decide as growth
from imgbuilder.growth import session
from imgbuilder.growth.decide import Growth
from imgbuilder.guests.ports import Appliance, FilesystemUse
from imgbuilder.host import arch, paths, sparse, workspace
from imgbuilder.services import Services
from imgbuilder.sizes import human_size
from imgindex.lifecycle import deprecation_notice


@dataclass(frozen=True)
class BuildResult:
    """What a build made.

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


@dataclass(frozen=True)
class Prepared:
    """A build that is decided but not begun.

    Attributes:
        selection: The template's entry and source.
        plan: What will be done.
        network: Whether the guest reaches the network.
        attachments: The user's disks for the appliance.
    """

    selection: Selection
    plan: BuildPlan
    network: bool
    attachments: tuple[Attachment, ...]


def prepare(request: BuildRequest, services: Services, on_event: Reporter) -> Prepared:
    """Decide how to build, and refuse what cannot work, before anything is downloaded or written.

    Raises:
        PybuilderError: The request cannot be met; nothing was changed.
    """
    customization.validate(request.operations)
    attachments = tuple(
        check_disk(replace(disk, readonly=True, attached=True)) for disk in request.attachments
    )
    instant_mode()  # refuses a wrong value before any work
    chosen = services.select_disk(request.template, request.arch, on_event)
    if (notice := deprecation_notice(chosen.entry)) is not None:
        warn(on_event, notice)
    _check_architecture(request, chosen)
    network = _network(request)
    target = _target(request, chosen, on_event)
    facts = template_facts(chosen, services)
    if not facts.fetched:
        check_reachable(chosen, services)
    check_image_space(target, facts)
    plan = make_plan(
        facts,
        target,
        tuple(item.describe() for item in request.operations),
        network=network,
    )
    return Prepared(chosen, plan, network, attachments)


def build(request: BuildRequest, services: Services, on_event: Reporter) -> BuildResult:
    """Build an image.

    Args:
        request: What the user asks for.
        services: The ports to the outside.
        on_event: Called with each event.

    Returns:
        Facts about the finished image, which is durable at its final place.

    Raises:
        PybuilderError: It could not be built; what was at the output's place before is still there,
            unless ``delete_on_failure`` is off or ``on_error`` says to keep the image.
    """
    on_event = customization.mask(request.operations, host_proxies(os.environ)).reporter(on_event)
    prepared = prepare(request, services, on_event)
    target = prepared.plan.target
    scratch = delivery.scratch_folder(target)
    handler = FailureHandler(prepared.selection.entry.os_version, request.on_error, services.guest_shell)
    with (
        services.open_cache(scratch, on_event) as cache,
        delivery.open_work(
            prepared.plan,
            on_event,
            keep_on_failure=lambda: handler.keep or not request.delete_on_failure,
            sync=request.sync,
        ) as work,
        workspace.blaming_full_disk(scratch),  # inside, while what fills the disk is still there
    ):
        disk = services.template_disk(cache, prepared.selection, on_event)
        plan = _with_format(prepared.plan, disk)
        growing = _materialise(plan, disk, work, on_event, has_keys=bool(request.keys))
        on_event(Step("Opening the new disk"))
        options = services.settings.appliance_options(request.appliance, network=prepared.network)
        attachment = Attachment(
            work.image, work.format, sector_size=partition.sector_size(work.image, work.format)
        )
        disks = [attachment, *prepared.attachments]
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
    return BuildResult(target.path, target.format, plan.size, uses, outcome.root_password)


def summary(result: BuildResult) -> str:
    """Write what a build made, as virt-builder does (``virt-builder.md`` 6.1)."""
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


def _check_architecture(request: BuildRequest, chosen: Selection) -> None:
    blocked = [item for item in request.operations if customization.needs_commands([item])]
    if blocked and not arch.can_run(arch.host_arch(), chosen.entry.arch):
        raise UsageError(
            f"--{blocked[0].keyword} runs commands of the guest, whose architecture {chosen.entry.arch} "
            f"this host ({arch.host_arch()}) cannot run",
            hint="use --firstboot, --firstboot-command or --firstboot-install instead",
        )


def _network(request: BuildRequest) -> bool:
    match request.network:
        case NetworkMode.ON:
            return True
        case NetworkMode.OFF:
            return False
        case NetworkMode.AUTOMATIC:
            return customization.needs_commands(request.operations)


def _target(request: BuildRequest, chosen: Selection, on_event: Reporter) -> Target:
    output = request.output
    if output is None:
        suffix = "img" if request.format is OutputFormat.RAW else request.format.value
        output = Path(f"{chosen.entry.os_version}.{suffix}")
    target = Target(output, find_place(output), request.format, request.size, request.compressed)
    _doubt_name(target, on_event)
    device = target.place.device
    if device is not None and device.is_partition and request.warn_if_partition:
        warn(
            on_event,
            f"{output} is a partition: the image is a whole disk with a partition table of its own, which "
            "cannot be booted from there; --no-warn-if-partition silences this",
        )
    return target


def _doubt_name(target: Target, on_event: Reporter) -> None:
    """Warn of a name that says another format: as in virt-builder, the name decides nothing."""
    said = target.path.suffix.removeprefix(".").lower()
    if said in set(OutputFormat) and said != target.format:
        warn(on_event, f"{target.path} will be a {target.format} image; for {said}, add: --format {said}")


def _with_format(plan: BuildPlan, disk: Path) -> BuildPlan:
    """Return the plan with the format of the template: where the index names none, its header does."""
    if plan.template.format is not None:
        return plan
    return plan.with_format(DiskFormat(imageheader.find_format(disk, plan.template.size, role=Role.TEMPLATE)))


def _materialise(
    plan: BuildPlan, disk: Path, work: Work, on_event: Reporter, *, has_keys: bool
) -> Growth | None:
    """Turn the template's unpacked disk into the image, grown but not yet customized; return what grows."""
    template = plan.template
    assert template.format is not None
    growing = None
    if plan.grows:
        growing = growth.check_growable(
            disk, template.format, template.expand, template.lvexpand, plan.size, has_keys=has_keys
        )
    work.fill(disk, template.format, plan.size)
    if growing is not None:
        on_event(Step(f"Resizing (in place) to expand the disk to {human_size(plan.size)}"))
        growth.grow_table(work.image, work.format, growing)
    return growing


def _customize(
    request: BuildRequest,
    prepared: Prepared,
    appliance: Appliance,
    on_event: Reporter,
    handler: FailureHandler,
) -> customization.CustomizeResult:
    """Customize the guest; when that fails, keep what the user wants to be kept."""
    context = _context(request, prepared, appliance)
    try:
        return customization.customize(appliance, request.operations, context, on_event, handler.rescue)
    except OperationError as error:
        explained = handler.explain(appliance, error)
        if handler.keep and prepared.plan.target.place.device is None:  # a device was not written to
            on_event(Step(f"Keeping the unfinished image: {prepared.plan.target.path}"))
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


# What is found out about a template before anything is downloaded, and what cannot work then.


def template_facts(chosen: Selection, services: Services) -> TemplateFacts:
    """Return what the index and the cache say about a template; the cache is not changed."""
    folder = services.settings.cache_folder_if_any()
    cached = None if folder is None else TemplateCache(folder, shared=paths.shared_caches())
    chosen = usable(chosen)[0] if cached is None else cached.preferred(chosen)
    entry = chosen.entry
    disk = None if cached is None else cached.unpacked_disk(entry)
    return TemplateFacts(
        name=entry.os_version,
        url=chosen.url,
        format=None if entry.format is None else parse_format(entry.format),
        size=entry.size,
        compressed_size=entry.compressed_size,
        expand=entry.expand,
        lvexpand=entry.lvexpand,
        fetched=cached is not None and cached.is_cached(entry),
        used=None if disk is None else sparse.disk_usage(disk),
    )


def check_reachable(chosen: Selection, services: Services) -> None:
    """Refuse to download with ``--offline`` before anything is done, and in ``--dry-run``, too.

    Raises:
        OfflineError: The template is nowhere on this machine.
    """
    urls = [chosen.url, *chosen.source.mirrors]
    digests = [str(file.sha512) for file in files_of(chosen.entry)]
    shared = [root / "templates" / digest for root in paths.shared_caches() for digest in digests]
    if not any(will_ask(services.fetcher, url) for url in urls) and not any(map(Path.is_file, shared)):
        raise offline_error(chosen.entry.os_version, chosen.url)


def check_image_space(target: Target, facts: TemplateFacts) -> None:
    """Find out before a download whether the image has room at least for what the template must hold (C5).

    Before it is unpacked nobody knows how much that is; hardly less than it has packed.

    Raises:
        WorkspaceError: There is not.
    """
    if target.place.device is not None or target.compressed:
        return
    packed = min((facts.compressed_size or 0) * 9 // 10, facts.size)
    needed = packed if facts.used is None else facts.used
    workspace.check_space(target.place.path.parent, needed, "the image")
