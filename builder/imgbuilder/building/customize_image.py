"""Customizes the guest on existing disk images, for ``pybuilder-customize``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.appliance.hostside import fit
from imgbuilder.building import target
from imgbuilder.building.hostside import held_back, refuse_appliance
from imgbuilder.building.preflight import check_disk
from imgbuilder.building.request import CustomizeRequest, HostsideMode
from imgbuilder.building.target import find_file_target
from imgbuilder.customize import run as customization
from imgbuilder.customize import sysprep, windowsboot
from imgbuilder.customize.buildnetwork import guest_proxies, host_proxies
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import System, read_facts
from imgbuilder.customize.failure import FailureHandler, OnError
from imgbuilder.customize.firstboot import FirstbootReport, read_firstboot
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import GuestError, OperationError, UnfitError, UsageError, WorkspaceError
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.guests.mounting import MountPoint, mount_again, mount_guest, mount_system
from imgbuilder.guests.ports import Appliance
from imgbuilder.guests.roots import (
    find_roots,
    has_os_release,
    mounted_read_only,
    refuse_ostree,
    refuse_read_only,
)
from imgbuilder.guests.unlocking import DiskKey, encrypted_devices, unlock
from imgbuilder.guests.windows import read_windows
from imgbuilder.host import arch, imagelocks, paths, sparse, workspace
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.host.variation import Variation
from imgbuilder.services import Services

_JOINED = {"btrfs", "LVM2_member", "crypto_LUKS", "linux_raid_member"}
"""Kinds of devices that the appliance's kernel finds by UUID, whatever device is asked for."""


def customize_disks(request: CustomizeRequest, services: Services, on_event: Reporter) -> None:
    """Customize every operating system on the disks.

    First the guests are checked, with their filesystems mounted read-only. Until that has succeeded, nothing
    on the disks is changed.

    Raises:
        PybuilderError: It failed. The hint says whether the disks were changed.
    """
    customization.validate(request.operations)
    on_event = customization.mask(request.operations, host_proxies(os.environ)).reporter(on_event)
    disks, attached = _check_disks(request, readonly=request.dry_run)
    if _customize_on_host(request, disks, services, on_event):
        return
    with contextlib.ExitStack() as stack:
        for disk in disks:
            _claim_device(disk, stack)
        if request.on_copy:
            disks = [stack.enter_context(_copied(disk, on_event)) for disk in disks]
        on_event(Step("Examining the guest ..."))
        options = _options(request, services)
        appliance = stack.enter_context(services.open_appliance([*disks, *attached], options, on_event))
        roots = _roots(appliance, request.keys, on_event)
        guests = [_examine(appliance, root, request, on_event) for root in roots]
        for places, context in guests:
            appliance.hide_attached()
            mount_again(appliance, places, on_event)
            appliance.show_attached()
            _customize(request, services, appliance, context, on_event, on_copy=request.on_copy)
            customization.finish_devices(
                appliance,
                places[0].device,
                request.operations,
                context,
                on_event,
                only_system=len(guests) == 1,
            )
            appliance.unmount_all()
        on_event(Step("Finishing off"))
        appliance.shutdown()


def _customize_on_host(
    request: CustomizeRequest, disks: Sequence[Attachment], services: Services, on_event: Reporter
) -> bool:
    """Customize a copy of the disk without an appliance, which then replaces the disk.

    Returns:
        Whether that was possible; if not, the disk is as it was.
    """
    obstacle = _find_obstacle(request, disks)
    if obstacle is None:
        try:
            places = fit.check_disk(disks[0].path, DiskFormat.RAW)
            with held_back(on_event) as held, _copied_for_host(request, disks[0], on_event) as copy:
                with copy.path.open("rb") as image:
                    fit.check_filesystems(image.fileno(), places)
                on_event(Step("Examining the guest ..."))
                with services.open_hostside(copy, Variation(), on_event) as guest:
                    _mount_only_root(guest, on_event)
                    context = _context(request, guest, arch.host_arch(), runs_commands=False)
                    _check_guest(request, context)
                    _customize(request, services, guest, context, held, on_copy=True)
                    held(Step("Finishing off"))
                    guest.unmount_all()
                    guest.shutdown()
        except UnfitError as error:
            obstacle = str(error)
    if obstacle is not None and request.hostside is HostsideMode.ALWAYS:
        raise refuse_appliance(obstacle)
    if request.dry_run:
        way = "no appliance is needed" if obstacle is None else f"an appliance is used: {obstacle}"
        on_event(Step(way[0].upper() + way[1:]))
    elif obstacle is not None:
        debug(on_event, f"an appliance is used: {obstacle}")
    return obstacle is None


