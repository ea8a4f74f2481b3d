"""Builds an image from a template: prepare, fetch, copy and grow, customize, finish."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.appliance import Attachment
from imgbuilder.appliance.hostside import fit
from imgbuilder.appliance.hostside.gate import Place
from imgbuilder.building.hostside import held_back, refuse_appliance
from imgbuilder.building.output import OutputWriter, open_output, place_for_temporary_files
from imgbuilder.building.plan import BuildPlan
from imgbuilder.building.preflight import Prepared, prepare
from imgbuilder.building.request import BuildRequest, HostsideMode
from imgbuilder.cache.links import LinkedImage
from imgbuilder.cache.store import TemplateCache
from imgbuilder.customize import run as customization
from imgbuilder.customize.buildnetwork import guest_proxies, host_proxies
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import System, read_facts
from imgbuilder.customize.failure import FailureHandler
from imgbuilder.disk import imageheader, partition
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import OperationError, UnfitError, WorkspaceError
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.growth import decide as growth
from imgbuilder.growth import session
from imgbuilder.growth.decide import Growth
from imgbuilder.guests.ports import Appliance, FilesystemUse
from imgbuilder.guests.windows import read_windows
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
    on_event = _masked(request, on_event)
    return build_prepared(request, prepare(request, services, on_event), services, on_event)


def build_prepared(
    request: BuildRequest, prepared: Prepared, services: Services, on_event: Reporter
) -> BuildResult:
    """Build an image that is decided, as ``build`` does."""
    on_event = _masked(request, on_event)
    image = prepared.plan.image
    scratch = place_for_temporary_files(image)
    handler = FailureHandler(prepared.selection.entry.os_version, request.on_error, services.guest_shell)

    def keeps() -> bool:
        return handler.keep or not request.delete_on_failure

    with (
        services.open_cache(scratch, on_event) as cache,
        open_output(prepared.plan, on_event, keep_on_failure=keeps, sync=request.sync) as output,
        contextlib.ExitStack() as stack,
        # Innermost: it measures the free space, and the outer blocks free some by removing temporary files.
        workspace.blaming_full_disk(scratch),
    ):
        disk = services.template_disk(cache, prepared.selection, on_event)
        if image.linked:
            stack.enter_context(_linked(cache, disk, image.target.path, keeps))
        work = _Work(
            request, prepared, services, cache, _with_format(prepared.plan, disk), disk, output, handler
        )
        return work.on_host(on_event) or work.in_appliance(on_event)


def _masked(request: BuildRequest, on_event: Reporter) -> Reporter:
    return customization.mask(request.operations, host_proxies(os.environ)).reporter(on_event)


@dataclass(frozen=True)
class _Work:
    """A build whose template is in the cache."""

    request: BuildRequest
    prepared: Prepared
    services: Services
    cache: TemplateCache
    plan: BuildPlan
    disk: Path
    output: OutputWriter
    handler: FailureHandler

    def on_host(self, on_event: Reporter) -> BuildResult | None:
        """Build without an appliance; None if that is not possible, whatever the output holds then."""
        obstacle = self.plan.obstacle
        if obstacle is None:
            try:
                places = self._check_disk()
                growing = self._fill(on_event, hostside=True)
                with held_back(on_event) as held, self.output.as_raw() as path:
                    if self.plan.template.format is not DiskFormat.RAW:  # e2fsck could not read it before
                        with path.open("rb") as image:
                            fit.check_filesystems(image.fileno(), places)
                    on_event(Step("Opening the new disk"))
                    disk = Attachment(path, DiskFormat.RAW)
                    with self.services.open_hostside(disk, self.prepared.variation, on_event) as guest:
                        return self._edit(guest, growing, held)
            except UnfitError as error:
                obstacle = str(error)
        if self.prepared.hostside is HostsideMode.ALWAYS:
            raise refuse_appliance(obstacle)
        debug(on_event, f"an appliance is used: {obstacle}")
        return None

    def _check_disk(self) -> tuple[Place, ...]:
        """Return where the filesystems are; refuse a disk that needs an appliance, before it is copied."""
        kind, size = self.plan.template.format, self.plan.size
        assert kind is not None
        places = fit.check_disk(self.disk, kind, grown=size if self.plan.grows else None)
        if kind is DiskFormat.RAW:
            self.cache.check_once(self.disk, "e2fsck", lambda disk: fit.check_filesystems(disk, places))
        return places

    def in_appliance(self, on_event: Reporter) -> BuildResult:
        """Build with an appliance."""
        growing = self._fill(on_event, hostside=False)
        on_event(Step("Opening the new disk"))
        options = self.services.settings.appliance_options(
            self.request.appliance, network=self.prepared.network
        )
        path, kind = self.output.path, self.output.format
        below = (self.disk,) if self.plan.image.linked else ()
        disk = Attachment(path, kind, sector_size=partition.sector_size(path, kind), backing=below)
        disks = [disk, *self.prepared.attachments]
        with self.services.open_appliance(disks, options, on_event) as appliance:
            return self._edit(appliance, growing, on_event)

    def _fill(self, on_event: Reporter, *, hostside: bool) -> Growth | None:
        """Fill the output with the template and grow its partition table; return what grows."""
        plan, template = self.plan, self.plan.template
        assert template.format is not None
        growing = None
        if plan.grows:
            growing = growth.check_growable(
                self.disk,
                template.format,
                template.expand,
                template.lvexpand,
                plan.size,
                has_keys=bool(self.request.keys),
            )
        self.output.fill(self.disk, template.format, plan.size, hostside=hostside)
        if growing is not None:
            on_event(Step(f"Resizing (in place) to expand the disk to {human_size(plan.size)}"))
            growth.grow_table(self.output.path, self.output.format, growing)
        return growing

    def _edit(self, appliance: Appliance, growing: Growth | None, on_event: Reporter) -> BuildResult:
        """Grow the guest's filesystem and customize the guest."""
        root = session.open_guest(
            appliance,
            expand=self.plan.template.expand,
            lvexpand=self.plan.template.lvexpand,
            growth=growing,
            keys=self.request.keys,
            on_event=on_event,
        )
        appliance.show_attached()
        context = _context(self.request, self.prepared, appliance, root)
        outcome = _customize(self.request, self.prepared, appliance, context, on_event, self.handler)
        uses = tuple(appliance.filesystem_use())
        customization.finish_devices(appliance, root, self.request.operations, context, on_event)
        on_event(Step("Finishing off"))
        appliance.unmount_all()
        appliance.shutdown()
        image = self.plan.image
        return BuildResult(image.path, image.format, self.plan.size, uses, outcome.root_password)


