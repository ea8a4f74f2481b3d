from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgindex.accept import CLOCK_TOLERANCE, Accepted, judge_freshness
from imgindex.errors import (
    ClockError,
    ConflictingIndexError,
    ExpiredIndexError,
    FutureIndexError,
    RolledBackError,
    StaleIndexError,
)
from imgindex.trust import VerifiedText

KEY = "A" * 40
NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


def signed(at: datetime, text: str = "x\n", expires_at: datetime | None = None) -> VerifiedText:
    return VerifiedText(text, KEY, KEY, at, expires_at)


def judge(
    text: VerifiedText,
    last: Accepted | None = None,
    *,
    now: datetime = NOW,
    max_age: timedelta | None = None,
) -> Accepted:
    return judge_freshness(text, last, now=now, max_age=max_age, where="W", forget_hint="REPAIR")


def test_first_use_remembers_all() -> None:
    accepted = judge(signed(NOW - DAY, "x\n", NOW + DAY))
    digest = "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac"
    assert accepted == Accepted(NOW - DAY, digest, KEY, NOW + DAY, NOW)


@pytest.mark.row("S33")
def test_rollback_names_both_times() -> None:
    last = judge(signed(NOW - DAY))
    with pytest.raises(RolledBackError) as caught:
        judge(signed(NOW - DAY - SECOND), last)
    assert "2026-06-14 11:59:59 UTC" in caught.value.message
    assert "2026-06-14 12:00:00 UTC" in caught.value.message
    assert caught.value.message.startswith("W: ")
    assert judge(signed(NOW - DAY), last) == last
    assert judge(signed(NOW - DAY + SECOND, "y\n"), last).signed_at == NOW - DAY + SECOND


@pytest.mark.row("S34")
def test_same_second_other_text() -> None:
    last = judge(signed(NOW - DAY))
    with pytest.raises(ConflictingIndexError, match="2026-06-14 12:00:00 UTC"):
        judge(signed(NOW - DAY, "y\n"), last)


@pytest.mark.row("S35")
def test_fast_forward() -> None:
    assert judge(signed(NOW + CLOCK_TOLERANCE))
    with pytest.raises(
        FutureIndexError, match=r"2026-06-16 12:00:01 UTC.*clock says 2026-06-15 12:00:00"
    ) as e:
        judge(signed(NOW + CLOCK_TOLERANCE + SECOND))
    assert "timedatectl" in (e.value.hint or "")


@pytest.mark.row("S36")
def test_freeze_by_max_age() -> None:
    text = signed(NOW - 30 * DAY)
    assert judge(text)
    assert judge(text, max_age=30 * DAY)
    with pytest.raises(ExpiredIndexError, match=r"allows 30 days \(max-age\)"):
        judge(text, now=NOW + SECOND, max_age=30 * DAY)


@pytest.mark.row("S8")
def test_expired_signature_by_our_own_clock() -> None:
    text = signed(NOW - 30 * DAY, expires_at=NOW)
    assert judge(text, now=NOW - SECOND)
    with pytest.raises(ExpiredIndexError, match="has expired at 2026-06-15 12:00:00 UTC"):
        judge(text)


@pytest.mark.row("S37")
def test_memory_from_the_future_is_a_clock_problem() -> None:
    last = judge(signed(NOW - DAY))
    assert judge(signed(NOW), replace(last, accepted_at=NOW + CLOCK_TOLERANCE))
    later = NOW + CLOCK_TOLERANCE + SECOND
    for wrong in (replace(last, accepted_at=later), replace(last, signed_at=later)):
        with pytest.raises(ClockError, match="clock") as caught:
            judge(signed(NOW), wrong)
        assert "REPAIR" in (caught.value.hint or "")


TIMES = st.integers(-60 * 86400, 3 * 86400).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(st.lists(st.tuples(TIMES, st.sampled_from(["a", "b"]), TIMES), max_size=12))
def test_whatever_comes_time_never_goes_back_and_a_second_has_one_text(
    served: list[tuple[datetime, str, datetime]],
) -> None:
    last: Accepted | None = None
    seen: dict[datetime, str] = {}
    for at, text, now in served:
        try:
            accepted = judge(signed(at, text), last, now=now)
        except StaleIndexError:
            continue
        assert last is None or accepted.signed_at >= last.signed_at
        assert seen.setdefault(at, text) == text
        assert at <= now + CLOCK_TOLERANCE
        last = accepted
