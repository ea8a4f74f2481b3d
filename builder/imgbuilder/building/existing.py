"""Customizing the guest on existing disk images: the work of ``pybuilder-customize``."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.building.place import find_file_place
from imgbuilder.customize import run as customization
from imgbuilder.customize import sysprep
from imgbuilder.customize.context import GuestContext, guest_proxies, host_proxies
from imgbuilder.customize.facts import read_facts
from imgbuilder.customize.failure import FailureHandler, OnError
from imgbuilder.customize.firstboot_status import FirstbootReport, read_firstboot
from imgbuilder.customize.operation import Operation
from imgbuilder.disk import blockdevice, imageheader, sparse
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.imageheader import Role
from imgbuilder.errors import DiskError, GuestError, OperationError, UsageError
from imgbuilder.events import Reporter, Step
from imgbuilder.guests import mounting
from imgbuilder.guests.mounting import Place, find_roots, mount_places, mount_system, refuse_ostree
from imgbuilder.guests.ports import Appliance
from imgbuilder.guests.unlocking import DiskKey, encrypted_devices, unlock
from imgbuilder.host import arch, imagelocks, workspace
from imgbuilder.services import Services

_JOINED = {"btrfs", "LVM2_member", "crypto_LUKS", "linux_raid_member"}
"""What the appliance's kernel knows by its UUID, whatever device it is asked to take."""


@dataclass(frozen=True)
class Disk:
    """A disk image.

    Attributes:
        path: The file.
        format: Its format; None to find out by its header.
    """

    path: Path
    format: DiskFormat | None = None


@dataclass(frozen=True)
class CustomizeRequest:
    """What to do with which disks.

    Attributes:
        disks: The disks of the guest, in its order.
        attached: Further disks that commands may read.
        backing: Images that the disks may lie over; they are only read.
        operations: Customizations in the user's order.
        keys: Keys of encrypted devices.
        memsize: Memory of the appliance in MiB; None for the default.
        smp: Processors of the appliance; None for the default.
        launch_timeout: Seconds without a sign of life until its start counts as hung; None for the default.
        command_timeout: Seconds after which a command in the guest is stopped; None for no limit.
        network: Whether the guest reaches the network.
        dry_run: Whether everything is done on throw-away copies.
        on_copy: Whether the work is done on a copy, which replaces the disk when all went well.
        on_error: What happens when a customization fails.
        verbose: Report the appliance's console, and the output of commands while they run.
        trace: Report libguestfs calls.
    """

    disks: tuple[Disk, ...]
    attached: tuple[Disk, ...] = ()
    backing: tuple[Path, ...] = ()
    operations: tuple[Operation, ...] = ()
    keys: tuple[DiskKey, ...] = ()
    memsize: int | None = None
    smp: int | None = None
    launch_timeout: float | None = None
    command_timeout: float | None = None
    network: bool = True
    dry_run: bool = False
    on_copy: bool = False
    on_error: OnError = OnError.ABORT
    verbose: bool = False
    trace: bool = False


def customize_disks(request: CustomizeRequest, services: Services, on_event: Reporter) -> None:
    """Customize every operating system on the disks.

    All that can be checked is checked while the filesystems are mounted read-only; until then nothing on
    the disks was changed.

    Args:
        request: What to do.
        services: The ports to the outside.
        on_event: Called with each event.

    Raises:
        PybuilderError: It failed. The hint says whether the disks were changed.
    """
    customization.validate(request.operations)
    on_event = customization.mask(request.operations, host_proxies(os.environ)).reporter(on_event)
    disks, attached = _judged(request, writable=not request.dry_run)
    with contextlib.ExitStack() as stack:
        for disk in disks:
            _claim_device(disk, stack, writable=not request.dry_run)
        if request.on_copy:
            disks = [stack.enter_context(_copied(disk, on_event)) for disk in disks]
        on_event(Step("Examining the guest ..."))
        attachments = [
            *_attachments(disks, readonly=request.dry_run),
            *_attachments(attached, readonly=True, attached=True),
        ]
        appliance = stack.enter_context(
            services.open_appliance(attachments, _options(request, services), on_event)
        )
        roots = _roots(appliance, request.keys, on_event)
        guests = [_examine(appliance, root, request, on_event) for root in roots]
        for places, context in guests:
            appliance.hide_attached()
            mount_places(appliance, places, on_event)
            appliance.show_attached()
            _customize(request, services, appliance, context, on_event)
            appliance.unmount_all()
        on_event(Step("Finishing off"))
        appliance.shutdown()


