"""Grows the content of the partition, in the appliance session that customizes the guest.

The host enlarged the partition before the appliance started. Here its content follows, layer by layer: LUKS
container, LVM, filesystem. ext2/3/4, XFS and btrfs grow while they are mounted, which needs no check first;
the others grow before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imgbuilder.disk.devicenames import on_only_disk, same_device
from imgbuilder.disk.magic import Content
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.events import Reporter, warn
from imgbuilder.growth.decide import ADVICE, Growth
from imgbuilder.guests import mounting
from imgbuilder.guests.ports import Appliance
from imgbuilder.guests.roots import partition_of
from imgbuilder.guests.unlocking import DiskKey, unlock
from imgbuilder.host.packages import install_hint

_Grow = Callable[[str], None]

_EXT = {"ext2", "ext3", "ext4"}
_FEATURES = {"xfs": "xfs", "btrfs": "btrfs", "f2fs": "f2fs", "ntfs": "ntfsprogs", "LVM2_member": "lvm2"}
"""libguestfs's feature group for each content; the table of packages has what adds it to the appliance."""
_WHILE_MOUNTED = _EXT | {"xfs", "btrfs"}
_GROWABLE = _WHILE_MOUNTED | {"f2fs", "ntfs", "swap"}


@dataclass(frozen=True)
class _Pending:
    """A filesystem or volume that grows once the guest is mounted.

    Attributes:
        device: A filesystem, or the physical volume whose group has new space.
        kind: Its content, as libblkid calls it.
    """

    device: str
    kind: str


def open_guest(
    appliance: Appliance,
    *,
    expand: str | None,
    lvexpand: str | None,
    growth: Growth | None,
    keys: Sequence[DiskKey],
    on_event: Reporter,
    role: Role = Role.TEMPLATE,
) -> str:
    """Open the guest's encrypted parts, grow the last content on the disk, and mount the guest.

    Args:
        appliance: A launched appliance with nothing mounted.
        expand: The partition that grows according to the index, which nearly always is the root.
        lvexpand: The logical volume that grows according to the index.
        growth: The growth; None when the disk is as large as the template's.
        keys: Keys of encrypted devices.
        on_event: Called with each event.
        role: Relation of the disk to the user.

    Returns:
        The root's device.

    Raises:
        GuestError: There is no system, or it cannot grow; nothing but the unfinished image was changed.
    """
    opened = unlock(appliance, keys, on_event)
    pending = None
    if growth is not None:
        pending = _grow_unmounted(appliance, growth, opened)
    likely, named = growth.device if growth is not None else None, lvexpand or expand
    if named is not None:
        likely = on_only_disk(named, growth.disk if growth is not None else "/dev/sda")
    if likely is not None:
        likely = opened.get(likely, likely)
    root = mounting.mount_guest(appliance, likely, on_event, role=role)
    if growth is None or pending is None:
        return root
    if not growth.is_named:
        _check_root(appliance, growth, pending, root)
    if pending.kind == Content.LVM:
        found = _grow_roots_volume(appliance, growth, pending.device, root, on_event)
        if found is None:
            return root
        pending = found
    if not _grow_mounted(appliance, pending, root):
        root = mounting.mount_guest(appliance, likely, on_event)
    return root


def _grow_unmounted(appliance: Appliance, growth: Growth, opened: dict[str, str]) -> _Pending | None:
    """Grow all content that must not be mounted; return the rest."""
    device, kind = growth.device, str(growth.content)
    if kind == Content.LUKS:
        if device not in opened:
            raise GuestError(
                f"{device} is encrypted, and no --key is given for it",
                hint=f"give its key: --key {device}:file:FILE",
            )
        device = opened[device]
        kind = appliance.filesystem_type(device)
    if growth.volume is not None:
        device, kind = _grow_volume(appliance, device, kind, growth.volume)
    elif kind == Content.LVM:
        _require(appliance, kind)
        _call(appliance.grow_physical_volume, device)
        return _Pending(device, kind)
    if kind == Content.EXT:
        kind = "ext4"
    if kind not in _GROWABLE:
        raise GuestError(f"{device} holds {kind or 'unknown content'}, which cannot grow", hint=ADVICE)
    _require(appliance, kind)
    if kind in _EXT and growth.needs_check:
        _check_and_grow(appliance, device)
        return None if growth.is_named else _Pending(device, "")
    if kind in _WHILE_MOUNTED:
        return _Pending(device, kind)
    if kind == "ntfs":
        _refuse_hibernated(appliance, device)
    grow = {"f2fs": appliance.grow_f2fs, "ntfs": appliance.grow_ntfs, "swap": appliance.grow_swap}[kind]
    _call(grow, device)
    return None if growth.is_named else _Pending(device, "")


def _refuse_hibernated(appliance: Appliance, device: str) -> None:
    """Refuse an NTFS whose Windows is hibernated: it would resume with the old size in its memory.

    ntfsresize checks only the mark of an unclean shutdown.
    """
    _call(lambda name: appliance.mount(name, "/", options="ro"), device)
    names = [name for name in appliance.ls("/") if name.lower() == "hiberfil.sys"]
    asleep = any(appliance.start_of(f"/{name}", 4).lower() == b"hibr" for name in names)
    appliance.unmount_all()
    if asleep:
        raise GuestError(
            f"{device} could not grow: the Windows on it is hibernated",
            hint=f"tell the publisher to shut it down before it is published; or {ADVICE}",
        )


