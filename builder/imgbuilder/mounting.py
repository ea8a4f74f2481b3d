"""Finding the guest's root in the appliance, and mounting its filesystems.

The signed index names the partition that grows, which nearly always is the
root: a look at it takes a second, while libguestfs's inspection of all
filesystems costs as much as a boot under emulation. Inspection is the fallback
(design decision 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgbuilder.disk.partition import is_whole_disk, partition_number
from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.events import debug, warn
from imgbuilder.fstab import Mount, parse_fstab
from imgbuilder.unlocking import encrypted_devices

if TYPE_CHECKING:
    from imgbuilder.events import Reporter
    from imgbuilder.guest import Appliance

_RELEASE_FILES = ("/etc/os-release", "/usr/lib/os-release")


def mount_guest(appliance: Appliance, likely_root: str | None, report: Reporter) -> str:
    """Mount all filesystems of the guest on the first disk.

    Args:
        appliance: A launched appliance with nothing mounted.
        likely_root: The device that the index lets grow; None when it names none.
        report: Hears what was found, and of filesystems that cannot be mounted.

    Returns:
        The root's device.

    Raises:
        GuestError: There is no operating system, or more than one.
    """
    root = _quick_look(appliance, likely_root, report)
    if root is not None:
        return root
    appliance.unmount_all()
    debug(report, "looking for the operating system on all filesystems")
    roots = appliance.inspect_roots()
    if len(roots) != 1:
        found = (
            f"several operating systems were found ({', '.join(roots)})"
            if roots
            else "no operating system was found"
        )
        lost = None if roots else appliance.lost_writes()
        if lost is not None:
            raise GuestError(
                f"the guest's disk does not take what is written: {lost}",
                hint="check the disk that the image is on",
            )
        encrypted = [] if roots else encrypted_devices(appliance)
        if encrypted:
            raise GuestError(
                f"{found} in the template, which is encrypted ({', '.join(encrypted)})",
                hint=f"give the key: --key {encrypted[0]}:file:FILE; nothing was written to the output",
            )
        raise GuestError(
            f"{found} in the template",
            hint="tell the publisher of the template; nothing was written to the output",
        )
    for path, device in appliance.inspect_mountpoints(roots[0]).items():
        try:
            appliance.mount(device, path)
        except GuestCallError as error:
            if path == "/":
                raise
            warn(report, f"{device} cannot be mounted on {path} of the guest: {error.message}")
    return roots[0]


def _quick_look(appliance: Appliance, likely_root: str | None, report: Reporter) -> str | None:
    if likely_root is None:
        return None
    device = appliance_device(likely_root)
    try:
        appliance.mount(device, "/")
    except GuestCallError as error:
        debug(report, f"{device} is not the root: {error.message}")
        return None
    if not any(appliance.is_file(path) for path in _RELEASE_FILES):
        debug(report, f"{device} is not the root: it has no os-release file")
        return None
    others = _other_mounts(appliance)
    devices = [_find(appliance, mount) for mount in others]
    if any(found is None for found in devices):
        debug(report, "not all lines of /etc/fstab are understood")
        return None
    for mount, found in zip(others, devices, strict=True):
        assert found is not None
        try:
            appliance.mount(found, mount.path, options=mount.options)
        except GuestCallError as error:
            warn(report, f"{found} cannot be mounted on {mount.path} of the guest: {error.message}")
    return device


def appliance_device(device: str) -> str:
    """Return what the appliance calls a disk or partition that an index may call ``/dev/vda2``."""
    if device.startswith("/dev/sd"):
        return device
    number = partition_number(device)
    if number is not None:
        return f"/dev/sda{number}"
    return "/dev/sda" if is_whole_disk(device) else device


def _other_mounts(appliance: Appliance) -> list[Mount]:
    if not appliance.is_file("/etc/fstab"):
        return []
    text = appliance.read("/etc/fstab").decode("utf-8", "replace")
    return [mount for mount in parse_fstab(text) if mount.path != "/"]


def _find(appliance: Appliance, mount: Mount) -> str | None:
    """Return the device of an fstab line; None when only inspection could tell."""
    tag, _, value = mount.spec.partition("=")
    value = value.strip('"')
    try:
        match tag:
            case "UUID":
                return appliance.find_by_uuid(value)
            case "LABEL":
                return appliance.find_by_label(value)
            case "PARTUUID":
                return appliance.find_by_partuuid(value)
    except GuestCallError:
        return None
    if mount.spec.startswith("/dev/disk/by-uuid/"):
        return _find(
            appliance, Mount(f"UUID={mount.spec.rpartition('/')[2]}", mount.path, mount.kind, mount.options)
        )
    if partition_number(mount.spec) is not None:
        return appliance_device(mount.spec)
    try:
        return appliance.canonical_volume(mount.spec)
    except GuestCallError:
        return None  # such as a LUKS container, which the guest calls as its crypttab says
