"""Finds the operating systems on the guest's disks, and reads os-release(5), which names them."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Sequence

from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.events import Reporter, debug, warn
from imgbuilder.guests.fstab import parse_fstab
from imgbuilder.guests.ports import Appliance, Guest

_LARGEST_TABLE = 1 << 20
"""Bytes that are read of a table such as /etc/fstab."""
NO_FILES = {"", "swap", "unknown", "LVM2_member", "crypto_LUKS", "linux_raid_member"}
"""Kinds of devices that hold no files, or none that can be mounted."""
_READ_ONLY = ("squashfs", "erofs", "iso9660", "cramfs", "udf")
"""Filesystems that can only be read."""
_NTFS_STATES = {14: "is hibernated, or shut down for a fast start", 15: "was not shut down cleanly"}
"""Answers of ntfs-3g.probe(8) about an NTFS that only its own Windows may change."""


def refuse_read_only(appliance: Appliance, root: str) -> None:
    """Refuse a root that cannot be changed."""
    kind = appliance.filesystem_type(root)
    if kind in _READ_ONLY:
        raise GuestError(
            f"the guest's root, {root}, is a {kind} file system, which is read-only: it cannot be customized",
            hint="use an image with a writable root; nothing was changed",
        )
    if kind == "ntfs":
        _refuse_unsettled(appliance, root)


def _refuse_unsettled(appliance: Appliance, device: str) -> None:
    """Refuse an NTFS for which its Windows has changes in memory or in a log: they would be lost."""
    answer = appliance.probe_ntfs(device)
    if answer != 0:
        state = _NTFS_STATES.get(answer, f"has an NTFS that cannot be changed (ntfs-3g.probe: {answer})")
        raise GuestError(
            f"the Windows on {device} {state}: its files cannot be changed",
            hint="start it and shut it down completely: shutdown /s /t 0; nothing was changed",
        )


def partition_of(root: str) -> str:
    """Return the device of a root that may be a subvolume: ``btrfsvol:/dev/sda2/root``."""
    if not root.startswith("btrfsvol:"):
        return root
    words = root.removeprefix("btrfsvol:").split("/")
    return "/".join(words[: 4 if words[2] == "mapper" else 3])


def is_root(appliance: Appliance, device: str, on_event: Reporter) -> bool:
    """Mount a device; return whether it is the root of a system."""
    try:
        appliance.mount(device, "/")
    except GuestCallError as error:
        debug(on_event, f"{device} is not the root: {error.message}")
        return False
    if not has_os_release(appliance):
        debug(on_event, f"{device} is not the root: it has no os-release file")
        return False
    return True


@contextlib.contextmanager
def mounted_read_only(appliance: Appliance, device: str) -> Iterator[None]:
    """Mount one filesystem read-only on ``/``; nothing is mounted after the block.

    Raises:
        GuestCallError: It cannot be mounted.
    """
    try:
        appliance.mount(device, "/", options="ro")
        yield
    finally:
        appliance.unmount_all()


def find_roots(appliance: Appliance, on_event: Reporter) -> list[str]:
    """Let libguestfs find the operating systems; of several on one btrfs, only the one that starts.

    The others are snapshots of it, as snapper and Timeshift make them.
    """
    try:
        roots = appliance.inspect_roots()
    except GuestCallError as error:  # such as a damaged registry
        raise GuestError(
            f"the systems on the disks cannot be examined: {error.message}",
            hint="their files are damaged, or are not what they seem; nothing was changed",
        ) from error
    places: dict[str, list[str]] = {}
    for root in roots:
        places.setdefault(partition_of(root), []).append(root)
    chosen = []
    for device, found in places.items():
        main = found[0] if len(found) == 1 else _main_root(appliance, device, found)
        if main is None:
            chosen += found
            continue
        chosen.append(main)
        others = [root for root in found if root not in {main, device}]
        if others:
            warn(on_event, f"{main} is the system that starts; left alone: {', '.join(others)}")
    return chosen


def _main_root(appliance: Appliance, device: str, roots: Sequence[str]) -> str | None:
    """Return the root that starts, of several on one btrfs: the default, or the one that its fstab names."""
    subvolumes = {root.removeprefix(f"btrfsvol:{device}/"): root for root in roots if root != device}
    try:
        main = subvolumes.get(appliance.default_subvolume(device))
    except GuestCallError:
        main = None
    if main is not None:
        return main
    if device in roots:
        return device  # mounting it shows the default
    own = [root for path, root in subvolumes.items() if _names_itself(appliance, path, root)]
    return own[0] if len(own) == 1 else None


def _names_itself(appliance: Appliance, path: str, root: str) -> bool:
    try:
        with mounted_read_only(appliance, root):
            mounts = parse_fstab(text_of(appliance, "/etc/fstab"))
    except GuestCallError:
        return False
    named = {option for mount in mounts if mount.path == "/" for option in mount.options.split(",")}
    return bool({f"subvol={path}", f"subvol=/{path}"} & named)


def refuse_ostree(appliance: Appliance) -> None:
    """Refuse a system of ostree, which libguestfs does not recognize."""
    for device in appliance.block_devices():
        if device.kind in NO_FILES:
            continue
        try:
            with mounted_read_only(appliance, device.name):
                has_deployments = appliance.is_dir("/ostree/deploy")
        except GuestCallError:
            continue
        if has_deployments:
            raise GuestError(
                f"{device.name} holds a system that ostree manages, such as Fedora CoreOS, IoT or "
                "Silverblue; its files cannot be customized in place",
                hint="configure it at its first boot with Ignition or cloud-init, or build your own image "
                "with rpm-ostree or bootc; nothing was changed",
            )


def text_of(guest: Guest, path: str) -> str:
    """Return a table of the guest, such as /etc/fstab; empty if it is missing."""
    if not guest.is_file(path):
        return ""
    return guest.start_of(path, _LARGEST_TABLE).decode("utf-8", "replace")


_PLACES = ("/etc/os-release", "/usr/lib/os-release")
"""Its two places; the first that exists counts."""
_LARGEST = 64 * 1024
"""Bytes that are read; real ones have less than one KiB."""
_ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")


def has_os_release(guest: Guest) -> bool:
    """Return whether the mounted filesystem has an os-release file, as the root of a system has."""
    return _find(guest) is not None


def read_os_release(guest: Guest) -> dict[str, str]:
    """Read the os-release file of a mounted guest; one that is missing or far too large is empty."""
    path = _find(guest)
    return (
        {} if path is None else parse_os_release(guest.read(path, limit=_LARGEST).decode("utf-8", "replace"))
    )


def _find(guest: Guest) -> str | None:
    for path in _PLACES:
        if guest.is_file(path) and guest.stat(path).size <= _LARGEST:
            return path
    return None


def parse_os_release(text: str) -> dict[str, str]:
    """Read the assignments of an os-release file; lines that are not assignments are skipped."""
    found = {}
    for line in text.split("\n"):
        match = _ASSIGNMENT.fullmatch(line.strip())
        if match is None:
            continue
        try:
            words = shlex.split(match[2])
        except ValueError:  # an open quote
            continue
        value = words[0] if words else ""
        # In double quotes a shell lets the backslash protect these as well, which shlex does not know.
        found[match[1]] = re.sub(r"\\([$`])", r"\1", value) if match[2].startswith('"') else value
    return found
