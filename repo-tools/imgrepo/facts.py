"""What the index must say about an image, found out in the appliance.

All new images are looked at in one launch, which costs far more than the look:
the root is the filesystem that has an os-release file, the architecture stands
in the header of its shell. Only an image where this finds nothing is inspected
by libguestfs, in an appliance of its own, since inspection mixes up disks.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.disk.partition import partition_number, read_table
from imgbuilder.errors import ApplianceError, GuestCallError, GuestError, PybuilderError
from imgbuilder.events import Reporter, Step, debug
from imgrepo.osfacts import display_name, elf_arch, osinfo_id, parse_os_release

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgbuilder.guest import Appliance
    from imgrepo.scan import SourceImage
    from imgrepo.services import OpenAppliance

_BATCH = 16
"""Disks per launch: each costs the appliance memory and time to start."""

_RELEASE_FILES = ("/etc/os-release", "/usr/lib/os-release")
_PROGRAMS = ("/bin/sh", "/usr/bin/env", "/bin/busybox", "/sbin/init")
_LARGEST_RELEASE = 64 << 10
_LARGEST_PROGRAM = 4 << 20
_ARCH = re.compile(r"[A-Za-z0-9_-]{1,32}")
_PARTITION = re.compile(r"/dev/sda[0-9]+")
_LOGICAL_VOLUME = re.compile(r"/dev/(?!mapper/|md|sd)[A-Za-z0-9_.+-]+/[A-Za-z0-9_.+-]+")
_NO_FILES = {"", "swap", "unknown", "LVM2_member", "crypto_LUKS", "linux_raid_member"}


@dataclass(frozen=True)
class ImageFacts:
    """What an image holds.

    Attributes:
        arch: Its architecture, as an index names it.
        name: What its system calls itself.
        osinfo: libosinfo's short id; None when unknown.
        expand: The partition to grow; None when the root is not in the last partition.
        lvexpand: The logical volume to grow with it; None when the root is not in one.
    """

    arch: str
    name: str | None
    osinfo: str | None
    expand: str | None
    lvexpand: str | None = None


def examine(
    images: Sequence[SourceImage],
    open_appliance: OpenAppliance,
    options: ApplianceOptions,
    report: Reporter,
) -> dict[str, ImageFacts | PybuilderError]:
    """Find out about images; what is wrong with one of them does not keep the others (T24).

    Args:
        images: The images; their headers were judged before.
        open_appliance: Starts an appliance.
        options: What shapes it.
        report: Hears of the steps.

    Returns:
        For each image's file name its facts, or why there are none.

    Raises:
        ApplianceError: No appliance can be started.
    """
    found: dict[str, ImageFacts | PybuilderError] = {}
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        report(Step(f"Looking into {', '.join(image.name for image in batch)}"))
        with open_appliance([_attachment(image) for image in batch], options, report) as appliance:
            disks = _by_disk(appliance.filesystems())
            for position, image in enumerate(batch):
                letters = _disk_letters(position)
                found[image.name] = _judge(appliance, image, disks.get(letters, []), report)
    for image in images:
        if isinstance(found[image.name], _NoRootError):
            found[image.name] = _inspect(image, open_appliance, options, report)
    return found


class _NoRootError(GuestError):
    """The quick look found no root; inspection may."""


def _attachment(image: SourceImage) -> Attachment:
    return Attachment(image.path.absolute(), image.format.value, readonly=True)


def _disk_letters(position: int) -> str:
    """Return what follows ``/dev/sd`` for the disk at a position from 0."""
    assert position < len(string.ascii_lowercase)
    return string.ascii_lowercase[position]


def _by_disk(filesystems: dict[str, str]) -> dict[str, list[str]]:
    """Sort the devices that can hold files by the letters of their disk."""
    disks: dict[str, list[str]] = {}
    for device, kind in sorted(filesystems.items()):
        if device.startswith("/dev/sd") and kind not in _NO_FILES:
            disks.setdefault(device[len("/dev/sd") :].rstrip(string.digits), []).append(device)
    return disks


def _judge(
    appliance: Appliance, image: SourceImage, devices: list[str], report: Reporter
) -> ImageFacts | PybuilderError:
    try:
        return _look(appliance, image, devices, report)
    except ApplianceError:
        raise
    except PybuilderError as error:
        return error


def _look(appliance: Appliance, image: SourceImage, devices: list[str], report: Reporter) -> ImageFacts:
    roots: dict[str, ImageFacts] = {}
    for device in devices:
        try:
            appliance.mount(device, "/", options="ro")
            try:
                if _release_file(appliance) is not None:
                    roots[device] = _read_facts(appliance, image, device)
            finally:
                appliance.unmount_all()
        except GuestCallError as error:
            debug(report, f"{image.name}: {device} is not the root: {error.message}")
    if not roots:
        raise _NoRootError(f"{image.name}: no filesystem has an os-release file")
    return _only_root(image, list(roots.values()))


def _only_root(image: SourceImage, roots: list[ImageFacts]) -> ImageFacts:
    if len(roots) > 1:
        raise GuestError(f"{image.name} holds {len(roots)} operating systems, a template has one")
    return roots[0]


def _release_file(appliance: Appliance) -> str | None:
    for path in _RELEASE_FILES:
        if appliance.is_file(path) and appliance.stat(path).size <= _LARGEST_RELEASE:
            return path
    return None


def _read_facts(appliance: Appliance, image: SourceImage, device: str) -> ImageFacts:
    path = _release_file(appliance)
    text = appliance.read(path).decode("utf-8", "replace") if path else ""
    release = parse_os_release(text)
    arch = next(_architectures(appliance), None)
    if arch is None:
        raise _NoRootError(f"{image.name}: none of {', '.join(_PROGRAMS)} tells the architecture")
    return ImageFacts(
        arch=arch,
        name=display_name(release.get("PRETTY_NAME") or release.get("NAME") or ""),
        osinfo=osinfo_id(release),
        expand=_partition_to_grow(image, device),
    )


def _architectures(appliance: Appliance) -> Iterator[str]:
    for path in _PROGRAMS:
        if appliance.is_file(path) and appliance.stat(path).size <= _LARGEST_PROGRAM:
            arch = elf_arch(appliance.read(path)[:64])
            if arch is not None:
                yield arch


def _partition_to_grow(image: SourceImage, device: str) -> str | None:
    """Return the root's partition as an index names it, if nothing lies behind it on the disk."""
    number = partition_number(device)
    table = read_table(image.path, image.format) if number is not None else None
    last = table.last_on_disk() if table is not None else None
    return f"/dev/sda{number}" if last is not None and last.number == number else None


def _inspect(
    image: SourceImage, open_appliance: OpenAppliance, options: ApplianceOptions, report: Reporter
) -> ImageFacts | PybuilderError:
    report(Step(f"Inspecting {image.name}"))
    with open_appliance([_attachment(image)], options, report) as appliance:
        try:
            roots = appliance.inspect_roots()
            if not roots:
                raise GuestError(f"{image.name} holds no operating system that libguestfs knows")
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
    device = _physical_volume(appliance) if volume else root.removeprefix("btrfsvol:")
    partition = _PARTITION.match(device or "")
    return ImageFacts(
        arch=arch,
        name=display_name(known.get("product_name", "")),
        osinfo=display_name(known.get("osinfo", "")),
        expand=_partition_to_grow(image, partition[0]) if partition else None,
        lvexpand=volume,
    )


def _physical_volume(appliance: Appliance) -> str | None:
    """Return the only LVM partition of the disk; None when there are several, or none."""
    found = [
        device for device in appliance.partitions() if appliance.filesystem_type(device) == "LVM2_member"
    ]
    return found[0] if len(found) == 1 else None
