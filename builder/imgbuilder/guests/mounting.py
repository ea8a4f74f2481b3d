"""Mounts the filesystems of the guest in the appliance.

The signed index names the partition that grows, which nearly always is the
root: to check it takes a second, while libguestfs's inspection of all
filesystems costs as much as a boot under emulation. So inspection is the
fallback, and it only finds the root: where /etc/fstab names another disk, it
would mount the only one that is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.events import Reporter, debug, warn
from imgbuilder.guests.fstab import (
    GuestDevices,
    Mount,
    find_device,
    mismatch,
    name_disks,
    parse_crypttab,
    parse_fstab,
    parse_mdadm_conf,
)
from imgbuilder.guests.ports import Appliance
from imgbuilder.guests.roots import (
    find_roots,
    is_root,
    partition_of,
    refuse_ostree,
    refuse_read_only,
    text_of,
)
from imgbuilder.guests.unlocking import encrypted_devices

_MDADM_CONF = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
_MOST = 256
"""Most filesystems that are mounted for one guest."""
_UNTOUCHED = {"ext3": "ro,noload", "ext4": "ro,noload", "xfs": "ro,norecovery", "btrfs": "ro,nologreplay"}
"""Mount options with which not even the journal is written back."""


@dataclass(frozen=True)
class MountPoint:
    """A filesystem of the guest, and where the guest mounts it."""

    device: str
    path: str
    options: str = ""
    """Mount options that shape what is seen (subvolumes)."""
    optional: bool = False
    """True if the guest starts without it."""


@dataclass(frozen=True)
class Missing:
    """A filesystem that the guest mounts but that was not found, and the reason."""

    mount: Mount
    reason: str


def mount_guest(
    appliance: Appliance, likely_root: str | None, on_event: Reporter, *, role: Role = Role.TEMPLATE
) -> str:
    """Mount all filesystems of the guest.

    Args:
        appliance: A launched appliance with nothing mounted.
        likely_root: The appliance's name of the device that the index lets grow; None when it names none.
        on_event: Receives what was found, and warnings about filesystems that cannot be mounted.
        role: The kind of image, for the wording of errors.

    Returns:
        The root's device.
    """
    if likely_root is not None and is_root(appliance, likely_root, on_event):
        if appliance.is_read_only("/"):  # a fifth of the time that it takes to ask what it is
            refuse_read_only(appliance, likely_root)
        _mount_others(appliance, find_mount_points(appliance, likely_root), on_event)
        return likely_root
    appliance.unmount_all()
    debug(on_event, "looking for the operating system on all filesystems")
    roots = find_roots(appliance, on_event)
    if len(roots) != 1:
        found = (
            f"several operating systems were found ({', '.join(roots)})"
            if roots
            else "no operating system was found"
        )
        lost = None if roots else appliance.lost_writes()
        if lost is not None:
            raise GuestError(
                f"writing to the guest's disk failed: {lost}",
                hint="check the host's disk that holds the image",
            )
        encrypted = [] if roots else encrypted_devices(appliance)
        what = "the template" if role is Role.TEMPLATE else "the image"
        if encrypted:
            raise GuestError(
                f"{found} in {what}, which is encrypted ({', '.join(encrypted)})",
                hint=f"give the key: --key {encrypted[0]}:file:FILE; nothing was written to the output",
            )
        if not roots:
            refuse_ostree(appliance)
        raise GuestError(
            f"{found} in {what}",
            hint="report it to the publisher of the template; nothing was written to the output"
            if role is Role.TEMPLATE
            else "check its format (--format), and that it is a whole disk and not one partition",
        )
    refuse_read_only(appliance, roots[0])
    mount_system(appliance, roots[0], on_event)
    return roots[0]


def mount_system(
    appliance: Appliance, root: str, on_event: Reporter, *, untouched: bool = False, strict: bool = True
) -> tuple[MountPoint, ...]:
    """Mount a system that inspection found: its root and the filesystems of its /etc/fstab.

    Args:
        appliance: A launched appliance with nothing mounted.
        root: The root's device.
        on_event: Receives warnings about filesystems that cannot be mounted.
        untouched: Whether nothing may be written, not even to replay a journal.
        strict: Whether to fail when a filesystem that the guest needs is missing.

    Returns:
        The mounted filesystems, for ``mount_again``.
    """
    place = MountPoint(root, "/")
    appliance.mount(root, "/", options=_options(appliance, place, untouched=untouched))
    found = inspect_mount_points(appliance, root)
    return (place, *_mount_others(appliance, found, on_event, untouched=untouched, strict=strict))


def mount_root(appliance: Appliance, root: str, on_event: Reporter) -> tuple[MountPoint, ...]:
    """Mount a root that is known and the filesystems of its /etc/fstab; return them for ``mount_again``."""
    appliance.mount(root, "/")
    others = _mount_others(appliance, find_mount_points(appliance, root), on_event, strict=False)
    return (MountPoint(root, "/"), *others)


def mount_again(appliance: Appliance, places: Sequence[MountPoint], on_event: Reporter) -> None:
    """Mount the filesystems of ``mount_system`` or ``mount_root`` again, for writing."""
    root, *others = places
    appliance.mount(root.device, root.path, options=root.options)
    _mount(appliance, others, on_event)


def find_mount_points(appliance: Appliance, root: str) -> list[MountPoint | Missing]:
    """Return the filesystems that the guest mounts at boot; its root is mounted already.

    Args:
        appliance: An appliance that sees no disks but those of the guest.
        root: The root's device.

    Returns:
        The filesystems that /etc/fstab names, shortest path first.
    """
    text = text_of(appliance, "/etc/fstab")
    mounts = [mount for mount in parse_fstab(text) if mount.path != "/"]
    if not mounts:
        return []
    if len(mounts) > _MOST:
        raise GuestError(f"the guest's /etc/fstab mounts {len(mounts)} filesystems, more than {_MOST}")
    own = _guest_devices(appliance, text, root, mounts)
    found: list[MountPoint | Missing] = []
    for mount in mounts:
        answer = find_device(mount.spec, own)
        reason = answer.reason
        if answer.device is not None:
            reason = mismatch(mount, answer.device, partition_of(root))
        if answer.device is None or reason:
            found.append(Missing(mount, reason))
        else:
            found.append(MountPoint(answer.device.name, mount.path, mount.options, mount.optional))
    return found


def inspect_mount_points(appliance: Appliance, root: str) -> list[MountPoint | Missing]:
    """Return the filesystems that a system mounts at boot; inspection found it, and its root is mounted.

    Without a Linux /etc/fstab, inspection finds the partitions of the system.
    """
    if appliance.inspect_facts(root)["type"] == "linux" and appliance.is_file("/etc/fstab"):
        return find_mount_points(appliance, root)
    mountpoints = appliance.inspect_mountpoints(root).items()
    return [MountPoint(device, path, optional=True) for path, device in mountpoints if path != "/"]


def _guest_devices(appliance: Appliance, fstab: str, root: str, mounts: Sequence[Mount]) -> GuestDevices:
    containers: dict[str, str] = {}
    arrays: dict[str, str] = {}
    if any("/mapper/" in mount.spec or "dm-name" in mount.spec for mount in mounts):
        containers = parse_crypttab(text_of(appliance, "/etc/crypttab"))
    if any(mount.spec.startswith("/dev/md") for mount in mounts):
        arrays = parse_mdadm_conf("\n".join(text_of(appliance, path) for path in _MDADM_CONF))
    disks = name_disks(fstab, partition_of(root), appliance.disks())
    return GuestDevices(tuple(appliance.block_devices()), disks, containers, arrays)


def _mount_others(
    appliance: Appliance,
    wanted: Iterable[MountPoint | Missing],
    on_event: Reporter,
    *,
    untouched: bool = False,
    strict: bool = True,
) -> list[MountPoint]:
    """Mount further filesystems of the guest; its root is mounted already."""
    places = []
    for found in wanted:
        if isinstance(found, MountPoint):
            places.append(found)
            continue
        mount, reason = found.mount, found.reason
        if strict and not mount.optional:
            raise _unusable(f"{mount.spec}, which the guest mounts on {mount.path}, was not found: {reason}")
        warn(on_event, f"{mount.spec} is not mounted on {mount.path} of the guest: {reason}")
    return _mount(appliance, places, on_event, untouched=untouched, strict=strict)


def _mount(
    appliance: Appliance,
    places: Iterable[MountPoint],
    on_event: Reporter,
    *,
    untouched: bool = False,
    strict: bool = True,
) -> list[MountPoint]:
    """Mount filesystems; return the ones that could be mounted."""
    done = []
    for place in places:
        try:
            if not appliance.is_dir(place.path):
                warn(on_event, f"{place.device} is not mounted: the guest has no folder {place.path}")
                continue
            # mount(8) runs outside the guest, where a link in the guest would point to another place.
            path = appliance.realpath(place.path)
            appliance.mount(place.device, path, options=_options(appliance, place, untouched=untouched))
        except GuestCallError as error:
            problem = f"{place.device} cannot be mounted on {place.path} of the guest: {error.message}"
            if strict and not place.optional:
                raise _unusable(problem) from error
            warn(on_event, problem)
        else:
            done.append(MountPoint(place.device, path, place.options, place.optional))
    return done


def _options(appliance: Appliance, place: MountPoint, *, untouched: bool) -> str:
    if not untouched:
        return place.options
    safe = _UNTOUCHED.get(appliance.filesystem_type(place.device), "ro")
    return ",".join(filter(None, [safe, place.options]))


def _unusable(problem: str) -> GuestError:
    return GuestError(
        problem,
        hint="nothing was changed; if the guest works without it, add nofail to its line in the guest's "
        "/etc/fstab; or give pybuilder-customize all disks of the guest in their order: -a DISK -a DISK",
    )
