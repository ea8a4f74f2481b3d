"""Finding the guest's root in the appliance, and mounting its filesystems.

The signed index names the partition that grows, which nearly always is the
root: a look at it takes a second, while libguestfs's inspection of all
filesystems costs as much as a boot under emulation. Inspection is the fallback
(design decision 5), and only finds the root: it takes a name in /etc/fstab that
means another disk for the only one that is there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from imgbuilder.disk.devicenames import mapper_name, parse_device_name
from imgbuilder.disk.imageheader import Role
from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.events import Reporter, debug, warn
from imgbuilder.guests.ports import Appliance, BlockDevice, Guest
from imgbuilder.guests.unlocking import encrypted_devices

_RELEASE_FILES = ("/etc/os-release", "/usr/lib/os-release")
_MDADM_CONF = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
_LARGEST = 1 << 20
"""Bytes that are read of a guest's tables."""
_MOST = 256
"""Filesystems of one guest."""
_NO_FILES = {"", "swap", "LVM2_member", "crypto_LUKS", "linux_raid_member"}
_UNTOUCHED = {"ext3": "ro,noload", "ext4": "ro,noload", "xfs": "ro,norecovery", "btrfs": "ro,nologreplay"}
"""How to mount so that not even the journal is written back."""


@dataclass(frozen=True)
class Place:
    """A filesystem of the guest, and where it belongs.

    Attributes:
        device: The appliance's name of it.
        path: Where the guest mounts it.
        options: Mount options that shape what is seen (subvolumes).
        optional: Whether the guest starts without it.
    """

    device: str
    path: str
    options: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Missing:
    """A filesystem that the guest mounts, but that is not there; why."""

    mount: Mount
    reason: str


_READ_ONLY = ("squashfs", "erofs", "iso9660", "cramfs", "udf")
"""Filesystems that can only be read."""


def refuse_read_only(appliance: Appliance, root: str) -> None:
    """Refuse a root that cannot be changed.

    Raises:
        GuestError: It is such a filesystem.
    """
    kind = appliance.filesystem_type(root)
    if kind in _READ_ONLY:
        raise GuestError(
            f"the guest's root, {root}, is a {kind} file system, which is read-only: it cannot be customized",
            hint="take an image whose root can be written to; nothing was changed",
        )


def mount_guest(
    appliance: Appliance, likely_root: str | None, on_event: Reporter, *, role: Role = Role.TEMPLATE
) -> str:
    """Mount all filesystems of the guest.

    Args:
        appliance: A launched appliance with nothing mounted.
        likely_root: The appliance's name of the device that the index lets grow; None when it names none.
        on_event: Reports what was found, and of filesystems that cannot be mounted.
        role: What the disk is to the reader of messages.

    Returns:
        The root's device.

    Raises:
        GuestError: There is no operating system, or more than one, or a filesystem of it is not there.
    """
    if likely_root is not None and _is_root(appliance, likely_root, on_event):
        _mount_others(appliance, find_places(appliance, likely_root), on_event)
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
                f"the guest's disk does not take what is written: {lost}",
                hint="check the disk that the image is on",
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
            hint="tell the publisher of the template; nothing was written to the output"
            if role is Role.TEMPLATE
            else "is it of another format (--format), or only a part of a guest?",
        )
    mount_system(appliance, roots[0], on_event)
    return roots[0]


def find_roots(appliance: Appliance, on_event: Reporter) -> list[str]:
    """Let libguestfs find the operating systems; of one on several subvolumes, only that which starts.

    The others are snapshots of it, as snapper and Timeshift make them.

    Args:
        appliance: A launched appliance with nothing mounted.
        on_event: Reports which are left alone.

    Returns:
        The roots' devices.
    """
    roots = appliance.inspect_roots()
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
    """Return which of several roots on one btrfs starts: its default, or what its own fstab names."""
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
        appliance.mount(root, "/", options="ro")
        mounts = parse_fstab(_text(appliance, "/etc/fstab"))
    except GuestCallError:
        return False
    finally:
        appliance.unmount_all()
    named = {option for mount in mounts if mount.path == "/" for option in mount.options.split(",")}
    return bool({f"subvol={path}", f"subvol=/{path}"} & named)


