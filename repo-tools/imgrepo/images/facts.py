"""Finds out in the appliance the facts that an index states about an image.

One launch serves as many new images as a saved appliance can be resumed with,
since a launch costs far more than a look at each: the root is the filesystem
with an os-release file, and the header of its shell has the architecture.
libguestfs inspects only images where this finds nothing, each in a separate
appliance, since inspection mixes up disks. The same is done with images with
logical volumes if there are several, as their volume groups may have one name.

Copies of images may be written to: free space in their filesystems is given back
in the same launch. Even then they are mounted read-only, so that no superblock
changes and the next run makes the same bytes of the same image.
"""

from __future__ import annotations

import re
import string
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.appliance.instant.commandline import MOST_DISKS
from imgbuilder.disk.devicenames import appliance_disk, parse_device_name
from imgbuilder.disk.partition import read_table
from imgbuilder.errors import ApplianceError, GuestCallError, GuestError, PybuilderError
from imgbuilder.events import Reporter, Step, debug, warn
from imgbuilder.guests.ports import Appliance
from imgbuilder.guests.roots import NO_FILES, has_os_release, mounted_read_only, read_os_release
from imgbuilder.host.text import one_line
from imgrepo.images.compress import ImageCopy
from imgrepo.images.scan import SourceImage
from imgrepo.images.waste import warn_of_waste
from imgrepo.services import OpenAppliance

BATCH = MOST_DISKS
"""Disks per launch: as many as a saved appliance is resumed with."""

_PROGRAMS = ("/bin/sh", "/usr/bin/env", "/bin/busybox", "/sbin/init")
_ARCH = re.compile(r"[A-Za-z0-9_-]{1,32}")
_PARTITION = re.compile(r"/dev/sda[0-9]+")
_LOGICAL_VOLUME = re.compile(r"/dev/(?!mapper/|md|sd)[A-Za-z0-9_.+-]+/[A-Za-z0-9_.+-]+")


@dataclass(frozen=True)
class ImageFacts:
    """The facts of an image.

    Attributes:
        expand: The partition to grow; None when the root is not in the last partition.
        lvexpand: The logical volume to grow with it; None when the root is not in one.
        system: Whether a system was found; otherwise the facts are the publisher's.
    """

    arch: str
    name: str | None
    osinfo: str | None
    expand: str | None
    lvexpand: str | None = None
    system: bool = True


class NoSystemError(GuestError):
    """An image holds no operating system that can be recognised."""


def examine(
    images: Sequence[SourceImage],
    open_appliance: OpenAppliance,
    options: ApplianceOptions,
    on_event: Reporter,
    *,
    copies: Mapping[str, ImageCopy] | None = None,
) -> dict[str, ImageFacts | PybuilderError]:
    """Find out the facts of images, by file name; a fault of one of them does not affect the others.

    Their headers were checked before. Of an image with a copy, the copy is examined, and free space in it is
    given back.
    """
    found: dict[str, ImageFacts | PybuilderError] = {}
    disks = [_disk(image, (copies or {}).get(image.name)) for image in images]
    for start in range(0, len(disks), BATCH):
        batch = disks[start : start + BATCH]
        on_event(Step(f"Looking into {', '.join(disk.image.name for disk in batch)}"))
        with open_appliance([disk.attachment for disk in batch], options, on_event) as appliance:
            devices = _by_disk(appliance)
            for position, disk in enumerate(batch):
                mine = devices.get(_disk_letters(position), [])
                found[disk.image.name] = _judge(appliance, disk, mine, on_event)
    for disk in disks:
        if isinstance(found[disk.image.name], _NoRootError):
            found[disk.image.name] = _inspect(disk, open_appliance, options, on_event)
    return found


class _NoRootError(GuestError):
    """The quick look found no root; inspection may find one."""


@dataclass(frozen=True)
class _Disk:
    """An image, and the file that the appliance uses for it."""

    image: SourceImage
    attachment: Attachment


def _disk(image: SourceImage, copy: ImageCopy | None) -> _Disk:
    path = image.path if copy is None else copy.path
    return _Disk(image, Attachment(path.absolute(), image.format.value, readonly=copy is None))


def _disk_letters(position: int) -> str:
    """Return the letters after ``/dev/sd`` for the disk at a position from 0."""
    return _letters(appliance_disk(position))