def find_identity(request: CustomizeRequest, services: Services, on_event: Reporter) -> list[sysprep.Finding]:
    """Find what identifies this one machine on the disks, which are only read.

    Raises:
        PybuilderError: The guest could not be examined.
    """
    disks, _attached = _judged(request, writable=False)
    on_event(Step("Examining the guest ..."))
    attachments = _attachments(disks, readonly=True)
    found = []
    with services.open_appliance(attachments, _options(request, services), on_event) as appliance:
        for root in _roots(appliance, request.keys, on_event):
            mount_system(appliance, root, on_event, untouched=True, strict=False)
            found += sysprep.find(appliance)
            appliance.unmount_all()
        appliance.shutdown()
    return found


def firstboot_report(request: CustomizeRequest, services: Services, on_event: Reporter) -> FirstbootReport:
    """Read what the first boot left in the first operating system on the disks, which are only read.

    Raises:
        PybuilderError: The guest could not be examined.
    """
    disks, _attached = _judged(request, writable=False)
    on_event(Step("Examining the guest ..."))
    attachments = _attachments(disks, readonly=True)
    with services.open_appliance(attachments, _options(request, services), on_event) as appliance:
        # The journal is replayed, on a throw-away layer: a machine that was switched off wrote last there.
        mount_system(appliance, _roots(appliance, request.keys, on_event)[0], on_event, strict=False)
        found = read_firstboot(appliance)
        appliance.unmount_all()
        appliance.shutdown()
    return found


def _judged(request: CustomizeRequest, *, writable: bool) -> tuple[list[Disk], list[Disk]]:
    """Judge the disks and those to attach; return them with their formats.

    Raises:
        UsageError: None of them lies over one of the backing images that were named.
        DiskError: One is no disk, is in use, or refers to files that were not named.
    """
    used: set[Path] = set()
    disks = [_checked(disk, request, Role.GUEST, used, writable=writable) for disk in request.disks]
    attached = [_checked(disk, request, Role.OWN, used, writable=False) for disk in request.attached]
    for path in request.backing:
        if path not in used:
            raise UsageError(f"--backing {path}: no disk lies over it", hint="leave it out, or see its name")
    return disks, attached


def _checked(disk: Disk, request: CustomizeRequest, role: Role, used: set[Path], *, writable: bool) -> Disk:
    """Check that nobody uses a disk, and its header; return it with its format (``threat-model.md`` T13)."""
    path = disk.path
    try:
        status = path.stat()
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}", hint="give an existing disk image with -a") from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise DiskError(f"{path} is not a disk image: it is neither a file nor a block device")
    if not os.access(path, os.R_OK | (os.W_OK if writable else 0)):
        how = "written" if writable else "read"
        raise DiskError(f"{path} cannot be {how}", hint="check its permissions, or use --dry-run")
    imagelocks.refuse_if_in_use(path, changing=writable)
    block = stat.S_ISBLK(status.st_mode)
    if not block:  # relative names of backing files count from the folder that a link does not show
        path = path.resolve()
    named = disk.format or (DiskFormat.RAW if block else None)
    kind, below = imageheader.check_own(path, named, role, backing=request.backing)
    used.update(below)
    return Disk(path, DiskFormat(kind))


def _claim_device(disk: Disk, stack: contextlib.ExitStack, *, writable: bool) -> None:
    """Keep a block device from being mounted meanwhile; the appliance locks its disks itself."""
    if not disk.path.is_block_device():
        return
    if writable:
        imagelocks.release(stack.enter_context(blockdevice.claim(disk.path)))  # the appliance writes to it
    else:
        stack.enter_context(imagelocks.held(disk.path))


@contextlib.contextmanager
def _copied(disk: Disk, on_event: Reporter) -> Iterator[Disk]:
    """Yield a copy of a disk, which takes its place, mode and owner at the end of a block without error."""
    final = find_file_place(disk.path)
    if not final.is_file():
        raise UsageError(f"{disk.path} is not a file, and a copy could not replace it")
    workspace.check_space(final.parent, sparse.disk_usage(final), "the copy")
    with workspace.new_file(final) as copy:
        on_event(Step("Copying"))
        sparse.copy_sparse(final, copy, on_event)
        yield Disk(copy, disk.format)


