"""How far an entry has come, for everything that can be known of it."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrepo.review.states import Evidence, Lack, Proof, State, Step, Template, judge

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LATER = datetime(2026, 12, 1, tzinfo=UTC)
BEFORE = datetime(2026, 11, 1, tzinfo=UTC)
C, B, S = Proof.CHECKED, Proof.BOOTED, Proof.SIGNED
ORDER = list(State)


def lacks(*proofs: Proof) -> dict[Proof, Lack]:
    return {proof: Lack(f"it is not {proof.value}", f"make it {proof.value}") for proof in proofs}


def evidence(*proven: Proof, **more: object) -> Evidence:
    """What is known of an image that is proven to be something; the rest was looked for and is missing."""
    plain = Evidence(
        NOW, proven=frozenset(proven), lacking=lacks(*(one for one in Proof if one not in proven))
    )
    return dataclasses.replace(plain, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "state", "step"),
    [
        (evidence(), State.DRAFT, C),
        (evidence(C), State.CHECKED, B),
        (evidence(C, B), State.BOOTED, S),
        (evidence(C, B, S), State.SIGNED, Step.PUBLISH),
        # A library without reviewers, or without a machine to boot on: what nobody looks for lacks nowhere.
        (evidence(C, B, lacking={}), State.BOOTED, Step.PUBLISH),
        (evidence(C, lacking={}), State.CHECKED, Step.PUBLISH),
        (evidence(lacking=lacks(B)), State.DRAFT, B),
        # No proof implies another (ADR 0035).
        (evidence(B), State.BOOTED, C),
        (evidence(S), State.SIGNED, C),
        (evidence(B, S), State.SIGNED, C),
        # Scheduled: checked, all that is required, and a day to come.
        (evidence(not_before=LATER), State.DRAFT, C),
        (evidence(B, S, not_before=LATER), State.SIGNED, C),
        (evidence(C, not_before=LATER), State.SCHEDULED, B),
        (evidence(C, not_before=LATER, required=frozenset({B})), State.CHECKED, B),
        (evidence(C, B, not_before=LATER, required=frozenset({B})), State.SCHEDULED, S),
        (evidence(C, B, S, not_before=LATER, required=frozenset(Proof)), State.SCHEDULED, Step.PUBLISH),
        (evidence(C, B, S, not_before=BEFORE), State.SIGNED, Step.PUBLISH),
        (evidence(C, B, S, not_before=NOW), State.SIGNED, Step.PUBLISH),
        (evidence(C, B, lacking={}, required=frozenset({S}), not_before=LATER), State.BOOTED, S),
        # What the index says.
        (evidence(template=Template.SAME), State.LIVE, None),
        (evidence(template=Template.SAME, withdrawn=True), State.LIVE, None),
        (evidence(template=Template.SAME, not_before=LATER, new_words=True), State.LIVE, None),
        (evidence(template=Template.SAME, new_words=True), State.LIVE, Step.PUBLISH),
        (evidence(template=Template.SAME, new_words=True, required=frozenset({B})), State.LIVE, B),
        (evidence(template=Template.OTHER), State.DRAFT, C),
        (evidence(C, B, S, template=Template.OTHER), State.SIGNED, Step.PUBLISH),
        (evidence(C, B, S, template=Template.UNSURE), State.SIGNED, Step.PUBLISH),
        (evidence(C, B, S, template=Template.NONE), State.SIGNED, Step.PUBLISH),
        (evidence(C, B, S, withdrawn=True), State.WITHDRAWN, Step.RESTORE),
        (evidence(C, B, S, withdrawn=True, template=Template.OTHER), State.WITHDRAWN, Step.RESTORE),
        # Without an image.
        (evidence(lacking={}, has_image=False), State.DRAFT, Step.IMAGE),
        (evidence(lacking={}, has_image=False, not_before=LATER), State.DRAFT, Step.IMAGE),
        (evidence(lacking={}, has_image=False, template=Template.SAME), State.LIVE, None),
        (evidence(lacking={}, has_image=False, withdrawn=True), State.WITHDRAWN, Step.RESTORE),
    ],
)
def test_the_state_and_what_comes_next(known: Evidence, state: State, step: Proof | Step | None) -> None:
    found = judge(known)
    assert (found.state, found.next) == (state, step)


@pytest.mark.parametrize(
    ("known", "remarks"),
    [
        (evidence(C, B, S), ()),
        (evidence(B), ("it is not checked", "it is not signed")),
        (evidence(C, lacking={}), ()),
        (evidence(not_before=LATER, lacking={}), ("held back until 2026-12-01 00:00 UTC",)),
        (evidence(C, B, S, not_before=LATER), ()),
        (evidence(C, B, S, not_before=BEFORE), ("its day has come: 2026-11-01 00:00 UTC",)),
        (evidence(C, B, S, template=Template.OTHER), ("an earlier revision is live",)),
        (
            evidence(C, B, S, template=Template.UNSURE),
            ("a template of this name is live, and it is not known here of which image",),
        ),
        (evidence(template=Template.SAME), ()),
        (evidence(template=Template.SAME, not_before=BEFORE), ()),
        (evidence(template=Template.SAME, required=frozenset({B})), ("it is not booted",)),
        (
            evidence(template=Template.SAME, new_words=True, not_before=LATER),
            ("what entry.toml says now is not published", "held back until 2026-12-01 00:00 UTC"),
        ),
        (evidence(withdrawn=True, not_before=LATER), ()),
        (evidence(has_image=False, lacking={}), ("there is no image yet",)),
        (
            evidence(has_image=False, lacking={}, template=Template.SAME),
            ("its image is not in its folder any more",),
        ),
    ],
)
def test_what_else_is_told(known: Evidence, remarks: tuple[str, ...]) -> None:
    assert judge(known).remarks == remarks


def everything() -> list[Evidence]:
    """All that can be known."""
    sets = [frozenset(some) for size in range(4) for some in itertools.combinations(Proof, size)]
    return [
        Evidence(NOW, day, has_image, proven, lacks(*(looked - proven)), required, template, withdrawn, words)
        for day in (None, BEFORE, LATER)
        for has_image in (True, False)
        for proven in sets
        for looked in sets
        for required in sets
        for template in Template
        for withdrawn in (True, False)
        for words in (True, False)
    ]


def test_the_rules_hold_for_all_that_can_be_known() -> None:
    for known in everything():
        found = judge(known)
        reached = {State(proof.value) for proof in known.proven}
        if known.template is Template.SAME:
            assert found.state is State.LIVE
        elif known.withdrawn:
            assert (found.state, found.next) == (State.WITHDRAWN, Step.RESTORE)
        elif not known.has_image:
            assert (found.state, found.next) == (State.DRAFT, Step.IMAGE)
        elif found.state is State.SCHEDULED:
            assert known.waits
            assert known.proven >= {C} | known.required
        elif reached:
            assert found.state is max(reached, key=ORDER.index)
            assert not (known.waits and C in known.proven and known.proven >= known.required)
        else:
            assert found.state is State.DRAFT
        # Nothing is asked for that is there already, and publishing only when nothing lacks that is required.
        assert not isinstance(found.next, Proof) or found.next not in known.proven
        if found.next is Step.PUBLISH:
            assert known.proven >= known.required
        assert len(set(found.remarks)) == len(found.remarks)


_EVIDENCE = st.builds(
    Evidence,
    st.datetimes(timezones=st.just(UTC)),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.booleans(),
    st.frozensets(st.sampled_from(Proof)),
    st.dictionaries(st.sampled_from(Proof), st.builds(Lack, st.text(), st.none() | st.text())),
    st.frozensets(st.sampled_from(Proof)),
    st.sampled_from(Template),
    st.booleans(),
    st.booleans(),
)


@given(_EVIDENCE, st.sampled_from(Proof))
def test_another_proof_never_takes_an_entry_back(known: Evidence, proof: Proof) -> None:
    more = dataclasses.replace(known, proven=known.proven | {proof})
    assert ORDER.index(judge(more).state) >= ORDER.index(judge(known).state)


@given(_EVIDENCE, st.sampled_from(Proof))
def test_another_requirement_never_brings_it_further(known: Evidence, proof: Proof) -> None:
    more = dataclasses.replace(known, required=known.required | {proof})
    assert ORDER.index(judge(more).state) <= ORDER.index(judge(known).state)


@given(_EVIDENCE, st.timedeltas(timedelta(0), timedelta(days=365)))
def test_time_alone_only_ends_a_wait(known: Evidence, time: timedelta) -> None:
    try:
        later = dataclasses.replace(known, now=known.now + time)
    except OverflowError:
        return
    before, after = judge(known).state, judge(later).state
    assert after is before or (before is State.SCHEDULED and known.waits and not later.waits)
