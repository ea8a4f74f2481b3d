"""Looking into an image for its packages: read-only, in an appliance of its own.

Each image gets its own appliance, which is resumed where possible: guests that
came together could be taken for each other by the names of their volumes.
The root is the only filesystem with an os-release file, if the places that
matter are on it by the guest's own /etc/fstab; else libguestfs inspects the
disk and tells what is mounted where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.events import Reporter, Step, debug
from imgrepo.contents import apk, dpkg, rpm
from imgrepo.contents.reading import read_text
from imgrepo.library.records import ContentsRecord, ImageMark
from imgrepo.osfacts import display_name, parse_os_release
from imgrepo.scan import check_unchanged, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from imgbuilder.guest import Appliance, Guest
    from imgrepo.library.records import Package
    from imgrepo.scan import SourceImage
    from imgrepo.services import OpenAppliance

_RELEASE_FILES = ("/etc/os-release", "/usr/lib/os-release")
_LARGEST_RELEASE = 64 << 10
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CONTAINERS = {"LVM2_member", "linux_raid_member"}
"""What holds filesystems that are no partitions."""
_NO_FILES = {"", "swap", "unknown", "crypto_LUKS", *_CONTAINERS}
_PLACES = ("/usr", "/var", "/lib")
"""Where package databases and copyright files are; and a filesystem of their own on some guests."""
_FSTAB = "/etc/fstab"


@dataclass(frozen=True)
class _Manager:
    """A package manager: its name, whether a guest has its database, and how to read that."""

    name: str
    is_there: Callable[[Guest], bool]
    read: Callable[[Guest], tuple[Package, ...]]


_MANAGERS = (
    _Manager("dpkg", dpkg.has_dpkg, dpkg.read_dpkg),
    _Manager("rpm", rpm.has_rpm, rpm.read_rpm),
    _Manager("apk", apk.has_apk, apk.read_apk),
)


def look_into(
    image: SourceImage, open_appliance: OpenAppliance, options: ApplianceOptions, report: Reporter
) -> ContentsRecord:
    """Find out which packages an image holds.

    Args:
        image: The image.
        open_appliance: Starts an appliance.
        options: What shapes it.
        report: Hears of the steps.

    Raises:
        DiskError: The image is damaged, or changed meanwhile.
        GuestError: It holds no system, or no package database that is known, or that cannot be read.
        ApplianceError: No appliance can be started, or it died.
    """
    measure(image)
    report(Step(f"Looking into {image.name}"))
    attachment = Attachment(image.path.absolute(), image.format.value, readonly=True)
    with open_appliance([attachment], options, report) as appliance:
        there = _quick_look(appliance, image, report) or _inspect(appliance, image, report)
        name, packages = _read(appliance, image, there)
        release = _release(appliance)
    mark = ImageMark.of(image, report)
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
    """Sort packages; of those that a damaged database has twice, one stays, since lists name them once."""
    found = {(one.name, one.arch, one.version): one for one in reversed(packages)}
    return (found[key] for key in sorted(found))


def _read(
    appliance: Appliance, image: SourceImage, there: tuple[_Manager, ...]
) -> tuple[str, tuple[Package, ...]]:
    """Read the first database that has packages: another system's manager may be installed as a tool."""
    for manager in there:
        packages = manager.read(appliance)
        if packages:
            return manager.name, packages
    names = ", ".join(manager.name for manager in there)
    raise GuestError(f"{image.name}: the database of {names} has no package")


def _word(text: str) -> str:
    return text if _WORD.fullmatch(text) else ""


def _quick_look(appliance: Appliance, image: SourceImage, report: Reporter) -> tuple[_Manager, ...]:
    """Mount the only root, and return the managers whose database is on it; none if that is not so easy."""
    roots = []
    for device, kind in sorted(_filesystems(appliance).items()):
        if kind in _NO_FILES:
            continue
        try:
            appliance.mount(device, "/", options="ro")
            if any(appliance.is_file(path) for path in _RELEASE_FILES):
                roots.append(device)
        except GuestCallError as error:
            debug(report, f"{image.name}: {device} is not the root: {error.message}")
        finally:
            appliance.unmount_all()
    if len(roots) != 1:
        return ()
    appliance.mount(roots[0], "/", options="ro")
    found = _managers(appliance)
    if not found or _has_other_places(appliance):
        debug(report, f"{image.name}: not all of the system is on {roots[0]}")
        appliance.unmount_all()
        return ()
    return found


def _filesystems(appliance: Appliance) -> dict[str, str]:
    """Return what may hold files, and what each is.

    To ask libguestfs for all filesystems takes seconds under emulation; for a partition's kind it does not.
    """
    kinds = {
        device: appliance.filesystem_type(device) for device in appliance.partitions() or appliance.disks()
    }
    return appliance.filesystems() if _CONTAINERS.intersection(kinds.values()) else kinds


def _has_other_places(guest: Guest) -> bool:
    """Tell whether a guest mounts more where databases are, by its /etc/fstab (fstab(5))."""
    if not guest.is_file(_FSTAB):
        return False
    text = read_text(guest, _FSTAB, _LARGEST_RELEASE)
    points = [words[1] for words in map(str.split, text.split("\n")) if len(words) > 1 and words[0][0] != "#"]
    return any(point == place or point.startswith(f"{place}/") for point in points for place in _PLACES)


def _managers(guest: Guest) -> tuple[_Manager, ...]:
    return tuple(manager for manager in _MANAGERS if manager.is_there(guest))


def _inspect(appliance: Appliance, image: SourceImage, report: Reporter) -> tuple[_Manager, ...]:
    report(Step(f"Inspecting {image.name}"))
    roots = appliance.inspect_roots()
    if len(roots) != 1:
        what = f"{len(roots)} operating systems" if roots else "no operating system that libguestfs knows"
        raise GuestError(f"{image.name} holds {what}", hint="its packages cannot be told")
    for path, device in appliance.inspect_mountpoints(roots[0]).items():
        try:
            appliance.mount(device, path, options="ro")
        except GuestCallError as error:
            if path == "/" or path.startswith(_PLACES):
                raise GuestError(
                    f"{image.name}: {device} cannot be mounted on {path}: {error.message}"
                ) from error
            debug(report, f"{image.name}: {device} cannot be mounted on {path}: {error.message}")
    found = _managers(appliance)
    if not found:
        known = ", ".join(manager.name for manager in _MANAGERS)
        raise GuestError(
            f"{image.name} has no package database that is known ({known})",
            hint="what was installed by other means cannot be told",
        )
    return found


def _release(guest: Guest) -> dict[str, str]:
    for path in _RELEASE_FILES:
        if guest.is_file(path):
            return parse_os_release(read_text(guest, path, _LARGEST_RELEASE))
    return {}