def _grow_volume(appliance: Appliance, device: str, kind: str, volume: str) -> tuple[str, str]:
    """Grow a physical volume and the logical volume in the index; return the latter and its content."""
    if kind != Content.LVM:
        raise GuestError(
            f"the index lets the logical volume {volume} grow, but {device} is not a physical volume",
            hint=f"tell the publisher of the template, or {ADVICE}",
        )
    _require(appliance, kind)
    try:
        canonical = appliance.canonical_volume(volume)
        held = appliance.filesystem_type(canonical)
        if not appliance.volume_uses(canonical, device):
            raise GuestError(
                f"the logical volume {volume} is not on {device}, which is the last on the disk",
                hint=f"tell the publisher of the template, or {ADVICE}",
            )
    except GuestCallError as error:
        raise GuestError(
            f"the index lets the logical volume {volume} grow, but the template has no such volume: "
            f"{error.message}",
            hint=f"tell the publisher of the template, or {ADVICE}",
        ) from error
    if held not in _GROWABLE:
        raise GuestError(f"{volume} holds {held or 'unknown content'}, which cannot grow", hint=ADVICE)
    _call(appliance.grow_physical_volume, device)
    _call(appliance.grow_volume, canonical)
    return canonical, held


def _grow_roots_volume(
    appliance: Appliance, growth: Growth, device: str, root: str, on_event: Reporter
) -> _Pending | None:
    """Give the space of a grown physical volume to the root's logical volume, without a name in the index."""
    volume = _volume_on(appliance, root, device)
    if volume is None:
        warn(
            on_event, f"the volume group on {growth.device} has new free space; no volume in it was enlarged"
        )
        return None
    kind = appliance.filesystem_type(volume)
    if kind not in _WHILE_MOUNTED:
        raise GuestError(f"{volume} holds {kind}, which cannot grow while it is mounted", hint=ADVICE)
    _require(appliance, kind)
    _call(appliance.grow_volume, volume)
    return _Pending(volume, kind)


def _volume_on(appliance: Appliance, root: str, device: str) -> str | None:
    """Return the root's logical volume, if it is on a physical volume; None otherwise."""
    try:
        volume = appliance.canonical_volume(root)
        return volume if appliance.volume_uses(volume, device) else None
    except GuestCallError:
        return None  # the root is not a logical volume


def _check_root(appliance: Appliance, growth: Growth, pending: _Pending, root: str) -> None:
    """Refuse growth without a name in the index of anything but the root."""
    if pending.kind == Content.LVM:
        is_there = _volume_on(appliance, root, pending.device) is not None
    else:
        is_there = same_device(partition_of(root), pending.device)
    if not is_there:
        raise GuestError(
            f"the index does not say what grows (expand=), and the system is on {root}, "
            f"which is not the last on the disk: {growth.device} is",
            hint=f"tell the publisher of the template, or {ADVICE}",
        )


def _grow_mounted(appliance: Appliance, pending: _Pending, root: str) -> bool:
    """Grow a filesystem of the mounted guest.

    Returns:
        False when the guest had to be unmounted for it, and still is.
    """
    if not pending.kind:
        return True
    path = _mount_point(appliance, pending.device, root)
    elsewhere = path is None
    if path is None:  # the guest does not mount it itself
        appliance.unmount_all()
        path = "/"
        _call(lambda device: appliance.mount(device, "/"), pending.device)
    if pending.kind in _EXT:
        try:
            appliance.grow_ext(pending.device)
        except GuestCallError:
            # Some cannot grow while mounted: those with errors, or without room for descriptors.
            appliance.unmount_all()
            _check_and_grow(appliance, pending.device)
            return False
    elif pending.kind == "xfs":
        _call(appliance.grow_xfs, path)
    else:
        _call(appliance.grow_btrfs, path)
    if elsewhere:
        appliance.unmount_all()
    return not elsewhere


def _mount_point(appliance: Appliance, device: str, root: str) -> str | None:
    if same_device(partition_of(root), device):
        return "/"  # saves a request in nearly every build
    return next((path for item, path in appliance.mounted().items() if same_device(item, device)), None)


def _check_and_grow(appliance: Appliance, device: str) -> None:
    _call(appliance.check_ext, device)
    _call(appliance.grow_ext, device)


def _require(appliance: Appliance, kind: str) -> None:
    """Refuse content for which the appliance has no program."""
    feature = _FEATURES.get(kind)
    if feature is not None and not appliance.supports(feature):
        raise GuestError(
            f"the appliance has no program to grow {kind}",
            hint=f"{install_hint(feature)}, and build again; or {ADVICE}",
        )


def _call(grow: _Grow, target: str) -> None:
    try:
        grow(target)
    except GuestCallError as error:
        raise GuestError(f"{target} could not grow: {error.message}", hint=ADVICE) from error
