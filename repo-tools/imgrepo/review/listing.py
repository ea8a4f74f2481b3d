"""Lists the entries of a library with their states. Nothing is written.

A state is a pure function of what is known now, never stored (ADR 0035).
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from imgbuilder.errors import PybuilderError, RepositoryError, UsageError
from imgbuilder.events import Reporter
from imgindex.model import Entry, Index
from imgrepo.images.compress import hash_image
from imgrepo.images.scan import SourceImage, scan
from imgrepo.library.approval import Reviewers, check_reviewers, read_reviewers
from imgrepo.library.description import Description
from imgrepo.library.folder import EntryFolder, chosen_entries, described
from imgrepo.review.check import unmet
from imgrepo.review.results import Issue, Requirement, Status
from imgrepo.services import Services
from imgrepo.webroot.entries import old_entry
from imgrepo.webroot.signing import SIGNED_INDEX, read_served
from imgrepo.webroot.state import Published, read_state, withdrawn_templates


class State(enum.Enum):
    """The state of an entry, in order but for the last; users read its value.

    Between the first and the last three, an entry has the state of the last requirement that it meets.
    """

    DRAFT = "draft"
    CHECKED = Requirement.CHECKED.value
    BOOTED = Requirement.BOOTED.value
    SIGNED = Requirement.SIGNED.value
    SCHEDULED = "scheduled"
    LIVE = "live"
    WITHDRAWN = "withdrawn"


class Template(enum.Enum):
    """The template that the signed index has for an entry."""

    UNKNOWN = "no served folder given"
    NONE = "nothing"
    UNSURE = "a template of its name, of an image that is not recorded here"
    OTHER = "a template of an earlier image"
    SAME = "a template of the same image"


class NextStep(enum.Enum):
    """Next steps other than meeting a requirement."""

    IMAGE = "put its image there"
    PUBLISH = "publish it"
    RESTORE = "undo its withdrawal"


@dataclass(frozen=True)
class StateFacts:
    """The facts that an entry's state depends on.

    Attributes:
        issues: Of each requirement that was looked at: why the entry does not meet it; None when it does.
        required: Requirements without which ``publish`` refuses it.
        new_metadata: Whether its description differs from the one in the index.
    """

    now: datetime
    not_before: datetime | None = None
    has_image: bool = True
    issues: Mapping[Requirement, Issue | None] = field(default_factory=dict)
    required: frozenset[Requirement] = frozenset()
    template: Template = Template.UNKNOWN
    withdrawn: bool = False
    new_metadata: bool = False

    @property
    def waits(self) -> bool:
        """Return whether its day is still to come."""
        return self.not_before is not None and self.not_before > self.now

    @property
    def met(self) -> tuple[Requirement, ...]:
        """The requirements that it meets, in order."""
        return tuple(one for one in Requirement if one in self.issues and self.issues[one] is None)


class Judgement(NamedTuple):
    """An entry's state, remarks for its contributor (a line each), and the next step, if there is one."""

    state: State
    remarks: tuple[str, ...]
    next: Requirement | NextStep | None


def judge(facts: StateFacts) -> Judgement:
    """Work out the state of an entry. A pure function."""
    state = _state(facts)
    return Judgement(state, tuple(_remarks(facts, state)), _next(facts, state))


def _state(facts: StateFacts) -> State:
    if facts.template is Template.SAME:
        return State.LIVE  # what is signed counts, whatever else is written down
    if facts.withdrawn:
        return State.WITHDRAWN
    if not facts.has_image:
        return State.DRAFT
    # Everyone can run the check: without it no entry is ready. What else is needed, each library decides.
    if facts.waits and facts.required | {Requirement.CHECKED} <= {*facts.met}:
        return State.SCHEDULED
    return State(facts.met[-1].value) if facts.met else State.DRAFT


def _remarks(facts: StateFacts, state: State) -> Iterator[str]:
    day = "" if facts.not_before is None else f"{facts.not_before:%Y-%m-%d %H:%M} UTC"
    if not facts.has_image:
        yield "its image is not in its folder any more" if state is State.LIVE else "its image is missing"
    if facts.template is Template.OTHER:
        yield "an earlier revision is live"
    if facts.template is Template.UNSURE:
        yield "a template of this name is live, but its image is not recorded here"
    if state is State.LIVE and facts.new_metadata:
        yield "the current entry.toml is not published"
    if facts.waits and state not in {State.SCHEDULED, State.WITHDRAWN}:
        yield f"held back until {day}"
    if day and not facts.waits and state not in {State.LIVE, State.WITHDRAWN}:
        yield f"its day has come: {day}"
    for requirement in _unmet(facts, state):
        issue = facts.issues.get(requirement)
        if issue is not None:
            yield issue.message


def _unmet(facts: StateFacts, state: State) -> list[Requirement]:
    """Return what the entry still has to meet, in order; of what was live once, only what is required."""
    wanted = set(facts.required)
    if state not in {State.LIVE, State.WITHDRAWN} and facts.has_image:
        wanted |= set(facts.issues)
    return [one for one in Requirement if one in wanted and one not in facts.met]


def _next(facts: StateFacts, state: State) -> Requirement | NextStep | None:
    if state is State.WITHDRAWN:
        return NextStep.RESTORE
    if not facts.has_image:
        return None if state is State.LIVE else NextStep.IMAGE
    if state is State.LIVE and (facts.waits or not facts.new_metadata):
        return None
    unmet = _unmet(facts, state)
    return unmet[0] if unmet else NextStep.PUBLISH


