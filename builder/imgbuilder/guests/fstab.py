"""A guest's /etc/fstab (fstab(5)), and the devices that its names mean; nothing here asks the appliance.

Names are looked for on the guest's own disks only. A name that may mean another disk is never resolved to
one of them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from imgbuilder.disk.devicenames import mapper_name, parse_device_name
from imgbuilder.guests.ports import ProbedDevice

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
    """A line of /etc/fstab: a filesystem on a disk that the guest mounts at boot."""

    spec: str
    """The device as written: ``UUID=...``, ``LABEL=...`` or a device."""
    path: str
    """An absolute path in the guest."""
    kind: str
    """Filesystem type."""
    options: str
    """Mount options that shape what is seen (subvolumes), comma-separated; empty for none."""
    optional: bool = False
    """True if the guest starts without it."""


@dataclass(frozen=True)
class GuestDevices:
    """The devices on the guest's own disks, and the guest's names for them."""

    devices: tuple[ProbedDevice, ...]
    """All devices that may hold data."""
    disks: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """The appliance's name of each disk, by scheme and number in the guest's names."""
    containers: Mapping[str, str] = field(default_factory=dict)
    """Encrypted devices by the names that the guest's crypttab(5) gives them."""
    arrays: Mapping[str, str] = field(default_factory=dict)
    """UUIDs of arrays by the names that the guest's mdadm.conf(5) gives them."""


@dataclass(frozen=True)
class DeviceMatch:
    """The device that a name means, or None and the reason."""

    device: ProbedDevice | None
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
            continue  # a network or virtual filesystem
        kept = ",".join(sorted(item for item in options if item.startswith(("subvol=", "subvolid="))))
        optional = bool(_OPTIONAL & options) or _REMOVABLE.fullmatch(spec) is not None
        place = posixpath.normpath("/" + path.lstrip("/"))
        mounts[place] = Mount(spec, place, kind, kept, optional)  # the last of several hides the others
    return sorted(mounts.values(), key=lambda mount: len(mount.path))


def parse_crypttab(text: str) -> dict[str, str]:
    """Return the devices of crypttab(5) by their names."""
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
    """Map kernel names of disks in a guest's fstab(5), such as /dev/vda, to the appliance's disks.

    The line of the root decides, where it has such a name. Otherwise the names are numbered in order; if
    there are several schemes, the one with a first disk counts.

    Returns:
        The appliance's name of each disk, by scheme and number in the guest's names.
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


def find_device(spec: str, own: GuestDevices) -> DeviceMatch:
    """Resolve a device name of the guest to a device on its own disks, or return why it was not found."""
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
            return DeviceMatch(None, "it may be on another disk of the guest")
        return _by_name(f"{disk}{name.number or ''}", own)
    if spec.startswith("/dev/disk/by-id/dm-name-"):
        spec = f"/dev/mapper/{spec.removeprefix('/dev/disk/by-id/dm-name-')}"
    array = _ARRAY.fullmatch(spec)
    if array is not None:
        return _by_array(spec, own)
    if spec.startswith("/dev/disk/") or tag is not None:
        return DeviceMatch(
            None, "the name depends on the hardware, so it can be resolved on the running machine only"
        )
    container = own.containers.get(spec.removeprefix("/dev/mapper/")) if "/mapper/" in spec else None
    if container is not None:
        return _in_container(spec, container, own)
    return _by_name(spec, own)


def _by_tag(tag: str, value: str, own: GuestDevices) -> DeviceMatch:
    exact = tag in {"LABEL", "PARTLABEL"}
    wanted = value if exact else value.casefold()

    def has(device: ProbedDevice) -> str:
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
        return DeviceMatch(None, "no device on the guest's disks has this name")
    members = {device.member for device in found if device.kind == "btrfs" and device.member}
    if len(found) > 1 and len(members) != len(found):  # one btrfs may have several devices
        return DeviceMatch(None, f"{' and '.join(device.name for device in found)} have this name")
    return DeviceMatch(found[0])


def _by_name(name: str, own: GuestDevices) -> DeviceMatch:
    wanted = mapper_name(name)
    for device in own.devices:
        if mapper_name(device.name) == wanted:
            return DeviceMatch(device)
    return DeviceMatch(None, "no device on the guest's disks has this name")


def _by_array(spec: str, own: GuestDevices) -> DeviceMatch:
    name = _array_name(spec)
    uuid = own.arrays.get(name)
    arrays = [device for device in own.devices if device.array_uuid]
    if uuid is not None:
        found = [device for device in arrays if _plain_uuid(device.array_uuid) == uuid]
    else:  # the name inside the array follows the name of the host that created it
        found = [device for device in arrays if device.array.rpartition(":")[2] == name]
    if len(found) != 1:
        return DeviceMatch(None, "no array on the guest's disks matches it for certain")
    return DeviceMatch(found[0])


def _in_container(spec: str, container: str, own: GuestDevices) -> DeviceMatch:
    """Resolve the content of a LUKS container, which is opened under the name of its UUID."""
    name = spec.removeprefix("/dev/mapper/")
    rest = {
        key: value for key, value in own.containers.items() if key != name
    }  # so that no container contains itself
    holder = find_device(container, replace(own, containers=rest))
    if holder.device is None:
        return holder
    opened = _by_name(f"/dev/mapper/luks-{holder.device.uuid}", own)
    if opened.device is None:
        return DeviceMatch(None, f"{holder.device.name} is encrypted, and no key is given for it (--key)")
    return opened


def mismatch(mount: Mount, device: ProbedDevice, root: str) -> str:
    """Return why a line of fstab(5) cannot mean the device that was found; empty if it can."""
    if device.name == root and not mount.options:
        return f"{root} is the root"
    if _TAG.fullmatch(mount.spec):
        return ""
    written, found = (_FAMILIES.get(kind, kind) for kind in (mount.kind, device.kind))
    if written != found and {written, found} <= _COMPARED:
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
    """Decode bytes that are escaped as numbers."""
    plain = pattern.sub(lambda found: bytes([int(found[1], base)]), word.encode(errors="replace"))
    return plain.decode(errors="replace")


def _array_name(device: str) -> str:
    found = _ARRAY.fullmatch(device)
    return (found[1] or found[2]) if found else device


def _plain_uuid(text: str) -> str:
    return re.sub(r"[:-]", "", text).lower()