def _attachments(disks: Sequence[Disk], *, readonly: bool, attached: bool = False) -> list[Attachment]:
    return [
        Attachment(disk.path.absolute(), disk.format or DiskFormat.RAW, readonly, attached=attached)
        for disk in disks
    ]


def _options(request: CustomizeRequest, services: Services) -> ApplianceOptions:
    network = request.network and customization.needs_commands(request.operations)
    settings = services.settings
    return ApplianceOptions(
        memsize=request.memsize,
        smp=request.smp,
        network=network,
        launch_timeout=request.launch_timeout,
        verbose=request.verbose,
        trace=request.trace,
        instant=settings.instant and settings.use_cache,
        cache=settings.cache,
    )


def _roots(appliance: Appliance, keys: Sequence[DiskKey], on_event: Reporter) -> list[str]:
    """Find the operating systems: each root's device."""
    _refuse_siblings(appliance)
    unlock(appliance, keys, on_event)
    roots = find_roots(appliance, on_event)
    encrypted = [] if roots or keys else encrypted_devices(appliance)
    if encrypted:
        raise GuestError(
            f"no operating system was found on the disks, which are encrypted ({', '.join(encrypted)})",
            hint=f"give the key: --key {encrypted[0]}:file:FILE",
        )
    if not roots:
        refuse_ostree(appliance)
        raise GuestError(
            "no operating system was found on the disks",
            hint="is the image of another format (--format), encrypted, or only a part of a guest?",
        )
    return roots


def _refuse_siblings(appliance: Appliance) -> None:
    """Refuse disks of which the appliance's kernel would take one for the other."""
    if len(appliance.disks()) < 2:
        return
    seen: dict[tuple[str, str, str], str] = {}
    for device in appliance.block_devices():
        if device.kind not in _JOINED or not device.uuid:
            continue
        other = seen.setdefault((device.kind, device.uuid, device.member), device.name)
        if other != device.name:
            raise GuestError(
                f"{other} and {device.name} are copies of each other: both are {device.kind} with UUID "
                f"{device.uuid}",
                hint="nothing was changed; customize the disks one after the other",
            )


def _examine(
    appliance: Appliance, root: str, request: CustomizeRequest, on_event: Reporter
) -> tuple[tuple[Place, ...], GuestContext]:
    """Look at a guest, mounted so that nothing is written, and check that the operations fit it."""
    mounting.refuse_read_only(appliance, root)
    facts = appliance.inspect_facts(root)
    if facts["type"] != "linux":
        raise GuestError(
            f"the guest is not Linux but {facts['type']!r}", hint="only Linux guests can be customized"
        )
    places = mount_system(appliance, root, on_event, untouched=True)
    guest_arch = arch.normalise(facts["arch"])
    context = GuestContext(
        facts=read_facts(appliance),
        arch=guest_arch,
        runs_commands=arch.can_run(arch.host_arch(), guest_arch),
        network=request.network,
        proxies=guest_proxies(os.environ),
        follow=request.verbose,
        command_limit=request.command_timeout,
    )
    try:
        customization.check_guest(request.operations, context)
    except OperationError as error:
        raise OperationError(
            error.message, hint="; ".join(filter(None, [error.hint, "nothing was changed"]))
        ) from error
    appliance.unmount_all()
    return places, context


def _customize(
    request: CustomizeRequest,
    services: Services,
    appliance: Appliance,
    context: GuestContext,
    on_event: Reporter,
) -> None:
    handler = FailureHandler(request.disks[0].path.name, request.on_error, services.guest_shell)
    try:
        customization.customize(appliance, request.operations, context, on_event, handler.rescue)
    except OperationError as error:
        explained = handler.explain(appliance, error)
        # Whatever was done is on the disk in a consistent state.
        appliance.unmount_all()
        appliance.shutdown()
        names = ", ".join(str(disk.path) for disk in request.disks)
        unchanged = request.dry_run or request.on_copy
        state = f"{names} was not changed" if unchanged else f"{names} was changed up to this operation"
        raise OperationError(
            explained.message,
            log_tail=explained.log_tail,
            log_file=explained.log_file,
            hint="; ".join(filter(None, [explained.hint, state])),
        ) from error
