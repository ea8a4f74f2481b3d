"""Decisions of an update, from facts alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from imgbuilder.host.hashing import Fingerprint
from imgrepo.library.records import ImageMark
from imgrepo.publishing.settings import Built, Imported, Made, Origin
from imgrepo.updating.plan import Renewal, Situation, reason_to_renew
from imgrepo.updating.report import Outcome, TemplateReport, UpdateReport

NOW = datetime(2026, 12, 1, tzinfo=UTC)
MARK = ImageMark("aa", Fingerprint(1, 2, 3, 4))
MADE = Made(recipe="debian-12", include=())
IMPORTED = Imported(address="https://example.org/nova.qcow2", unsigned=True)
BUILT = Built(base="a", recipe="web.toml")


def situation(**changes: object) -> Situation:
    last = Renewal("o", "s", NOW - timedelta(days=1), MARK)
    return Situation(**{"there": True, "last": last, "origin": "o", "source": "s", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("origin", "now", "days", "reason"),
    [
        (MADE, situation(), 0, ""),
        (MADE, situation(there=False), 0, "it is missing"),
        (MADE, situation(last=None), 0, "it was not made by update yet"),
        (MADE, situation(origin="p"), 0, "its origin was changed"),
        (MADE, situation(), 5, ""),
        (MADE, situation(), 6, "it is 7 days old"),
        (IMPORTED, situation(), 5000, ""),
        (IMPORTED, situation(source="t"), 0, "a newer one is offered"),
        (BUILT, situation(), 5000, ""),
        (BUILT, situation(source="t"), 0, "its base changed"),
        (BUILT.model_copy(update={"every": 30}), situation(), 29, "it is 30 days old"),
    ],
)
def test_why_an_image_is_renewed(origin: Origin, now: Situation, days: int, reason: str) -> None:
    assert reason_to_renew(origin, now, NOW + timedelta(days=days)) == reason


GOOD, NEW = TemplateReport("a"), TemplateReport("a", renewed="it is missing")
BAD = TemplateReport("b", renewed="it is missing", problem="broken")


@pytest.mark.parametrize(
    ("report", "outcome", "code"),
    [
        (UpdateReport(), Outcome.NOTHING, 4),
        (UpdateReport([GOOD]), Outcome.NOTHING, 4),
        (UpdateReport([NEW]), Outcome.DONE, 0),
        (UpdateReport([GOOD], signed=True), Outcome.DONE, 0),
        (UpdateReport([GOOD], changes=["pages made"]), Outcome.DONE, 0),
        (UpdateReport([TemplateReport("a", steps={"sbom": "9 packages"})]), Outcome.DONE, 0),
        (UpdateReport([GOOD, BAD]), Outcome.PARTLY, 5),
        (UpdateReport([GOOD], problems=["a target refuses"]), Outcome.PARTLY, 5),
        (UpdateReport([BAD]), Outcome.FAILED, 1),
        (UpdateReport([GOOD], failed=True), Outcome.FAILED, 1),
    ],
)
def test_outcomes_are_told_apart(report: UpdateReport, outcome: Outcome, code: int) -> None:
    assert (report.outcome, report.outcome.exit_code) == (outcome, code)
