"""How far an entry has come: a pure function of what is known now, never stored (ADR 0035)."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple


class State(enum.Enum):
    """How far an entry has come; its value is what users read. All but the last are in order."""

    DRAFT = "draft"
    CHECKED = "checked"
    BOOTED = "booted"
    SIGNED = "signed"
    SCHEDULED = "scheduled"
    LIVE = "live"
    WITHDRAWN = "withdrawn"


class Proof(enum.Enum):
    """What an entry can be proven to be, in the order in which it is brought; each is a state as well."""

    CHECKED = "checked"
    BOOTED = "booted"
    SIGNED = "signed"


class Lack(NamedTuple):
    """Why a proof is missing.

    Attributes:
        reason: In words for people.
        hint: What brings it.
    """

    reason: str
    hint: str | None = None


class Template(enum.Enum):
    """What the signed index has for an entry."""

    UNKNOWN = "nobody said where it is"
    NONE = "nothing"
    UNSURE = "a template of its name, and it is not known of which image"
    OTHER = "a template of an earlier image"
    SAME = "a template of this very image"


class Step(enum.Enum):
    """What brings an entry further, beside a proof."""

    IMAGE = "put its image there"
    PUBLISH = "publish it"
    RESTORE = "take its withdrawal back"


@dataclass(frozen=True)
class Evidence:
    """What is known of an entry now.

    Attributes:
        now: The time.
        not_before: When it is published at the earliest; None for at once.
        has_image: Whether its image is there.
        proven: What its image, and its words, are proven to be.
        lacking: Why the other proofs are missing, those that were looked for.
        required: Proofs without which ``publish`` refuses it.
        template: What the index has.
        withdrawn: Whether its template was withdrawn.
        new_words: Whether the index says other words than its contributor.
    """

    now: datetime
    not_before: datetime | None = None
    has_image: bool = True
    proven: frozenset[Proof] = frozenset()
    lacking: Mapping[Proof, Lack] = field(default_factory=dict)
    required: frozenset[Proof] = frozenset()
    template: Template = Template.UNKNOWN
    withdrawn: bool = False
    new_words: bool = False

    @property
    def waits(self) -> bool:
        """Whether its day is still to come."""
        return self.not_before is not None and self.not_before > self.now


class Judgement(NamedTuple):
    """What an entry's state is.

    Attributes:
        state: How far it has come.
        remarks: What else somebody should know, one line each.
        next: What brings it further; None when nothing has to.
    """

    state: State
    remarks: tuple[str, ...]
    next: Proof | Step | None


def judge(evidence: Evidence) -> Judgement:
    """Tell how far an entry has come. A pure function."""
    state = _state(evidence)
    return Judgement(state, tuple(_remarks(evidence, state)), _next(evidence, state))


def _state(evidence: Evidence) -> State:
    if evidence.template is Template.SAME:
        return State.LIVE  # what is signed counts, whatever else is written down
    if evidence.withdrawn:
        return State.WITHDRAWN
    if not evidence.has_image:
        return State.DRAFT
    # The check is what anybody can run: without it no entry is ready. What else is needed, each library says.
    if evidence.waits and evidence.proven >= evidence.required | {Proof.CHECKED}:
        return State.SCHEDULED
    reached = [State(proof.value) for proof in Proof if proof in evidence.proven]
    return reached[-1] if reached else State.DRAFT


def _remarks(evidence: Evidence, state: State) -> Iterator[str]:
    day = "" if evidence.not_before is None else f"{evidence.not_before:%Y-%m-%d %H:%M} UTC"
    if not evidence.has_image:
        yield "its image is not in its folder any more" if state is State.LIVE else "there is no image yet"
    if evidence.template is Template.OTHER:
        yield "an earlier revision is live"
    if evidence.template is Template.UNSURE:
        yield "a template of this name is live, and it is not known here of which image"
    if state is State.LIVE and evidence.new_words:
        yield "what entry.toml says now is not published"
    if evidence.waits and state not in {State.SCHEDULED, State.WITHDRAWN}:
        yield f"held back until {day}"
    if day and not evidence.waits and state not in {State.LIVE, State.WITHDRAWN}:
        yield f"its day has come: {day}"
    for proof in _missing(evidence, state):
        if proof in evidence.lacking:
            yield evidence.lacking[proof].reason


def _missing(evidence: Evidence, state: State) -> list[Proof]:
    """Return the proofs that it lacks, in order; of what was live once, only those that are required."""
    wanted = set(evidence.required)
    if state not in {State.LIVE, State.WITHDRAWN}:
        wanted |= set(evidence.lacking) if evidence.has_image else set()
    return [proof for proof in Proof if proof in wanted - evidence.proven]


def _next(evidence: Evidence, state: State) -> Proof | Step | None:
    if state is State.WITHDRAWN:
        return Step.RESTORE
    if not evidence.has_image:
        return None if state is State.LIVE else Step.IMAGE
    if state is State.LIVE and (evidence.waits or not evidence.new_words):
        return None
    missing = _missing(evidence, state)
    return missing[0] if missing else Step.PUBLISH
