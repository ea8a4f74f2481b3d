"""The state of an entry: a pure function of what is known now, never stored (ADR 0035)."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from imgrepo.review.results import Issue, Requirement


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


class Step(enum.Enum):
    """Next steps other than meeting a requirement."""

    IMAGE = "put its image there"
    PUBLISH = "publish it"
    RESTORE = "undo its withdrawal"


@dataclass(frozen=True)
class StateFacts:
    """The facts that an entry's state depends on.

    Attributes:
        now: The time.
        not_before: When it is published at the earliest; None for at once.
        has_image: Whether its image is there.
        issues: Of each requirement that was looked at: why the entry does not meet it; None when it does.
        required: Requirements without which ``publish`` refuses it.
        template: What the index has.
        withdrawn: Whether its template was withdrawn.
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
    """The state of an entry.

    Attributes:
        state: How far it has come.
        remarks: What else its contributor should know, one line each.
        next: The next step; None when there is nothing to do.
    """

    state: State
    remarks: tuple[str, ...]
    next: Requirement | Step | None


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
        yield "its image is not in its folder any more" if state is State.LIVE else "there is no image yet"
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


def _next(facts: StateFacts, state: State) -> Requirement | Step | None:
    if state is State.WITHDRAWN:
        return Step.RESTORE
    if not facts.has_image:
        return None if state is State.LIVE else Step.IMAGE
    if state is State.LIVE and (facts.waits or not facts.new_metadata):
        return None
    unmet = _unmet(facts, state)
    return unmet[0] if unmet else Step.PUBLISH