def refuse_ostree(appliance: Appliance) -> None:
    """Refuse a system that libguestfs does not know because ostree has put it together.

    Raises:
        GuestError: There is one.
    """
    for device in appliance.block_devices():
        if device.kind in _NO_FILES:
            continue
        try:
            appliance.mount(device.name, "/", options="ro")
            has_deployments = appliance.is_dir("/ostree/deploy")
        except GuestCallError:
            continue
        finally:
            appliance.unmount_all()
        if has_deployments:
            raise GuestError(
                f"{device.name} holds a system of ostree, as Fedora CoreOS, IoT and Silverblue are, whose "
                "files are replaced as a whole and cannot be customized in place",
                hint="configure it when it first starts, with Ignition or cloud-init, or make an image of "
                "your own with rpm-ostree or bootc; nothing was changed",
            )


def mount_system(
    appliance: Appliance, root: str, on_event: Reporter, *, untouched: bool = False, strict: bool = True
) -> tuple[Place, ...]:
    """Mount a system that inspection found: its root, and what it mounts by itself.

    Args:
        appliance: A launched appliance with nothing mounted.
        root: The root's device.
        on_event: Reports filesystems that cannot be mounted.
        untouched: Whether nothing may be written, not even to finish what a journal has.
        strict: Whether a filesystem that the guest needs must be there.

    Returns:
        What was mounted, for ``mount_places``.

    Raises:
        GuestError: A filesystem that the guest needs is not there, or cannot be mounted.
    """
    place = Place(root, "/")
    appliance.mount(root, "/", options=_options(appliance, place, untouched=untouched))
    found = inspect_places(appliance, root)
    return (place, *_mount_others(appliance, found, on_event, untouched=untouched, strict=strict))


def mount_places(appliance: Appliance, places: Sequence[Place], on_event: Reporter) -> None:
    """Mount again what ``mount_system`` mounted, to change it.

    Raises:
        GuestError: A filesystem that the guest needs can only be read.
    """
    root, *others = places
    appliance.mount(root.device, root.path, options=root.options)
    _mount(appliance, others, on_event)


def find_places(appliance: Appliance, root: str) -> list[Place | Missing]:
    """Find what the guest mounts by itself, on its root, which is mounted.

    Args:
        appliance: An appliance with the guest's root, and no disks but the guest's own in sight.
        root: The root's device.

    Returns:
        The filesystems that /etc/fstab names, shortest path first.

    Raises:
        GuestError: There are far too many.
    """
    text = _text(appliance, "/etc/fstab")
    mounts = [mount for mount in parse_fstab(text) if mount.path != "/"]
    if not mounts:
        return []
    if len(mounts) > _MOST:
        raise GuestError(
            f"the guest's /etc/fstab mounts {len(mounts)} filesystems", hint=f"at most {_MOST} can be mounted"
        )
    own = _guest_devices(appliance, text, root, mounts)
    found: list[Place | Missing] = []
    for mount in mounts:
        answer = find_device(mount.spec, own)
        reason = answer.reason
        if answer.device is not None:
            reason = why_not(mount, answer.device, partition_of(root))
        if answer.device is None or reason:
            found.append(Missing(mount, reason))
        else:
            found.append(Place(answer.device.name, mount.path, mount.options, mount.optional))
    return found


def inspect_places(appliance: Appliance, root: str) -> list[Place | Missing]:
    """Find what a system that inspection found mounts by itself, on its root, which is mounted.

    Systems that have no /etc/fstab, or not Linux's, are known by their partitions.
    """
    if appliance.inspect_facts(root)["type"] == "linux" and appliance.is_file("/etc/fstab"):
        return find_places(appliance, root)
    mountpoints = appliance.inspect_mountpoints(root).items()
    return [Place(device, path, optional=True) for path, device in mountpoints if path != "/"]


def partition_of(root: str) -> str:
    """Return the device of a root that may be a subvolume: ``btrfsvol:/dev/sda2/root``."""
    if not root.startswith("btrfsvol:"):
        return root
    words = root.removeprefix("btrfsvol:").split("/")
    return "/".join(words[: 4 if words[2] == "mapper" else 3])


def _is_root(appliance: Appliance, device: str, on_event: Reporter) -> bool:
    """Mount a device, and see whether a system is on it."""
    try:
        appliance.mount(device, "/")
    except GuestCallError as error:
        debug(on_event, f"{device} is not the root: {error.message}")
        return False
    if not any(appliance.is_file(path) for path in _RELEASE_FILES):
        debug(on_event, f"{device} is not the root: it has no os-release file")
        return False
    return True


