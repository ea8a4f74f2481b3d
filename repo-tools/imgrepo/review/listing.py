"""The entries of a library with their states: gathers what ``imgrepo.review.states`` judges. Only looks."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath

from imgbuilder.errors import PybuilderError, RepositoryError, UsageError
from imgbuilder.events import Reporter
from imgindex.model import Entry, Index
from imgrepo.images.compress import hash_image
from imgrepo.images.scan import SourceImage, scan
from imgrepo.library.approval import Reviewers, check_reviewers, read_reviewers
from imgrepo.library.description import Description
from imgrepo.library.folder import EntryFolder, chosen_entries
from imgrepo.library.publishing import described
from imgrepo.review.proof import Requirement, missing_proof
from imgrepo.review.states import Evidence, Judgement, Lack, Proof, Step, Template, judge
from imgrepo.services import Services
from imgrepo.webroot.entries import old_entry
from imgrepo.webroot.signing import SIGNED_INDEX, read_served
from imgrepo.webroot.state import Published, read_state, withdrawn_templates

Look = Callable[[EntryFolder, Reporter], PybuilderError | None]
"""Says why an entry lacks a proof; None when it has it."""


def looks(reviewers: Reviewers | None = None) -> dict[Proof, Look]:
    """Return how each proof is looked for: as ``publish --require`` does, without reading images twice.

    A proof that cannot be looked for is left out: a signature, when nobody says whose.

    Args:
        reviewers: Whose approvals count.
    """
    return {
        Proof(requirement.value): functools.partial(
            missing_proof, (requirement,), reviewers=reviewers, from_records=True
        )
        for requirement in Requirement
        if requirement is not Requirement.SIGNED or reviewers is not None
    }


@dataclass(frozen=True)
class Row:
    """An entry of the library.

    Attributes:
        name: Its name.
        title: One line for people; empty when nobody wrote it.
        not_before: When it is published at the earliest.
        judgement: Its state; None when the entry is broken.
        hint: What brings it further; None when nothing has to.
        problem: What is wrong with a broken entry.
    """

    name: str
    title: str = ""
    not_before: datetime | None = None
    judgement: Judgement | None = None
    hint: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class ListRequest:
    """What to list.

    Attributes:
        library: The folder of the entries.
        names: Only these; empty for all.
        webroot: The folder that is served; None when nobody says, then nothing is known to be live.
        required: What ``publish`` is told to require.
        reviewers: File of the public keys whose approvals count; None when nobody says.
    """

    library: Path
    names: tuple[str, ...] = ()
    webroot: Path | None = None
    required: frozenset[Proof] = frozenset()
    reviewers: Path | None = None

    def __post_init__(self) -> None:
        check_reviewers(self.reviewers, signed=Proof.SIGNED in self.required)


@dataclass(frozen=True)
class _Served:
    """What is published, and what the publisher remembers of the images."""

    index: Index | None
    withdrawn: Collection[tuple[str, str]] = ()
    remembered: Mapping[str, Published] = field(default_factory=dict)


def list_entries(
    request: ListRequest,
    services: Services,
    on_event: Reporter,
    look_for: Mapping[Proof, Look] | None = None,
) -> tuple[Row, ...]:
    """Tell of each entry how far it has come, in the order of their names.

    Args:
        request: Which entries.
        services: Verifier, key files, and the clock.
        on_event: Reports how much of an image was read, if it was touched since it was checked.
        look_for: How proofs are looked for; ``looks`` by default.

    Raises:
        UsageError: A folder or the reviewers' keys cannot be read, or there is no entry of a name.
        TrustError: The index is not by a key of the key file beside it.
        RepositoryError: The record of what was withdrawn cannot be read.
    """
    chosen = chosen_entries(request.library, request.names)
    served, now = _read_served(request, services), services.clock()
    if look_for is None:
        look_for = looks(None if request.reviewers is None else read_reviewers(request.reviewers, services))
    lister = _Lister(request, served, now, look_for, on_event)
    return tuple(
        Row(name, problem=_told(folder)) if isinstance(folder, RepositoryError) else lister.row(folder)
        for name, folder in chosen.items()
    )


def _read_served(request: ListRequest, services: Services) -> _Served:
    webroot = request.webroot
    if webroot is None:
        return _Served(None)
    if not webroot.is_dir():
        raise UsageError(f"{webroot} is not a folder", hint="give the folder that publish writes")
    index = Index()
    if (webroot / SIGNED_INDEX).exists():  # before the first day there is none
        index = read_served(webroot, services)[0].index
    return _Served(index, withdrawn_templates(webroot), read_state(request.library))


def _told(error: PybuilderError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


class _Lister:
    """Looks at one entry after the other."""

    def __init__(
        self,
        request: ListRequest,
        served: _Served,
        now: datetime,
        look_for: Mapping[Proof, Look],
        on_event: Reporter,
    ) -> None:
        self._request, self._served, self._now = request, served, now
        self._looks, self._report = look_for, on_event

    def row(self, folder: EntryFolder) -> Row:
        """Tell of an entry; one that is broken does not keep the others (T24)."""
        try:
            description = folder.read()
            image = None if scan(folder.path) == ((), ()) else folder.image()
            if image is not None and (self._request.library / image.name).exists():
                raise RepositoryError(
                    f"{image.name} lies beside the entry as well", hint="remove one of them"
                )
            evidence = self._evidence(folder, description, image)
        except PybuilderError as error:
            return Row(folder.name, problem=_told(error))
        judgement = judge(evidence)
        hint = self._hint(folder, evidence, judgement.next)
        return Row(folder.name, description.title, description.not_before, judgement, hint)

    def _evidence(self, folder: EntryFolder, description: Description, image: SourceImage | None) -> Evidence:
        template, entry, withdrawn = self._template(folder.name, image)
        lacking: dict[Proof, Lack] = {}
        for proof, look in self._looks.items() if image is not None else ():
            problem = look(folder, self._report)
            if problem is not None:
                lacking[proof] = Lack(problem.message, problem.hint)
        return Evidence(
            now=self._now,
            not_before=description.not_before,
            has_image=image is not None,
            proven=frozenset(set(self._looks) - set(lacking)) if image is not None else frozenset(),
            lacking=lacking,
            required=self._request.required,
            template=template,
            withdrawn=withdrawn,
            new_words=entry is not None and described(entry, description) is not entry,
        )

    def _template(self, name: str, image: SourceImage | None) -> tuple[Template, Entry | None, bool]:
        """Find what the index has for an entry, and whether that was withdrawn."""
        served = self._served
        if served.index is None:
            return Template.UNKNOWN, None, False
        names = [one for one in served.remembered if PurePosixPath(one).stem == name]
        last = served.remembered.get(image.name if image is not None else "".join(names[:1]))
        if last is not None:
            withdrawn = (last.entry, last.arch) in served.withdrawn
        else:
            withdrawn = name in {template for template, _arch in served.withdrawn}
        entry = old_entry(served.index, name, last)
        if entry is None:
            return Template.NONE, None, withdrawn
        return self._compare(image, last, entry), entry, withdrawn

    def _compare(self, image: SourceImage | None, last: Published | None, entry: Entry) -> Template:
        if image is None:  # publish --remove-images: there is no other one
            return Template.SAME
        if last is None or (last.entry, last.arch, last.file) != (entry.os_version, entry.arch, entry.file):
            return Template.UNSURE
        same = last.fingerprint == image.fingerprint or last.sha512 == hash_image(image, self._report)
        return Template.SAME if same else Template.OTHER

    def _hint(self, folder: EntryFolder, evidence: Evidence, step: Proof | Step | None) -> str | None:
        if step is None:
            return None
        if isinstance(step, Proof):
            return evidence.lacking[step].hint if step in evidence.lacking else None
        library, webroot = _word(self._request.library), _word(self._request.webroot or "WEBROOT")
        if step is Step.IMAGE:
            return f"put its image there: {folder.path / folder.name}.qcow2"
        if step is Step.RESTORE:
            return f"take that back: pybuilder-repo withdraw --undo {webroot} {folder.name} -K KEY"
        when = f", on {evidence.not_before:%Y-%m-%d %H:%M} UTC or later" if evidence.waits else ""
        return f"publish it{when}: pybuilder-repo publish {library} -o {webroot} -K KEY"


def _word(path: Path | str) -> str:
    return shlex.quote(str(path))
