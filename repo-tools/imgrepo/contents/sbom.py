"""Writes the packages of an image as a software bill of materials (``sbom``)."""

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
from imgrepo.contents.packages import list_packages
from imgrepo.images.scan import SourceImage
from imgrepo.library.folder import entry_at, image_at
from imgrepo.library.records import ContentsRecord, read_contents, write_contents
from imgrepo.services import Services

_TAKEN = "give the folder of an entry, or an image"


@dataclass(frozen=True)
class ImageTarget:
    """An image, and the folders for the results about it.

    Attributes:
        name: Its name without the ending.
        image: The image.
        contents: Folder for its lists of packages.
        sources: Folder for its source packages.
        offer: The contact for requests for sources, by the entry; may be empty.
    """

    name: str
    image: SourceImage
    contents: Path
    sources: Path
    offer: str = ""


def find_target(path: Path, output: Path | None = None) -> ImageTarget:
    """Find the image that a command was given.

    Args:
        path: An entry's folder, or an image.
        output: The folder for the results, in a folder of the image's name; None for the entry's folders, or
            ``NAME.contents`` and ``NAME.sources`` next to an image.
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
_EPOCH = "SOURCE_DATE_EPOCH"


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
    text = os.environ.get(_EPOCH)
    if text is None:
        return now.astimezone(UTC).replace(microsecond=0)
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"{_EPOCH}={text[:40]} is not a number of seconds since 1970") from error


def make_folder(path: Path) -> None:
    """Make a folder for results, with its parents."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, path) from error


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
    write_contents(target.contents, contents)
    return contents


def contents_of(
    target: ImageTarget, services: Services, options: ApplianceOptions, on_event: Reporter, *, keep: bool
) -> ContentsRecord:
    """Return the packages of an image: the record of this very image if there is one, or a new list.

    Args:
        target: The image, and the folders for its results.
        services: The ports.
        options: What shapes the appliance.
        on_event: Called with each event.
        keep: Whether to write a new list down.
    """
    known = read_contents(target.contents)
    if known is not None and known.image.fits(target.image, on_event):
        return known
    if keep:
        return make_sbom(target, tuple(Format), services, options, on_event)
    return list_packages(target.image, services.open_appliance, options, on_event)


def write_text(path: Path, text: str) -> None:
    """Write a file of results, whole or not at all."""
    with new_file(path) as temporary:
        try:
            temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            raise explain(error, path) from error
