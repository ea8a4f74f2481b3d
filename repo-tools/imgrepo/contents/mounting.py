"""Mounts the system in one image read-only, to read its files.

The root is the only filesystem with an os-release file, if /etc/fstab puts all
places that matter on it. Otherwise libguestfs's inspection finds the system.
"""

from __future__ import annotations

import string

from imgbuilder.disk.devicenames import appliance_disk
from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.guests.mounting import Missing, inspect_mount_points
from imgbuilder.guests.ports import Appliance, Guest
from imgbuilder.guests.roots import NO_FILES, has_os_release, mounted_read_only
from imgbuilder.guests.unlocking import encrypted_devices
from imgrepo.images.scan import SourceImage


def read_text(guest: Guest, path: str, limit: int) -> str:
    """Read a text file of a mounted guest; bytes that are not UTF-8 become replacement characters."""
    return guest.read(path, limit=limit).decode("utf-8", "replace")


_CONTAINERS = {"LVM2_member", "linux_raid_member"}
"""Kinds of partitions that hold further filesystems."""
_FSTAB = "/etc/fstab"
_LARGEST_FSTAB = 64 << 10


def mount_root(
    appliance: Appliance,
    image: SourceImage,
    places: tuple[str, ...],
    on_event: Reporter,
    *,
    position: int | None = None,
) -> bool:
    """Mount the only root and return True, if all places that matter are on it; else nothing is mounted.

    ``position`` is that of the image among several in the appliance.
    """
    roots = []
    devices = _filesystems(appliance) if position is None else _on_disk(appliance, appliance_disk(position))
    for device, kind in sorted(devices.items()):
        if kind in NO_FILES:
            continue
        try:
            with mounted_read_only(appliance, device):
                if has_os_release(appliance):
                    roots.append(device)
        except GuestCallError as error:
            debug(on_event, f"{image.name}: {device} is not the root: {error.message}")
    if len(roots) != 1:
        return False
    appliance.mount(roots[0], "/", options="ro")
    if _has_other_places(appliance, places):
        debug(on_event, f"{image.name}: not all of the system is on {roots[0]}")
        appliance.unmount_all()
        return False
    return True


def mount_by_inspection(
    appliance: Appliance, image: SourceImage, places: tuple[str, ...], on_event: Reporter
) -> None:
    """Find the only system by libguestfs's inspection and mount it, with all filesystems at ``places``."""
    on_event(Step(f"Inspecting {image.name}"))
    roots = appliance.inspect_roots()
    if len(roots) != 1:
        what = f"{len(roots)} operating systems" if roots else "no operating system that libguestfs knows"
        hint = "only images with one system can be listed"
        if not roots and encrypted_devices(appliance):
            what, hint = "an encrypted disk", "an image must be readable without a key"
        raise GuestError(f"{image.name} holds {what}", hint=hint)
    appliance.mount(roots[0], "/", options="ro")
    for found in inspect_mount_points(appliance, roots[0]):
        if isinstance(found, Missing):
            mount = found.mount
            matters = not mount.optional and mount.path.startswith(places)
            _skip(image, mount.spec, mount.path, found.reason, on_event, matters=matters)
            continue
        try:
            options = ",".join(filter(None, ["ro", found.options]))
            appliance.mount(found.device, appliance.realpath(found.path), options=options)
        except GuestCallError as error:
            matters = found.path.startswith(places)
            _skip(image, found.device, found.path, error.message, on_event, matters=matters)


def _skip(
    image: SourceImage, name: str, path: str, reason: str, on_event: Reporter, *, matters: bool
) -> None:
    message = f"{image.name}: {name} cannot be mounted on {path}: {reason}"
    if matters:
        raise GuestError(message)
    debug(on_event, message)


def _filesystems(appliance: Appliance) -> dict[str, str]:
    """Return the devices that may hold files, and the kind of each.

    Listing all filesystems takes libguestfs seconds under emulation; the kind of a partition costs nothing.
    """
    kinds = {
        device: appliance.filesystem_type(device) for device in appliance.partitions() or appliance.disks()
    }
    return appliance.filesystems() if _CONTAINERS.intersection(kinds.values()) else kinds


def _on_disk(appliance: Appliance, disk: str) -> dict[str, str]:
    """Return the partitions of one of several disks; none if it has volumes: others may have equal ones."""
    parts = [device for device in appliance.partitions() if device.rstrip(string.digits) == disk]
    kinds = {device: appliance.filesystem_type(device) for device in parts or [disk]}
    return {} if _CONTAINERS.intersection(kinds.values()) else kinds


def _has_other_places(guest: Guest, places: tuple[str, ...]) -> bool:
    """Check in /etc/fstab (fstab(5)) whether a guest mounts further filesystems at some places."""
    if not guest.is_file(_FSTAB):
        return False
    text = read_text(guest, _FSTAB, _LARGEST_FSTAB)
    points = [words[1] for words in map(str.split, text.split("\n")) if len(words) > 1 and words[0][0] != "#"]
    return any(point == place or point.startswith(f"{place}/") for point in points for place in places)
