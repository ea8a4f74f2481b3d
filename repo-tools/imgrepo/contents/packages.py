"""Lists the packages of an image, read-only in an appliance, and writes them as documents (``sbom``).

Each image has an appliance for itself, which is resumed where possible: with
several guests, equal names of volumes could be confused.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.errors import GuestError, UsageError
from imgbuilder.events import Reporter, Step
from imgbuilder.guests.ports import Appliance, Guest
from imgbuilder.guests.roots import read_os_release
from imgbuilder.host.variation import source_date_epoch
from imgbuilder.host.workspace import explaining
from imgrepo.contents import databases
from imgrepo.contents.mounting import mount_by_inspection, mount_root
from imgrepo.images.facts import display_name
from imgrepo.images.scan import SourceImage, check_unchanged, measure
from imgrepo.library.folder import entry_at, image_at
from imgrepo.library.records import CONTENTS_FILE, ContentsRecord, ImageMark, Package
from imgrepo.recordfile import write_text
from imgrepo.services import OpenAppliance, Services

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
    """List the packages that are installed in an image."""
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


_TAKEN = "give the folder of an entry, or an image"


@dataclass(frozen=True)
class ImageTarget:
    """An image, the folders for the results about it, and the contact for requests for sources, if any."""

    name: str
    image: SourceImage
    contents: Path
    sources: Path
    offer: str = ""


def find_target(path: Path, output: Path | None = None) -> ImageTarget:
    """Find the image that a command was given, by its path or the folder of its entry.

    The results go into a folder of the image's name in ``output``; without it, into the entry's folders, or
    into ``NAME.contents`` and ``NAME.sources`` next to an image.
    """
    if path.is_dir():
        entry = entry_at(path, hint=_TAKEN)
        image, offer = entry.image(), entry.read().source_offer
        folders = (entry.contents, entry.sources)
    else:
        image, offer = image_at(path, hint=_TAKEN), ""
        folder = path.absolute().parent
        folders = (folder / f"{image.stem}.contents", folder / f"{image.stem}.sources")
    if output is not None:
        folders = (output / image.stem / "contents", output / image.stem / "sources")
    return ImageTarget(image.stem, image, *folders, offer)


def find_targets(paths: tuple[Path, ...], output: Path | None = None) -> tuple[ImageTarget, ...]:
    """Find the images that a command was given; refuse two that share a folder for results."""
    found = tuple(find_target(path, output) for path in paths)
    for number, target in enumerate(found):
        if target.contents in [other.contents for other in found[:number]]:
            raise UsageError(
                f"the results of {target.image.path} and a further image would both go to {target.contents}",
                hint="give one image at a time, with different --output folders",
            )
    return found


CYCLONEDX_NAME, SPDX_NAME = "contents.cdx.json", "contents.spdx.json"


class Format(enum.Enum):
    """A format of software bills of materials, by the word that users type."""

    CYCLONEDX = "cyclonedx"
    SPDX = "spdx"


_NAMES = {Format.CYCLONEDX: CYCLONEDX_NAME, Format.SPDX: SPDX_NAME}


def _document(chosen: Format, contents: ContentsRecord, name: str, made: datetime) -> str:
    from imgrepo.contents.documents import (  # late: it takes 60 ms, and few commands write
        as_cyclonedx,
        as_spdx,
    )

    return (as_cyclonedx if chosen is Format.CYCLONEDX else as_spdx)(contents, name, made)


def document_time(now: datetime) -> datetime:
    """Return the time for documents, to the second: ``SOURCE_DATE_EPOCH`` if it is set."""
    seconds = source_date_epoch()
    return (
        now.astimezone(UTC).replace(microsecond=0)
        if seconds is None
        else datetime.fromtimestamp(seconds, UTC)
    )


def make_folder(path: Path) -> None:
    """Make a folder for results, with its parents."""
    with explaining(path):
        path.mkdir(parents=True, exist_ok=True)


def make_sbom(
    target: ImageTarget,
    formats: tuple[Format, ...],
    services: Services,
    options: ApplianceOptions,
    on_event: Reporter,
) -> ContentsRecord:
    """List the packages of an image; write the record, and documents in some formats."""
    made = document_time(services.clock())
    contents = list_packages(target.image, services.open_appliance, options, on_event)
    make_folder(target.contents)
    for chosen in formats:
        write_text(target.contents / _NAMES[chosen], _document(chosen, contents, target.name, made))
    for other in set(Format) - set(formats):  # a document of an earlier image would contradict the record
        (target.contents / _NAMES[other]).unlink(missing_ok=True)
    CONTENTS_FILE.write(target.contents, contents)
    return contents


def contents_of(
    target: ImageTarget, services: Services, options: ApplianceOptions, on_event: Reporter, *, keep: bool
) -> ContentsRecord:
    """Return the packages by the record of this very image, or by a new list, which ``keep`` writes down."""
    known = CONTENTS_FILE.read(target.contents)
    if known is not None and known.image.fits(target.image, on_event):
        return known
    if keep:
        return make_sbom(target, tuple(Format), services, options, on_event)
    return list_packages(target.image, services.open_appliance, options, on_event)
