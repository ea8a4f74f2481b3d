"""What an entry must have been through before it is published: ``publish --require``."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from imgbuilder.errors import PybuilderError, RepositoryError
from imgrepo.library.check import is_checked
from imgrepo.library.records import Verdict, read_boot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgbuilder.events import Reporter
    from imgrepo.library.folder import EntryFolder


class Requirement(enum.Enum):
    """What an entry can be asked for; its value is what users type."""

    CHECKED = "checked"
    BOOTED = "booted"


def missing_proof(
    requirements: Sequence[Requirement], folder: EntryFolder, report: Reporter
) -> PybuilderError | None:
    """Say what of the required an entry lacks, the first of it; None when it has all.

    Args:
        requirements: What is required.
        folder: The entry.
        report: Hears how much of the image was read, if it was touched since.
    """
    checks = {Requirement.CHECKED: is_checked, Requirement.BOOTED: _booted}
    for requirement in dict.fromkeys(requirements):
        try:
            problem = checks[requirement](folder, report)
        except PybuilderError as error:
            return error
        if problem is not None:
            return problem
    return None


def without_entry(name: str, requirements: Sequence[Requirement]) -> RepositoryError:
    """Say that an image is no entry, and so has no proof of anything."""
    words = " and ".join(requirement.value for requirement in dict.fromkeys(requirements))
    return RepositoryError(
        f"{name} is not known to be {words}: it is no entry",
        hint=f"make it one: pybuilder-repo entry new NAME --move --image {name}",
    )


def _booted(folder: EntryFolder, report: Reporter) -> PybuilderError | None:
    record = read_boot(folder.boot)
    hint = f"see whether it boots: pybuilder-repo boot-check {folder.path}"
    if record is None:
        return RepositoryError(f"{folder.name} was not booted", hint=hint)
    if not record.image.fits(folder.image(), report):
        return RepositoryError(f"the image of {folder.name} is another one than was booted", hint=hint)
    if record.verdict is not Verdict.BOOTED:
        return RepositoryError(f"{folder.name} did not boot: {record.reason}", hint=hint)
    return None
