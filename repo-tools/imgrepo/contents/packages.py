"""Lists the packages of an image, read-only in an appliance.

Each image has an appliance for itself, which is resumed where possible: with
several guests, equal names of volumes could be confused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.errors import GuestError
from imgbuilder.events import Reporter, Step
from imgbuilder.guests.ports import Appliance, Guest
from imgbuilder.guests.roots import read_os_release
from imgrepo.contents import databases
from imgrepo.contents.mounting import mount_by_inspection, mount_root
from imgrepo.images.osfacts import display_name
from imgrepo.images.scan import SourceImage, check_unchanged, measure
from imgrepo.library.records import ContentsRecord, ImageMark, Package
from imgrepo.services import OpenAppliance

_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PLACES = ("/usr", "/var", "/lib")
"""Folders of package databases and copyright files; on some guests they are separate filesystems."""


@dataclass(frozen=True)
class _Manager:
    """A package manager: its name, the check for its database in a guest, and the reader of that."""

    name: str
    is_there: Callable[[Guest], bool]
    read: Callable[[Guest], tuple[Package, ...]]


_MANAGERS = (
    _Manager("dpkg", databases.has_dpkg, databases.read_dpkg),
    _Manager("rpm", databases.has_rpm, databases.read_rpm),
    _Manager("apk", databases.has_apk, databases.read_apk),
)


def list_packages(
    image: SourceImage, open_appliance: OpenAppliance, options: ApplianceOptions, on_event: Reporter
) -> ContentsRecord:
    """List the packages that are installed in an image.

    Raises:
        GuestError: The image has no system, or no package database that can be read.
    """
    measure(image)
    on_event(Step(f"Looking into {image.name}"))
    attachment = Attachment(image.path.absolute(), image.format.value, readonly=True)
    with open_appliance([attachment], options, on_event) as appliance:
        there = _mounted(appliance, image, on_event)
        name, packages = _read(appliance, image, there)
        release = read_os_release(appliance)
    mark = ImageMark.of(image, on_event)
    check_unchanged(image)
    return ContentsRecord(
        mark,
        system=display_name(release.get("PRETTY_NAME") or release.get("NAME") or "") or "",
        distribution=_word(release.get("ID", "")),
        release=_word(release.get("VERSION_ID", "")),
        manager=name,
        packages=tuple(_by_name(packages)),
    )


def _by_name(packages: tuple[Package, ...]) -> Iterable[Package]:
    """Sort packages; of duplicates in a damaged database one stays, since lists name each package once."""
    found = {(one.name, one.arch, one.version): one for one in reversed(packages)}
    return (found[key] for key in sorted(found))


def _read(
    appliance: Appliance, image: SourceImage, there: tuple[_Manager, ...]
) -> tuple[str, tuple[Package, ...]]:
    """Read the first database with packages: a guest may have a foreign package manager as a tool."""
    for manager in there:
        packages = manager.read(appliance)
        if packages:
            return manager.name, packages
    names = ", ".join(manager.name for manager in there)
    raise GuestError(f"{image.name}: the database of {names} is empty")


def _word(text: str) -> str:
    return text if _WORD.fullmatch(text) else ""


def _mounted(appliance: Appliance, image: SourceImage, on_event: Reporter) -> tuple[_Manager, ...]:
    """Mount the filesystems that matter; return the managers whose database exists."""
    if mount_root(appliance, image, _PLACES, on_event):
        found = _managers(appliance)
        if found:
            return found
        appliance.unmount_all()
    mount_by_inspection(appliance, image, _PLACES, on_event)
    found = _managers(appliance)
    if not found:
        known = ", ".join(manager.name for manager in _MANAGERS)
        raise GuestError(
            f"{image.name} has no package database of a known kind ({known})",
            hint="software that was installed by other means cannot be listed",
        )
    return found


def _managers(guest: Guest) -> tuple[_Manager, ...]:
    return tuple(manager for manager in _MANAGERS if manager.is_there(guest))