def _find_obstacle(request: CustomizeRequest, disks: Sequence[Attachment]) -> str | None:
    """Return the first reason why an appliance is needed, as far as it shows without opening the disk."""
    needing = next((item.keyword for item in request.operations if customization.needs_appliance(item)), None)
    disk = disks[0]
    facts = disk.path.stat()
    groups = {os.getegid(), *os.getgroups()}
    own = os.geteuid() == 0 or (facts.st_uid == os.geteuid() and facts.st_gid in groups)
    replaces = not request.dry_run and not request.on_copy
    obstacles = {
        "--hostside is never, the default for an existing disk": request.hostside is HostsideMode.NEVER,
        f"--{needing} needs it": needing is not None,
        "--attach gives disks to it": bool(request.attachments),
        "--key opens devices in it": bool(request.keys),
        f"--on-error {request.on_error.value} leaves a failed guest in it": request.on_error
        is not OnError.ABORT,
        "-x shows the calls to it": request.appliance.trace,
        "the guest has several disks": len(disks) > 1,
        f"{disk.path} is not a file": not disk.path.is_file(),
        f"{disk.path} is a {disk.format} image": disk.format != DiskFormat.RAW,
        f"{disk.path} has further names, which would keep the old content": replaces and facts.st_nlink > 1,
        f"a copy of {disk.path} would have another owner": replaces and not own,
    }
    return next((text for text, applies in obstacles.items() if applies), None)


@contextlib.contextmanager
def _copied_for_host(request: CustomizeRequest, disk: Attachment, on_event: Reporter) -> Iterator[Attachment]:
    """Yield a copy of a disk that replaces it after a block without an error; for a dry run it is dropped.

    Raises:
        UnfitError: No copy can take its place.
    """
    with contextlib.ExitStack() as stack:
        try:
            if request.dry_run:
                folder = stack.enter_context(private_folder(paths.temporary_dir()))
                workspace.check_space(folder, sparse.disk_usage(disk.path), "the copy")
                copy = replace(disk, path=folder / "disk.raw", readonly=False)
                on_event(Step("Copying"))
                sparse.copy_sparse(disk.path, copy.path, on_event, label=f"Copying {disk.path.name}")
            else:
                copy = stack.enter_context(_copied(disk, on_event))
                for name in os.listxattr(disk.path):  # labels and ACLs
                    os.setxattr(copy.path, name, os.getxattr(disk.path, name))
        except WorkspaceError as error:
            raise UnfitError(error.message) from error
        except OSError as error:
            raise UnfitError(f"the attributes of {disk.path} cannot be copied: {error.strerror}") from error
        yield copy


def _mount_only_root(guest: Appliance, on_event: Reporter) -> None:
    """Mount the guest of a disk that holds one system; only an appliance can judge the others."""
    roots = []
    for device in guest.block_devices():
        if device.kind in {"ext2", "ext3", "ext4"}:
            with mounted_read_only(guest, device.name):
                if has_os_release(guest):
                    roots.append(device.name)
    if len(roots) != 1:
        raise UnfitError(f"{len(roots)} filesystems on the disk have an os-release file")
    mount_guest(guest, roots[0], on_event, role=Role.GUEST)


def find_identity(
    request: CustomizeRequest, services: Services, on_event: Reporter
) -> list[sysprep.IdentityFile]:
    """Return the files that identify this one machine; the disks are only read."""
    if request.hostside is HostsideMode.ALWAYS:
        raise refuse_appliance("--check reads the disks in it")
    disks, _attached = _check_disks(request, readonly=True)
    on_event(Step("Examining the guest ..."))
    found = []
    with services.open_appliance(disks, _options(request, services), on_event) as appliance:
        for root in _roots(appliance, request.keys, on_event):
            _require_linux(appliance, root, "what identifies a machine is known for Linux only")
            mount_system(appliance, root, on_event, untouched=True, strict=False)
            found += sysprep.find(appliance)
            appliance.unmount_all()
        appliance.shutdown()
    return found


def firstboot_report(request: CustomizeRequest, services: Services, on_event: Reporter) -> FirstbootReport:
    """Return the results of the first boot of the first operating system; the disks are only read."""
    disks, _attached = _check_disks(request, readonly=True)
    on_event(Step("Examining the guest ..."))
    with services.open_appliance(disks, _options(request, services), on_event) as appliance:
        root = _roots(appliance, request.keys, on_event)[0]
        _require_linux(appliance, root, f"in Windows it is in C:{windowsboot.BASE}/log.txt")
        # The journal is replayed, on a layer that is dropped: after a hard stop the last writes are there.
        mount_system(appliance, root, on_event, strict=False)
        found = read_firstboot(appliance)
        appliance.unmount_all()
        appliance.shutdown()
    return found


def _require_linux(appliance: Appliance, root: str, hint: str) -> None:
    kind = appliance.inspect_facts(root)["type"]
    if kind != "linux":
        raise GuestError(f"the guest is not Linux but {kind!r}, and this is for Linux only", hint=hint)