def _by_disk(appliance: Appliance) -> dict[str, list[str]]:
    """Sort the devices that can hold files by the letters of their disk.

    A logical volume belongs to the disk with all of its group. If several disks have copies of one group,
    it belongs to none.
    """
    disks: dict[str, list[str]] = {}
    filesystems = sorted(appliance.filesystems().items())
    has_volumes = any(_LOGICAL_VOLUME.fullmatch(device) for device, _kind in filesystems)
    # The appliance does not list physical volumes as filesystems.
    physical = _physical_volumes(appliance) if has_volumes else []
    for device, kind in filesystems:
        if kind in NO_FILES:
            continue
        if device.startswith("/dev/sd"):
            disks.setdefault(_letters(device), []).append(device)
        elif _LOGICAL_VOLUME.fullmatch(device):
            holders = {_letters(part) for part in physical if _uses(appliance, device, part)}
            if len(holders) == 1:
                disks.setdefault(min(holders), []).append(device)
    return disks


def _uses(appliance: Appliance, volume: str, device: str) -> bool:
    try:
        return appliance.volume_uses(volume, device)
    except GuestCallError:
        return True  # nothing is certain about groups of one name


def _letters(device: str) -> str:
    return device[len("/dev/sd") :].rstrip(string.digits)


def _judge(
    appliance: Appliance, disk: _Disk, devices: list[str], on_event: Reporter
) -> ImageFacts | PybuilderError:
    try:
        return _look(appliance, disk, devices, on_event)
    except ApplianceError:
        raise
    except PybuilderError as error:
        return error


def _look(appliance: Appliance, disk: _Disk, devices: list[str], on_event: Reporter) -> ImageFacts:
    image = disk.image
    roots: dict[str, ImageFacts] = {}
    for device in devices:
        try:
            with mounted_read_only(appliance, device):
                if not disk.attachment.readonly:
                    give_back(appliance, image, device, on_event)
                if has_os_release(appliance):
                    roots[device] = _read_facts(appliance, image, device)
                    warn_of_waste(appliance, image, on_event)
        except GuestCallError as error:
            debug(on_event, f"{image.name}: {device} is not the root: {error.message}")
    if not roots:
        raise _NoRootError(f"{image.name}: no filesystem has an os-release file")
    return _only_root(image, list(roots.values()))


def give_back(appliance: Appliance, image: SourceImage, device: str, on_event: Reporter) -> None:
    """Discard the free blocks of a mounted filesystem of a copy; if that fails, the copy is only larger."""
    try:
        appliance.trim("/")
    except GuestCallError as error:
        warn(
            on_event,
            f"{image.name}: free space of {device} cannot be given back, so deleted files are packed "
            f"as well: {error.message}",
        )


def _only_root(image: SourceImage, roots: list[ImageFacts]) -> ImageFacts:
    if len(roots) > 1:
        raise GuestError(f"{image.name} holds {len(roots)} operating systems, a template has one")
    return roots[0]


def _read_facts(appliance: Appliance, image: SourceImage, device: str) -> ImageFacts:
    release = read_os_release(appliance)
    arch = next(_architectures(appliance), None)
    if arch is None:
        raise _NoRootError(f"{image.name}: none of {', '.join(_PROGRAMS)} has a known architecture")
    volume = device if _LOGICAL_VOLUME.fullmatch(device) else None
    holder = _physical_volume(appliance, volume) if volume else device
    return ImageFacts(
        arch=arch,
        name=display_name(release.get("PRETTY_NAME") or release.get("NAME") or ""),
        osinfo=osinfo_id(release),
        expand=_partition_to_grow(image, holder) if holder else None,
        lvexpand=volume,
    )


def _architectures(appliance: Appliance) -> Iterator[str]:
    for path in _PROGRAMS:
        if appliance.is_file(path):
            arch = elf_arch(appliance.start_of(path, 64))
            if arch is not None:
                yield arch


def _partition_to_grow(image: SourceImage, device: str) -> str | None:
    """Return the root's partition as an index names it, if it is the last on the disk."""
    name = parse_device_name(device)
    number = name.number if name is not None else None
    table = read_table(image.path, image.format) if number is not None else None
    last = table.last_on_disk() if table is not None else None
    return f"/dev/sda{number}" if last is not None and last.number == number else None


