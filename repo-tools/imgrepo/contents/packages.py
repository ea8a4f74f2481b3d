"""Lists the packages of an image, read-only in an appliance, and writes them as documents (``sbom``).

An appliance serves several images where their databases are plain files on
ordinary partitions. Any other image has one for itself: volumes of several
guests may have equal names, and a guest's own program must see no other guest.
"""

from __future__ import annotations

import contextlib
import enum
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.errors import ApplianceError, DiskError, GuestError, UsageError
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.guests.ports import Appliance, Guest
from imgbuilder.guests.roots import read_os_release
from imgbuilder.host.variation import source_date_epoch
from imgbuilder.host.workspace import explaining
from imgrepo.contents import databases
from imgrepo.contents.mounting import mount_by_inspection, mount_root
from imgrepo.images.facts import BATCH, display_name
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
    """A package manager: its name, the check for its database in a guest, and the reader of that.

    Attributes:
        runs: Whether the reader runs a program of the guest.
    """

    name: str
    is_there: Callable[[Guest], bool]
    read: Callable[[Guest], tuple[Package, ...]]
    runs: bool = False


_MANAGERS = (
    _Manager("dpkg", databases.has_dpkg, databases.read_dpkg),
    _Manager("rpm", databases.has_rpm, databases.read_rpm, runs=True),
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
        found = _read(appliance, image, _mounted(appliance, image, on_event))
    return _record(image, found, on_event)


def list_together(
    images: Sequence[SourceImage],
    open_appliance: OpenAppliance,
    options: ApplianceOptions,
    on_event: Reporter,
) -> dict[str, ContentsRecord]:
    """List the packages of images, by file name, as many at a time as a saved appliance is resumed with.

    Images that need an appliance for themselves are left out, and so are those with an error:
    ``list_packages`` lists them, or says why not.
    """
    records = {}
    sound = [image for image in images if _has_sound_header(image)]
    for start in range(0, len(sound), BATCH):
        batch = sound[start : start + BATCH]
        for image, found in _read_together(batch, open_appliance, options, on_event):
            with contextlib.suppress(DiskError):  # it changed meanwhile
                records[image.name] = _record(image, found, on_event)
    return records


def _has_sound_header(image: SourceImage) -> bool:
    try:
        measure(image)
    except DiskError:
        return False
    return True


def _read_together(
    images: Sequence[SourceImage],
    open_appliance: OpenAppliance,
    options: ApplianceOptions,
    on_event: Reporter,
) -> list[tuple[SourceImage, _Found]]:
    """Read the databases of a few images; if the appliance ends before, those that it got to."""
    on_event(Step(f"Looking into {', '.join(image.name for image in images)}"))
    found = []
    disks = [Attachment(image.path.absolute(), image.format.value, readonly=True) for image in images]
    with contextlib.suppress(ApplianceError), open_appliance(disks, options, on_event) as appliance:
        for position, image in enumerate(images):
            one = _read_one(appliance, image, position, on_event)
            if one is not None:
                found.append((image, one))
    return found


def _read_one(appliance: Appliance, image: SourceImage, position: int, on_event: Reporter) -> _Found | None:
    """Read the database of one of several images; None if that takes more than reading, or goes wrong."""
    try:
        if not mount_root(appliance, image, _PLACES, on_event, position=position):
            return None
        try:
            there = _managers(appliance)
            if not there or any(manager.runs for manager in there):
                return None
            return _read(appliance, image, there)
        finally:
            appliance.unmount_all()
    except ApplianceError:
        raise
    except GuestError as error:
        debug(on_event, error.message)
        return None


def _record(image: SourceImage, found: _Found, on_event: Reporter) -> ContentsRecord:
    """Make the record of an image, of which this was read just now."""
    mark = ImageMark.of(image, on_event)
    check_unchanged(image)
    release = found.release
    return ContentsRecord(
        mark,
        system=display_name(release.get("PRETTY_NAME") or release.get("NAME") or "") or "",
        distribution=_word(release.get("ID", "")),
        release=_word(release.get("VERSION_ID", "")),
        manager=found.manager,
        packages=tuple(_by_name(found.packages)),
    )


def _by_name(packages: tuple[Package, ...]) -> Iterable[Package]:
    """Sort packages; of duplicates in a damaged database one stays, since lists name each package once."""
    found = {(one.name, one.arch, one.version): one for one in reversed(packages)}
    return (found[key] for key in sorted(found))


@dataclass(frozen=True)
class _Found:
    """A guest as it was read: its os-release, and its packages."""

    release: dict[str, str]
    manager: str
    packages: tuple[Package, ...]


def _read(appliance: Appliance, image: SourceImage, there: tuple[_Manager, ...]) -> _Found:
    """Read the first database with packages: a guest may have a foreign package manager as a tool."""
    for manager in there:
        packages = manager.read(appliance)
        if packages:
            return _Found(read_os_release(appliance), manager.name, packages)
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
    contents = list_packages(target.image, services.open_appliance, options, on_event)
    write_sbom(target, contents, formats, services)
    return contents


def write_sbom(
    target: ImageTarget, contents: ContentsRecord, formats: tuple[Format, ...], services: Services
) -> None:
    """Write the record of an image's packages, and documents in some formats."""
    made = document_time(services.clock())
    make_folder(target.contents)
    for chosen in formats:
        write_text(target.contents / _NAMES[chosen], _document(chosen, contents, target.name, made))
    for other in set(Format) - set(formats):  # a document of an earlier image would contradict the record
        (target.contents / _NAMES[other]).unlink(missing_ok=True)
    CONTENTS_FILE.write(target.contents, contents)


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
