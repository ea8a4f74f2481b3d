"""``sbom``: looking into an image, and writing down its packages in the formats that others read."""

from __future__ import annotations

import enum
import os
from datetime import UTC, datetime
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import UsageError
from imgbuilder.events import Reporter
from imgbuilder.host.workspace import explain, new_file
from imgrepo.contents.cyclonedx import as_cyclonedx
from imgrepo.contents.look import look_into
from imgrepo.contents.spdx import as_spdx
from imgrepo.contents.targets import Target
from imgrepo.library.records import ContentsRecord, read_contents, write_contents
from imgrepo.services import Services

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