def _check_disks(request: CustomizeRequest, *, readonly: bool) -> tuple[list[Attachment], list[Attachment]]:
    """Check the disks of the guest and those to attach; return them with their formats."""
    disks = [
        check_disk(replace(disk, readonly=readonly), Role.GUEST, backing=request.backing)
        for disk in request.disks
    ]
    attached = [
        check_disk(replace(disk, readonly=True, attached=True), backing=request.backing)
        for disk in request.attachments
    ]
    seen = set()
    for disk in (*disks, *attached):
        status = disk.path.stat()
        file = (status.st_rdev, 0) if disk.path.is_block_device() else (status.st_dev, status.st_ino)
        if file in seen:
            raise UsageError(f"the disk {disk.path} is given twice", hint="leave one of them out")
        if not disk.attached:
            seen.add(file)
    used = {path for disk in (*disks, *attached) for path in disk.backing}
    for path in request.backing:
        if path not in used:
            raise UsageError(f"--backing {path}: no disk lies over it", hint="remove it, or check its name")
    return disks, attached


def _claim_device(disk: Attachment, stack: contextlib.ExitStack) -> None:
    """Keep other programs from mounting a block device; the appliance itself locks files."""
    if not disk.path.is_block_device():
        return
    if disk.readonly:
        stack.enter_context(imagelocks.held(disk.path))
    else:
        imagelocks.release(stack.enter_context(target.claim(disk.path)))  # the appliance writes to it


@contextlib.contextmanager
def _copied(disk: Attachment, on_event: Reporter) -> Iterator[Attachment]:
    """Yield a copy of a disk, which replaces the disk after a block without an error."""
    final = find_file_target(disk.path)
    if not final.is_file():
        raise UsageError(
            f"{disk.path} is not a file, so a copy cannot replace it", hint="leave --work-on-copy out"
        )
    workspace.check_space(final.parent, sparse.disk_usage(final), "the copy")
    with workspace.new_file(final) as copy:
        on_event(Step("Copying"))
        sparse.copy_sparse(final, copy, on_event, label=f"Copying {final.name}")
        yield replace(disk, path=copy)


def _options(request: CustomizeRequest, services: Services) -> ApplianceOptions:
    network = request.network and customization.needs_commands(request.operations)
    return services.settings.appliance_options(request.appliance, network=network)


def _roots(appliance: Appliance, keys: Sequence[DiskKey], on_event: Reporter) -> list[str]:
    """Return the root devices of the operating systems."""
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
            hint="check its format (--format), and that it is a whole disk and not one partition",
        )
    return roots


def _refuse_siblings(appliance: Appliance) -> None:
    """Refuse copies of one disk, which the appliance's kernel would confuse."""
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
                hint="nothing was changed; customize the disks one by one",
            )


def _examine(
    appliance: Appliance, root: str, request: CustomizeRequest, on_event: Reporter
) -> tuple[tuple[MountPoint, ...], GuestContext]:
    """Mount a guest so that nothing is written, and check that the operations fit it."""
    refuse_read_only(appliance, root)
    facts = appliance.inspect_facts(root)
    if facts["type"] not in ("linux", "windows"):
        raise GuestError(
            f"the guest is not Linux but {facts['type']!r}",
            hint="only guests with Linux or Windows can be customized",
        )
    places = mount_system(appliance, root, on_event, untouched=True)
    guest_arch = arch.normalise(facts["arch"])
    runs_commands = arch.can_run(arch.host_arch(), guest_arch)
    context = _context(request, appliance, guest_arch, runs_commands=runs_commands)
    if facts["type"] != context.facts.system.value:
        raise GuestError(
            f"the guest is {facts['type']} by its root, and {context.facts.system.value} by its files",
            hint="it is not what it seems; nothing was changed",
        )
    if context.facts.system is System.WINDOWS:
        context = replace(context, windows=read_windows(appliance, root))
    _check_guest(request, context)
    appliance.unmount_all()
    return places, context


def _context(
    request: CustomizeRequest, appliance: Appliance, guest_arch: str, *, runs_commands: bool
) -> GuestContext:
    return GuestContext(
        facts=read_facts(appliance),
        arch=guest_arch,
        runs_commands=runs_commands,
        network=request.network,
        proxies=guest_proxies(os.environ),
        follow=request.appliance.verbose,
        command_limit=request.command_timeout,
    )


def _check_guest(request: CustomizeRequest, context: GuestContext) -> None:
    try:
        customization.check_guest(request.operations, context)
    except OperationError as error:
        raise OperationError(
            error.message, hint="; ".join(filter(None, [error.hint, "nothing was changed"]))
        ) from error


def _customize(
    request: CustomizeRequest,
    services: Services,
    appliance: Appliance,
    context: GuestContext,
    on_event: Reporter,
    *,
    on_copy: bool,
) -> None:
    handler = FailureHandler(request.disks[0].path.name, request.on_error, services.guest_shell)
    try:
        customization.customize(appliance, request.operations, context, on_event, handler.rescue)
    except OperationError as error:
        explained = handler.explain(appliance, error)
        # The operations before it are on the disk in a consistent state.
        appliance.unmount_all()
        appliance.shutdown()
        names = ", ".join(str(disk.path) for disk in request.disks)
        unchanged = request.dry_run or on_copy
        state = f"{names} was not changed" if unchanged else f"{names} was changed up to this operation"
        raise OperationError(
            explained.message,
            log_tail=explained.log_tail,
            log_file=explained.log_file,
            hint="; ".join(filter(None, [explained.hint, state])),
        ) from error
