"""The state of an entry, for all possible facts."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrepo.review.listing import NextStep, State, StateFacts, Template, judge
from imgrepo.review.results import Issue, Requirement, Status

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LATER = datetime(2026, 12, 1, tzinfo=UTC)
BEFORE = datetime(2026, 11, 1, tzinfo=UTC)
C, B, S = Requirement.CHECKED, Requirement.BOOTED, Requirement.SIGNED
ORDER = list(State)
ALL = frozenset(Requirement)


def missing(*requirements: Requirement) -> dict[Requirement, Issue]:
    return {
        one: Issue(Status.MISSING, f"it is not {one.value}", f"make it {one.value}") for one in requirements
    }


def progress(*met: Requirement, unmet: dict[Requirement, Issue] | None = None, **more: object) -> StateFacts:
    """An image that meets some requirements, and not the others that were looked at."""
    if unmet is None:
        unmet = missing(*(one for one in Requirement if one not in met))
    plain = StateFacts(NOW, issues={**unmet, **dict.fromkeys(met)})
    return dataclasses.replace(plain, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "state", "step"),
    [
        (progress(), State.DRAFT, C),
        (progress(C), State.CHECKED, B),
        (progress(C, B), State.BOOTED, S),
        (progress(C, B, S), State.SIGNED, NextStep.PUBLISH),
        # A library without reviewers, or without a machine to boot on: what is not looked at is not missing.
        (progress(C, B, unmet={}), State.BOOTED, NextStep.PUBLISH),
        (progress(C, unmet={}), State.CHECKED, NextStep.PUBLISH),
        (progress(unmet=missing(B)), State.DRAFT, B),
        # No proof implies another (ADR 0035).
        (progress(B), State.BOOTED, C),
        (progress(S), State.SIGNED, C),
        (progress(B, S), State.SIGNED, C),
        # Scheduled: checked, all that is required, and a day to come.
        (progress(not_before=LATER), State.DRAFT, C),
        (progress(B, S, not_before=LATER), State.SIGNED, C),
        (progress(C, not_before=LATER), State.SCHEDULED, B),
        (progress(C, not_before=LATER, required=frozenset({B})), State.CHECKED, B),
        (progress(C, B, not_before=LATER, required=frozenset({B})), State.SCHEDULED, S),
        (progress(C, B, S, not_before=LATER, required=ALL), State.SCHEDULED, NextStep.PUBLISH),
        (progress(C, B, S, not_before=BEFORE), State.SIGNED, NextStep.PUBLISH),
        (progress(C, B, S, not_before=NOW), State.SIGNED, NextStep.PUBLISH),
        (progress(C, B, unmet={}, required=frozenset({S}), not_before=LATER), State.BOOTED, S),
        # What the index says.
        (progress(template=Template.SAME), State.LIVE, None),
        (progress(template=Template.SAME, withdrawn=True), State.LIVE, None),
        (progress(template=Template.SAME, not_before=LATER, new_metadata=True), State.LIVE, None),
        (progress(template=Template.SAME, new_metadata=True), State.LIVE, NextStep.PUBLISH),
        (progress(template=Template.SAME, new_metadata=True, required=frozenset({B})), State.LIVE, B),
        (progress(template=Template.OTHER), State.DRAFT, C),
        (progress(C, B, S, template=Template.OTHER), State.SIGNED, NextStep.PUBLISH),
        (progress(C, B, S, template=Template.UNSURE), State.SIGNED, NextStep.PUBLISH),
        (progress(C, B, S, template=Template.NONE), State.SIGNED, NextStep.PUBLISH),
        (progress(C, B, S, withdrawn=True), State.WITHDRAWN, NextStep.RESTORE),
        (progress(C, B, S, withdrawn=True, template=Template.OTHER), State.WITHDRAWN, NextStep.RESTORE),
        # Without an image.
        (progress(unmet={}, has_image=False), State.DRAFT, NextStep.IMAGE),
        (progress(unmet={}, has_image=False, not_before=LATER), State.DRAFT, NextStep.IMAGE),
        (progress(unmet={}, has_image=False, template=Template.SAME), State.LIVE, None),
        (progress(unmet={}, has_image=False, withdrawn=True), State.WITHDRAWN, NextStep.RESTORE),
    ],
)
def test_the_state_and_what_comes_next(
    known: StateFacts, state: State, step: Requirement | NextStep | None
) -> None:
    found = judge(known)
    assert (found.state, found.next) == (state, step)


@pytest.mark.parametrize(
    ("known", "remarks"),
    [
        (progress(C, B, S), ()),
        (progress(B), ("it is not checked", "it is not signed")),
        (progress(C, unmet={}), ()),
        (progress(not_before=LATER, unmet={}), ("held back until 2026-12-01 00:00 UTC",)),
        (progress(C, B, S, not_before=LATER), ()),
        (progress(C, B, S, not_before=BEFORE), ("its day has come: 2026-11-01 00:00 UTC",)),
        (progress(C, B, S, template=Template.OTHER), ("an earlier revision is live",)),
        (
            progress(C, B, S, template=Template.UNSURE),
            ("a template of this name is live, but its image is not recorded here",),
        ),
        (progress(template=Template.SAME), ()),
        (progress(template=Template.SAME, not_before=BEFORE), ()),
        (progress(template=Template.SAME, required=frozenset({B})), ("it is not booted",)),
        (
            progress(template=Template.SAME, new_metadata=True, not_before=LATER),
            ("the current entry.toml is not published", "held back until 2026-12-01 00:00 UTC"),
        ),
        (progress(withdrawn=True, not_before=LATER), ()),
        (progress(has_image=False, unmet={}), ("its image is missing",)),
        (
            progress(has_image=False, unmet={}, template=Template.SAME),
            ("its image is not in its folder any more",),
        ),
    ],
)
def test_the_remarks(known: StateFacts, remarks: tuple[str, ...]) -> None:
    assert judge(known).remarks == remarks


def everything() -> list[StateFacts]:
    """All that can be known."""
    sets = [frozenset(some) for size in range(4) for some in itertools.combinations(Requirement, size)]
    return [
        StateFacts(
            NOW, day, has_image, {**missing(*looked), **dict.fromkeys(met)}, required, template, *flags
        )
        for day in (None, BEFORE, LATER)
        for has_image in (True, False)
        for met in sets
        for looked in sets
        for required in sets
        for template in Template
        for flags in itertools.product((True, False), repeat=2)
    ]


def test_the_rules_hold_for_all_facts() -> None:
    for known in everything():
        found = judge(known)
        reached = {State(one.value) for one in known.met}
        if known.template is Template.SAME:
            assert found.state is State.LIVE
        elif known.withdrawn:
            assert (found.state, found.next) == (State.WITHDRAWN, NextStep.RESTORE)
        elif not known.has_image:
            assert (found.state, found.next) == (State.DRAFT, NextStep.IMAGE)
        elif found.state is State.SCHEDULED:
            assert known.waits
            assert {*known.met} >= {C} | known.required
        elif reached:
            assert found.state is max(reached, key=ORDER.index)
            assert not (known.waits and {*known.met} >= {C} | known.required)
        else:
            assert found.state is State.DRAFT
        # Nothing is asked for twice, and publishing only when nothing that is required is missing.
        assert not isinstance(found.next, Requirement) or found.next not in known.met
        if found.next is NextStep.PUBLISH:
            assert {*known.met} >= known.required
        assert len(set(found.remarks)) == len(found.remarks)


_FACTS = st.builds(
    StateFacts,
    st.datetimes(timezones=st.just(UTC)),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.booleans(),
    st.dictionaries(
        st.sampled_from(Requirement),
        st.none() | st.builds(Issue, st.sampled_from(Status), st.text(), st.none() | st.text()),
    ),
    st.frozensets(st.sampled_from(Requirement)),
    st.sampled_from(Template),
    st.booleans(),
    st.booleans(),
)


@given(_FACTS, st.sampled_from(Requirement))
def test_a_requirement_that_is_met_never_takes_an_entry_back(known: StateFacts, one: Requirement) -> None:
    more = dataclasses.replace(known, issues={**known.issues, one: None})
    assert ORDER.index(judge(more).state) >= ORDER.index(judge(known).state)


@given(_FACTS, st.sampled_from(Requirement))
def test_a_further_requirement_never_takes_it_forward(known: StateFacts, one: Requirement) -> None:
    more = dataclasses.replace(known, required=known.required | {one})
    assert ORDER.index(judge(more).state) <= ORDER.index(judge(known).state)


@given(_FACTS, st.timedeltas(timedelta(0), timedelta(days=365)))
def test_time_alone_only_ends_a_wait(known: StateFacts, time: timedelta) -> None:
    try:
        later = dataclasses.replace(known, now=known.now + time)
    except OverflowError:
        return
    before, after = judge(known).state, judge(later).state
    assert after is before or (before is State.SCHEDULED and known.waits and not later.waits)
