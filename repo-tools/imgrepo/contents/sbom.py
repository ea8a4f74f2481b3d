"""What ``sbom`` and ``sources`` are given: an entry of the library, or an image alone."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import UsageError
from imgbuilder.events import Reporter
from imgbuilder.host.workspace import explain, new_file
from imgrepo.contents.documents import as_cyclonedx, as_spdx
from imgrepo.contents.look import look_into
from imgrepo.images.scan import SourceImage
from imgrepo.library.folder import entry_at, image_at
from imgrepo.library.records import ContentsRecord, read_contents, write_contents
from imgrepo.services import Services

_TAKEN = "give the folder of an entry, or an image"


@dataclass(frozen=True)
class Target:
    """An image, and where what is found out about it goes.

    Attributes:
        name: Its name without the ending.
        image: The image.
        contents: Folder of what it holds.
        sources: Folder of its source packages.
        offer: Where people ask for sources, by the entry; empty when nobody says.
    """

    name: str
    image: SourceImage
    contents: Path
    sources: Path
    offer: str = ""


def find_target(path: Path, output: Path | None = None) -> Target:
    """Find what a command was given.

    Args:
        path: An entry's folder, or an image.
        output: Where the results go, in a folder of the target's name; None for the entry's own folders, or
            ``NAME.contents`` and ``NAME.sources`` beside an image.

    Raises:
        UsageError: There is no such entry or image.
        RepositoryError: The entry has no image, or its description is wrong.
        WorkspaceError: The folder cannot be read.
    """
    if path.is_dir():
        entry = entry_at(path, hint=_TAKEN)
        image, offer = entry.image(), entry.read().source_offer
        beside = (entry.contents, entry.sources)
    else:
        image, offer = image_at(path, hint=_TAKEN), ""
        folder = path.absolute().parent
        beside = (folder / f"{image.stem}.contents", folder / f"{image.stem}.sources")
    if output is not None:
        beside = (output / image.stem / "contents", output / image.stem / "sources")
    return Target(image.stem, image, *beside, offer)


def find_targets(paths: tuple[Path, ...], output: Path | None = None) -> tuple[Target, ...]:
    """Find all that a command was given; see ``find_target``.

    Raises:
        UsageError: Two of them would be written to one place.
    """
    found = tuple(find_target(path, output) for path in paths)
    for number, target in enumerate(found):
        if target.contents in [other.contents for other in found[:number]]:
            raise UsageError(
                f"{target.image.path} and another one would both be written to {target.contents}",
                hint="give one of them at a time, with different --output",
            )
    return found


# make: ``sbom``: looking into an image, and writing down its packages in the formats that others read.


CYCLONEDX_NAME, SPDX_NAME = "contents.cdx.json", "contents.spdx.json"
_EPOCH = "SOURCE_DATE_EPOCH"


class Format(enum.Enum):
    """A format of software bills of materials; its value is what users type."""

    CYCLONEDX = "cyclonedx"
    SPDX = "spdx"


_WRITERS = {Format.CYCLONEDX: (CYCLONEDX_NAME, as_cyclonedx), Format.SPDX: (SPDX_NAME, as_spdx)}


def document_time(now: datetime) -> datetime:
    """Return the time that documents bear: ``SOURCE_DATE_EPOCH`` if it is set, to the second.

    Raises:
        UsageError: It is no number of seconds since 1970.
    """
    text = os.environ.get(_EPOCH)
    if text is None:
        return now.astimezone(UTC).replace(microsecond=0)
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"{_EPOCH}={text[:40]} is no number of seconds since 1970") from error


def make_folder(path: Path) -> None:
    """Make a folder for results, with its parents.

    Raises:
        WorkspaceError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, path) from error


def make_sbom(
    target: Target,
    formats: tuple[Format, ...],
    services: Services,
    options: ApplianceOptions,
    on_event: Reporter,
) -> ContentsRecord:
    """Look into an image and write down what it holds.

    Args:
        target: The image, and where the results go.
        formats: In which formats, beside the record.
        services: Opens the appliance, and tells the time.
        options: What shapes the appliance.
        on_event: Called with each event.

    Returns:
        What was found.

    Raises:
        PybuilderError: The image cannot be looked into, or the results cannot be written.
    """
    made = document_time(services.clock())
    contents = look_into(target.image, services.open_appliance, options, on_event)
    make_folder(target.contents)
    for wanted in formats:
        name, write = _WRITERS[wanted]
        _write(target.contents / name, write(contents, target.name, made))
    for other in set(Format) - set(formats):  # one of another image would contradict the record
        (target.contents / _WRITERS[other][0]).unlink(missing_ok=True)
    write_contents(target.contents, contents)
    return contents


def contents_of(
    target: Target, services: Services, options: ApplianceOptions, on_event: Reporter, *, keep: bool
) -> ContentsRecord:
    """Return what an image holds: as it was found out before, if that was this image, or found out now.

    Args:
        target: The image, and where the results are.
        services: Opens the appliance, and tells the time.
        options: What shapes the appliance.
        on_event: Called with each event.
        keep: Whether to write down what is found out now.

    Raises:
        PybuilderError: See ``make_sbom``; or an earlier result cannot be read.
    """
    known = read_contents(target.contents)
    if known is not None and known.image.fits(target.image, on_event):
        return known
    if keep:
        return make_sbom(target, tuple(Format), services, options, on_event)
    return look_into(target.image, services.open_appliance, options, on_event)


def _write(path: Path, text: str) -> None:
    with new_file(path) as temporary:
        try:
            temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise explain(error, path) from error