@dataclass(frozen=True)
class Row:
    """An entry of the library.

    Attributes:
        judgement: Its state; None when the entry is broken.
        hint: The next step; None when there is nothing to do.
    """

    name: str
    title: str = ""
    not_before: datetime | None = None
    judgement: Judgement | None = None
    hint: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class EntryListRequest:
    """A request for a list of entries.

    Attributes:
        webroot: The folder that is served; without it, no entry is known to be live.
        reviewers: File of the public keys whose approvals count; without it, approvals are not looked at.
    """

    library: Path
    names: tuple[str, ...] = ()
    webroot: Path | None = None
    required: frozenset[Requirement] = frozenset()
    reviewers: Path | None = None

    def __post_init__(self) -> None:
        check_reviewers(self.reviewers, signed=Requirement.SIGNED in self.required)


@dataclass(frozen=True)
class _Served:
    """The served index, and the publisher's record of the images."""

    index: Index | None
    withdrawn: Collection[tuple[str, str]] = ()
    remembered: Mapping[str, Published] = field(default_factory=dict)


def list_entries(request: EntryListRequest, services: Services, on_event: Reporter) -> tuple[Row, ...]:
    """Return the entries with their states, in the order of their names."""
    chosen = chosen_entries(request.library, request.names)
    served = _read_served(request, services)
    reviewers = None if request.reviewers is None else read_reviewers(request.reviewers, services)
    lister = _Lister(request, served, services.clock(), reviewers, on_event)
    return tuple(
        Row(name, problem=folder.in_one_line) if isinstance(folder, RepositoryError) else lister.row(folder)
        for name, folder in chosen.items()
    )


def _read_served(request: EntryListRequest, services: Services) -> _Served:
    webroot = request.webroot
    if webroot is None:
        return _Served(None)
    if not webroot.is_dir():
        raise UsageError(f"the folder {webroot} does not exist", hint="give the folder that publish writes")
    index = Index()
    if (webroot / SIGNED_INDEX).exists():  # before the first day there is none
        index = read_served(webroot, services)[0].index
    return _Served(index, withdrawn_templates(webroot), read_state(webroot, request.library))


class _Lister:
    """Lists one entry after the other."""

    def __init__(
        self,
        request: EntryListRequest,
        served: _Served,
        now: datetime,
        reviewers: Reviewers | None,
        on_event: Reporter,
    ) -> None:
        self._request, self._served, self._now = request, served, now
        self._reviewers, self._report = reviewers, on_event

    def row(self, folder: EntryFolder) -> Row:
        """List an entry; a broken one must not hide the others."""
        try:
            description = folder.read()
            image = None if scan(folder.path) == ((), ()) else folder.image()
            if image is not None and (self._request.library / image.name).exists():
                raise RepositoryError(
                    f"{image.name} is in the library's folder as well", hint="remove one of them"
                )
            facts = self._facts(folder, description, image)
        except PybuilderError as error:
            return Row(folder.name, problem=error.in_one_line)
        judgement = judge(facts)
        hint = self._hint(folder, facts, judgement.next)
        return Row(folder.name, description.title, description.not_before, judgement, hint)

    def _facts(self, folder: EntryFolder, description: Description, image: SourceImage | None) -> StateFacts:
        template, entry, withdrawn = self._template(folder.name, image)
        return StateFacts(
            now=self._now,
            not_before=description.not_before,
            has_image=image is not None,
            issues={} if image is None else self._issues(folder),
            required=self._request.required,
            template=template,
            withdrawn=withdrawn,
            new_metadata=entry is not None and described(entry, description) is not entry,
        )

    def _issues(self, folder: EntryFolder) -> dict[Requirement, Issue | None]:
        """Look at all requirements, without reading untouched images again."""
        issues: dict[Requirement, Issue | None] = {}
        for requirement in Requirement:
            if requirement is not Requirement.SIGNED or self._reviewers is not None:
                error = unmet(
                    (requirement,), folder, self._report, reviewers=self._reviewers, from_records=True
                )
                issues[requirement] = None if error is None else Issue.of(error, Status.MISSING)
        return issues

    def _template(self, name: str, image: SourceImage | None) -> tuple[Template, Entry | None, bool]:
        """Return what the index has for an entry, its template there, and whether it was withdrawn."""
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

    def _hint(
        self, folder: EntryFolder, facts: StateFacts, step: Requirement | NextStep | None
    ) -> str | None:
        if step is None:
            return None
        if isinstance(step, Requirement):
            issue = facts.issues.get(step)
            return None if issue is None else issue.hint
        library, webroot = _quoted(self._request.library), _quoted(self._request.webroot or "WEBROOT")
        if step is NextStep.IMAGE:
            return f"put its image there: {folder.path / folder.name}.qcow2"
        if step is NextStep.RESTORE:
            return f"undo that: pybuilder-repo withdraw --undo {webroot} {folder.name} -K KEY"
        when = f", on {facts.not_before:%Y-%m-%d %H:%M} UTC or later" if facts.waits else ""
        return f"publish it{when}: pybuilder-repo publish {library} -o {webroot} -K KEY"


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))