@contextlib.contextmanager
def _linked(cache: TemplateCache, disk: Path, image: Path, keeps: Callable[[], bool]) -> Iterator[None]:
    """Keep the template's disk in the cache for an image that lies over it, unless the block fails.

    ``keeps`` returns whether the unfinished image is kept then.
    """
    if cache.private:
        raise WorkspaceError(
            "a linked image needs the template's disk in the cache, which cannot be used",
            hint="choose another folder with --cache DIR, or leave out --linked",
        )
    path = image.parent.resolve() / image.name
    cache.add_link(disk, path)
    try:
        yield
    except BaseException:
        if not keeps() and not path.exists():  # an older image may lie over the same disk
            cache.remove_link(LinkedImage(path, disk))
        raise


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


def _customize(
    request: BuildRequest,
    prepared: Prepared,
    appliance: Appliance,
    context: GuestContext,
    on_event: Reporter,
    handler: FailureHandler,
) -> customization.CustomizeResult:
    """Customize the guest; on failure, keep the image if the user wants it."""
    try:
        return customization.customize(appliance, request.operations, context, on_event, handler.rescue)
    except OperationError as error:
        explained = handler.explain(appliance, error)
        if handler.keep and prepared.plan.image.target.device is None:  # a device was not written to
            on_event(Step(f"Keeping the unfinished image: {prepared.plan.image.path}"))
            appliance.unmount_all()
            appliance.shutdown()
        raise explained from error


def _context(request: BuildRequest, prepared: Prepared, appliance: Appliance, root: str) -> GuestContext:
    facts = read_facts(appliance)
    reads_registry = facts.system is System.WINDOWS and bool(request.operations)
    guest_arch = arch.normalise(prepared.selection.entry.arch)
    return GuestContext(
        facts=facts,
        arch=guest_arch,
        runs_commands=arch.can_run(arch.host_arch(), guest_arch),
        network=prepared.network,
        proxies=guest_proxies(os.environ),
        implicit_root_password=True,
        follow=request.appliance.verbose,
        command_limit=request.command_timeout,
        variation=prepared.variation,
        windows=read_windows(appliance, root) if reads_registry else None,
    )