def _guest_devices(appliance: Appliance, fstab: str, root: str, mounts: Sequence[Mount]) -> GuestDevices:
    containers: dict[str, str] = {}
    arrays: dict[str, str] = {}
    if any("/mapper/" in mount.spec or "dm-name" in mount.spec for mount in mounts):
        containers = parse_crypttab(_text(appliance, "/etc/crypttab"))
    if any(mount.spec.startswith("/dev/md") for mount in mounts):
        arrays = parse_mdadm_conf("\n".join(_text(appliance, path) for path in _MDADM_CONF))
    disks = name_disks(fstab, partition_of(root), appliance.disks())
    return GuestDevices(tuple(appliance.block_devices()), disks, containers, arrays)


def _mount_others(
    appliance: Appliance,
    wanted: Iterable[Place | Missing],
    on_event: Reporter,
    *,
    untouched: bool = False,
    strict: bool = True,
) -> list[Place]:
    """Mount what the guest mounts by itself on its root, which is mounted."""
    places = []
    for found in wanted:
        if isinstance(found, Place):
            places.append(found)
            continue
        mount, reason = found.mount, found.reason
        if strict and not mount.optional:
            raise _unusable(f"{mount.spec}, which the guest mounts on {mount.path}, was not found: {reason}")
        warn(on_event, f"{mount.spec} is not mounted on {mount.path} of the guest: {reason}")
    return _mount(appliance, places, on_event, untouched=untouched, strict=strict)


def _mount(
    appliance: Appliance,
    places: Iterable[Place],
    on_event: Reporter,
    *,
    untouched: bool = False,
    strict: bool = True,
) -> list[Place]:
    """Mount filesystems; return those that are."""
    done = []
    for place in places:
        try:
            if not appliance.is_dir(place.path):
                warn(on_event, f"{place.device} is not mounted: the guest has no folder {place.path}")
                continue
            # mount(8) runs outside of the guest, where a link of the guest's leads to something else.
            path = appliance.realpath(place.path)
            appliance.mount(place.device, path, options=_options(appliance, place, untouched=untouched))
        except GuestCallError as error:
            problem = f"{place.device} cannot be mounted on {place.path} of the guest: {error.message}"
            if strict and not place.optional:
                raise _unusable(problem) from error
            warn(on_event, problem)
        else:
            done.append(Place(place.device, path, place.options, place.optional))
    return done


def _options(appliance: Appliance, place: Place, *, untouched: bool) -> str:
    if not untouched:
        return place.options
    safe = _UNTOUCHED.get(appliance.filesystem_type(place.device), "ro")
    return ",".join(filter(None, [safe, place.options]))


def _unusable(problem: str) -> GuestError:
    return GuestError(
        problem,
        hint="nothing was changed; add nofail to its line in the guest's /etc/fstab if the guest works "
        "without it, or give pybuilder-customize all disks of the guest, in their order: -a DISK -a DISK",
    )


def _text(guest: Guest, path: str) -> str:
    if not guest.is_file(path):
        return ""
    return guest.start_of(path, _LARGEST).decode("utf-8", "replace")


# Reading a guest's /etc/fstab (fstab(5)), and finding the devices that it means. Pure.
#
# Names are looked for on the guest's own disks only, and a name that may mean another disk is
# never taken for one of them.


_OCTAL = re.compile(rb"\\([0-3][0-7]{2})")
_TAG = re.compile(r"(UUID|LABEL|PARTUUID|PARTLABEL|ID)=(.*)", re.DOTALL)
_BY_TAG = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)", re.DOTALL)
_UDEV_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
_REMOVABLE = re.compile(r"/dev/(?:fd|floppy|sr|scd|cdrom|cdrw|dvd)[0-9a-z]*")
_ARRAY = re.compile(r"/dev/md(?:/([^/]+)|([0-9]+))")
_AUTOMATIC = "x-systemd.automount"
_OPTIONAL = frozenset({"nofail", "_netdev", _AUTOMATIC})
_FAMILIES = {"ext2": "ext", "ext3": "ext", "ext4": "ext", "msdos": "vfat", "fat": "vfat"}
_COMPARED = frozenset({"ext", "vfat", "xfs", "btrfs", "f2fs", "jfs", "reiserfs"})


@dataclass(frozen=True)
class Mount:
    """One filesystem that a guest mounts by itself.

    Attributes:
        spec: What to mount, as written: ``UUID=...``, ``LABEL=...`` or a device.
        path: Where, an absolute path.
        kind: Filesystem type.
        options: Mount options that shape what is seen (subvolumes), comma-separated; empty for none.
        optional: Whether the guest starts without it.
    """

    spec: str
    path: str
    kind: str
    options: str
    optional: bool = False