def _inspect(
    disk: _Disk, open_appliance: OpenAppliance, options: ApplianceOptions, on_event: Reporter
) -> ImageFacts | PybuilderError:
    image = disk.image
    on_event(Step(f"Inspecting {image.name}"))
    with open_appliance([disk.attachment], options, on_event) as appliance:
        try:
            devices = _by_disk(appliance).get(_disk_letters(0), [])
            if any(_LOGICAL_VOLUME.fullmatch(device) for device in devices):
                facts = _judge(appliance, disk, devices, on_event)
                if not isinstance(facts, _NoRootError):
                    return facts
            roots = appliance.inspect_roots()
            if not roots:
                raise NoSystemError(
                    f"{image.name} holds no operating system that libguestfs knows",
                    hint="to publish it anyway, write an entry with its architecture: see pybuilder-repo(1)",
                )
            return _only_root(image, [_inspected(appliance, image, root) for root in roots])
        except ApplianceError:
            raise
        except PybuilderError as error:
            return error


def _inspected(appliance: Appliance, image: SourceImage, root: str) -> ImageFacts:
    facts = appliance.inspect_facts(root)
    known = {key: value for key, value in facts.items() if value and value != "unknown"}
    arch = known.get("arch", "")
    if not _ARCH.fullmatch(arch):
        raise GuestError(f"{image.name}: the architecture of the system is unknown")
    volume = root if _LOGICAL_VOLUME.fullmatch(root) else None
    device = _physical_volume(appliance, volume) if volume else root.removeprefix("btrfsvol:")
    partition = _PARTITION.match(device or "")
    return ImageFacts(
        arch=arch,
        name=display_name(known.get("product_name", "")),
        osinfo=display_name(known.get("osinfo", "")),
        expand=_partition_to_grow(image, partition[0]) if partition else None,
        lvexpand=volume,
    )


def _physical_volumes(appliance: Appliance) -> list[str]:
    """Return the partitions that are physical volumes of LVM."""
    return [device for device in appliance.partitions() if appliance.filesystem_type(device) == "LVM2_member"]


def _physical_volume(appliance: Appliance, volume: str) -> str | None:
    """Return the only physical volume of a logical volume's group; None unless there is exactly one."""
    found = [device for device in _physical_volumes(appliance) if _uses(appliance, volume, device)]
    return found[0] if len(found) == 1 else None


# The template's author wrote these texts and may be hostile: each result fits into one line of an index
# (``docs/threat-model.md`` R15, T15).
_LONGEST_NAME = 100
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4})*")

_ELF_MACHINES = {
    (3, "<"): "i386",
    (20, ">"): "ppc",
    (21, ">"): "ppc64",
    (21, "<"): "ppc64le",
    (22, ">"): "s390x",
    (40, "<"): "armv7l",
    (62, "<"): "x86_64",
    (183, "<"): "aarch64",
    (243, "<"): "riscv64",
    (258, "<"): "loongarch64",
}
"""ELF machine numbers with byte order, see elf(5)."""

_OSINFO_PREFIXES = {
    "almalinux": "almalinux",
    "alpine": "alpinelinux",
    "amzn": "amazonlinux",
    "centos": "centos-stream",
    "debian": "debian",
    "fedora": "fedora",
    "ol": "ol",
    "opensuse-leap": "opensuse",
    "rhel": "rhel",
    "rocky": "rocky",
    "ubuntu": "ubuntu",
}
"""First part of libosinfo's short id, by the ID of os-release."""

_OSINFO_PARTS = {"almalinux": 1, "rocky": 1, "alpine": 2}
"""Number of version parts in the short id, where it is not all of them."""

_OSINFO_ROLLING = {"arch": "archlinux", "opensuse-tumbleweed": "opensusetumbleweed", "gentoo": "gentoo"}


def display_name(text: str) -> str | None:
    """Return a guest's own name as one short printable line; None when nothing is left."""
    return one_line(text, _LONGEST_NAME) or None


def osinfo_id(release: dict[str, str]) -> str | None:
    """Return libosinfo's short id by the values of os-release, such as ``debian12``; None when unknown."""
    kind, version = release.get("ID", ""), release.get("VERSION_ID", "")
    if kind in _OSINFO_ROLLING:
        return _OSINFO_ROLLING[kind]
    if kind not in _OSINFO_PREFIXES or not _VERSION.fullmatch(version):
        return None
    parts = version.split(".")[: _OSINFO_PARTS.get(kind)]
    return _OSINFO_PREFIXES[kind] + ".".join(parts)


def elf_arch(header: bytes) -> str | None:
    """Return the architecture of a program by its first 20 bytes, as an index names it; None when unknown."""
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    order = {1: "<", 2: ">"}.get(header[5], "<")
    (machine,) = struct.unpack_from(f"{order}H", header, 18)
    return _ELF_MACHINES.get((machine, order))
