"""What an entry must have been through before it is published: ``publish --require``."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from imgbuilder.errors import PybuilderError, RepositoryError
from imgbuilder.events import Reporter
from imgrepo.library.approval import Reviewers, approval_of
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import Verdict, read_boot
from imgrepo.review.check import is_checked


class Requirement(enum.Enum):
    """What an entry can be asked for; its value is what users type."""

    CHECKED = "checked"
    BOOTED = "booted"
    SIGNED = "signed"


def missing_proof(
    requirements: Sequence[Requirement],
    folder: EntryFolder,
    on_event: Reporter,
    *,
    reviewers: Reviewers | None = None,
    words: str | None = None,
    from_records: bool = False,
) -> PybuilderError | None:
    """Say what of the required an entry lacks, the first of it; None when it has all.

    Args:
        requirements: What is required.
        folder: The entry.
        on_event: Reports how much of the image was read, if it was touched since.
        reviewers: Whose approvals count; without any, none does.
        words: See ``imgrepo.library.approval.approval_of``.
        from_records: See there.
    """

    def signed(folder: EntryFolder, on_event: Reporter) -> PybuilderError | None:
        if reviewers is None:
            return RepositoryError(
                f"nobody can have approved {folder.name}: no reviewers are known",
                hint="give the file of their public keys: --reviewers FILE",
            )
        approval_of(folder, reviewers, on_event, words=words, from_records=from_records)
        return None

    checks = {
        Requirement.CHECKED: is_checked,
        Requirement.BOOTED: _booted,
        Requirement.SIGNED: signed,
    }
    for requirement in dict.fromkeys(requirements):
        try:
            problem = checks[requirement](folder, on_event)
        except PybuilderError as error:
            return error
        if problem is not None:
            return problem
    return None


def what_lacks(folder: EntryFolder, on_event: Reporter) -> tuple[PybuilderError, ...]:
    """Say what the tools did not find good about an entry: for its reviewer, before it is signed.

    Args:
        folder: The entry.
        on_event: Reports how much of the image was read, if it was touched since.
    """
    tools = [requirement for requirement in Requirement if requirement is not Requirement.SIGNED]
    problems = (missing_proof([requirement], folder, on_event) for requirement in tools)
    return tuple(problem for problem in problems if problem is not None)


def without_entry(name: str, requirements: Sequence[Requirement]) -> RepositoryError:
    """Say that an image is no entry, and so has no proof of anything."""
    words = " and ".join(requirement.value for requirement in dict.fromkeys(requirements))
    return RepositoryError(
        f"{name} is not known to be {words}: it is no entry",
        hint=f"make it one: pybuilder-repo entry new NAME --move --image {name}",
    )


def _booted(folder: EntryFolder, on_event: Reporter) -> PybuilderError | None:
    record = read_boot(folder.boot)
    hint = f"see whether it boots: pybuilder-repo boot-check {folder.path}"
    if record is None:
        return RepositoryError(f"{folder.name} was not booted", hint=hint)
    if not record.image.fits(folder.image(), on_event):
        return RepositoryError(f"the image of {folder.name} is another one than was booted", hint=hint)
    if record.verdict is not Verdict.BOOTED:
        return RepositoryError(f"{folder.name} did not boot: {record.reason}", hint=hint)
    return None