@dataclass(frozen=True)
class GuestDevices:
    """What is on the guest's own disks, and what the guest calls it.

    Attributes:
        devices: All that may hold something.
        disks: The appliance's name of each disk, by kind and place in the guest's own names.
        containers: What the guest's crypttab(5) opens, by the name that it gives.
        arrays: UUIDs of arrays, by the name that the guest's mdadm.conf(5) gives.
    """

    devices: tuple[BlockDevice, ...]
    disks: Mapping[tuple[str, int], str] = field(default_factory=dict)
    containers: Mapping[str, str] = field(default_factory=dict)
    arrays: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The device that a name means: its name in the appliance; or None, and why."""

    device: BlockDevice | None
    reason: str = ""


def parse_fstab(text: str) -> list[Mount]:
    """Return the filesystems on disks that a guest mounts by itself, shortest path first.

    Lines that cannot be understood are left out, as mount(8) does.
    """
    mounts = {}
    for spec, path, kind, options in _lines(text):
        if not path.startswith("/") or {"bind", "rbind", "loop"} & options:
            continue  # swap has no path
        if "noauto" in options and _AUTOMATIC not in options:
            continue
        if not (spec.startswith("/dev/") or _TAG.fullmatch(spec)):
            continue  # of the network, or of the kernel's own making
        kept = ",".join(sorted(item for item in options if item.startswith(("subvol=", "subvolid="))))
        optional = bool(_OPTIONAL & options) or _REMOVABLE.fullmatch(spec) is not None
        place = posixpath.normpath("/" + path.lstrip("/"))
        mounts[place] = Mount(spec, place, kind, kept, optional)  # of several, the last one shows
    return sorted(mounts.values(), key=lambda mount: len(mount.path))


def parse_crypttab(text: str) -> dict[str, str]:
    """Return what crypttab(5) opens, by its name."""
    lines = (line.split() for line in text.split("\n"))
    return {words[0]: words[1] for words in lines if len(words) > 1 and not words[0].startswith("#")}


def parse_mdadm_conf(text: str) -> dict[str, str]:
    """Return the UUIDs of arrays by their names, from mdadm.conf(5)."""
    found = {}
    for line in text.split("\n"):
        words = line.split()
        if len(words) > 1 and words[0].upper() == "ARRAY":
            for word in words[2:]:
                key, _, value = word.partition("=")
                if key.lower() == "uuid":
                    found[_array_name(words[1])] = _plain_uuid(value)
    return found


def name_disks(text: str, root: str, disks: Sequence[str]) -> dict[tuple[str, int], str]:
    """Find out which disks the kernel's names in a guest's fstab(5) mean.

    Where the root's line has such a name, it shows what the others mean. Else names of one kind count the
    disks; of several kinds, the one that has a first disk.

    Args:
        text: The guest's fstab.
        root: The appliance's name of the root's device.
        disks: The appliance's names of the guest's disks, in the guest's order.

    Returns:
        The appliance's name of each disk, by kind and place in the guest's names.
    """
    named = {path: name for spec, path, *_ in _lines(text) if (name := parse_device_name(spec)) is not None}
    every = [name for spec, *_ in _lines(text) if (name := parse_device_name(spec)) is not None]
    line, own = named.get("/"), parse_device_name(root)
    if line is not None:
        if own is None or own.number != line.number or own.disk >= len(disks):
            return {}  # not the line of this root
        if own.disk != line.disk:
            return {(line.scheme, line.disk): disks[own.disk]}
        schemes = {line.scheme}
    else:
        schemes = {name.scheme for name in every if name.disk == 0} or {name.scheme for name in every}
    if len(schemes) != 1:
        return {}
    (scheme,) = schemes
    return {(scheme, place): disk for place, disk in enumerate(disks)}


def find_device(spec: str, own: GuestDevices) -> Found:
    """Find the device that a name of the guest means, on the guest's own disks.

    Args:
        spec: A name as fstab(5) and crypttab(5) have them.
        own: What is there.

    Returns:
        The device, or why there is none.
    """
    by_tag = _BY_TAG.fullmatch(spec)
    if by_tag is not None:
        return _by_tag(by_tag[1].upper(), _decode(_UDEV_ESCAPE, 16, by_tag[2]), own)
    tag = _TAG.fullmatch(spec)
    if tag is not None and tag[1] != "ID":
        return _by_tag(tag[1], _unquote(tag[2]), own)
    name = parse_device_name(spec)
    if name is not None:
        disk = own.disks.get((name.scheme, name.disk))
        if disk is None:
            return Found(None, "it is not certain to be on a disk of the guest's that is here")
        return _by_name(f"{disk}{name.number or ''}", own)
    if spec.startswith("/dev/disk/by-id/dm-name-"):
        spec = f"/dev/mapper/{spec.removeprefix('/dev/disk/by-id/dm-name-')}"
    array = _ARRAY.fullmatch(spec)
    if array is not None:
        return _by_array(spec, own)
    if spec.startswith("/dev/disk/") or tag is not None:
        return Found(None, "which disk it means cannot be known without the machine")
    container = own.containers.get(spec.removeprefix("/dev/mapper/")) if "/mapper/" in spec else None
    if container is not None:
        return _in_container(spec, container, own)
    return _by_name(spec, own)


def _by_tag(tag: str, value: str, own: GuestDevices) -> Found:
    exact = tag in {"LABEL", "PARTLABEL"}
    wanted = value if exact else value.casefold()

    def has(device: BlockDevice) -> str:
        match tag:
            case "UUID":
                return device.uuid.casefold()
            case "LABEL":
                return device.label
            case "PARTUUID":
                return device.partuuid.casefold()
            case _:
                return device.partlabel

    found = [device for device in own.devices if wanted and has(device) == wanted]
    if not found:
        return Found(None, "the guest's disks have none of this name")
    members = {device.member for device in found if device.kind == "btrfs" and device.member}
    if len(found) > 1 and len(members) != len(found):  # one btrfs may have several devices
        return Found(None, f"{' and '.join(device.name for device in found)} have this name")
    return Found(found[0])


def _by_name(name: str, own: GuestDevices) -> Found:
    wanted = mapper_name(name)
    for device in own.devices:
        if mapper_name(device.name) == wanted:
            return Found(device)
    return Found(None, "the guest's disks have none of this name")


def _by_array(spec: str, own: GuestDevices) -> Found:
    name = _array_name(spec)
    uuid = own.arrays.get(name)
    arrays = [device for device in own.devices if device.array_uuid]
    if uuid is not None:
        found = [device for device in arrays if _plain_uuid(device.array_uuid) == uuid]
    else:  # the array's own name, after the name of the machine that made it
        found = [device for device in arrays if device.array.rpartition(":")[2] == name]
    if len(found) != 1:
        return Found(None, "no array on the guest's disks is certain to be it")
    return Found(found[0])


def _in_container(spec: str, container: str, own: GuestDevices) -> Found:
    """Find what a LUKS container holds, which is opened under the name of its UUID."""
    name = spec.removeprefix("/dev/mapper/")
    rest = {key: value for key, value in own.containers.items() if key != name}  # none leads to itself
    holder = find_device(container, replace(own, containers=rest))
    if holder.device is None:
        return holder
    opened = _by_name(f"/dev/mapper/luks-{holder.device.uuid}", own)
    if opened.device is None:
        return Found(None, f"{holder.device.name} is encrypted, and no key is given for it (--key)")
    return opened


def why_not(mount: Mount, device: BlockDevice, root: str) -> str:
    """Return what shows that a line of fstab(5) cannot mean a device that was found; empty for nothing."""
    if device.name == root and not mount.options:
        return f"{root} is the root"
    if _TAG.fullmatch(mount.spec):
        return ""
    said, is_there = (_FAMILIES.get(kind, kind) for kind in (mount.kind, device.kind))
    if said != is_there and {said, is_there} <= _COMPARED:
        return f"{device.name} holds {device.kind}, not {mount.kind}"
    return ""


def _lines(text: str) -> list[tuple[str, str, str, frozenset[str]]]:
    found = []
    for line in text.split("\n"):
        words = [_decode(_OCTAL, 8, word) for word in line.split()]
        if len(words) > 2 and not words[0].startswith("#") and not any("\0" in word for word in words):
            options = frozenset(words[3].split(",")) if len(words) > 3 else frozenset()
            found.append((_unquote_tag(words[0]), words[1], words[2], options))
    return found


def _unquote_tag(spec: str) -> str:
    tag = _TAG.fullmatch(spec)
    return spec if tag is None else f"{tag[1]}={_unquote(tag[2])}"


def _unquote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def _decode(pattern: re.Pattern[bytes], base: int, word: str) -> str:
    """Decode the bytes that are written as numbers."""
    plain = pattern.sub(lambda found: bytes([int(found[1], base)]), word.encode(errors="replace"))
    return plain.decode(errors="replace")


def _array_name(device: str) -> str:
    found = _ARRAY.fullmatch(device)
    return (found[1] or found[2]) if found else device


def _plain_uuid(text: str) -> str:
    return re.sub(r"[:-]", "", text).lower()
