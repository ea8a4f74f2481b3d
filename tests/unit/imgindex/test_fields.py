"""End of life and replacement of an entry."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgindex.fields import Deprecation, deprecation, deprecation_notice, with_deprecation
from imgindex.model import Entry, ExtraField, Index
from imgindex.parse import parse_index
from imgindex.trust import UnverifiedText
from imgindex.write import write_index

ENTRY = Entry("a", "a.xz", "x86_64", 512, extra=(ExtraField("owner", None, "we"),))
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)


@given(st.builds(Deprecation, st.none() | st.dates(), st.none() | NAMES))
def test_what_is_written_is_read_and_can_be_taken_back(end: Deprecation) -> None:
    entry = with_deprecation(ENTRY, end)
    text = write_index(Index((entry,)))
    (read,) = parse_index(UnverifiedText(text), where="test").entries
    assert deprecation(read) == end
    assert with_deprecation(read, None) == ENTRY
    assert with_deprecation(read, end) == read


@given(st.text(), st.text(), st.sampled_from(["true", "false", "", "yes"]))
def test_strange_values_are_no_error(until: str, replaced_by: str, word: str) -> None:
    extra = (
        ExtraField("deprecated", None, word),
        ExtraField("deprecated_until", None, until),
        ExtraField("replaced_by", None, replaced_by),
    )
    entry = Entry("a", "a.xz", "x86_64", 512, extra=extra)
    end = deprecation(entry)
    assert (end is not None) == (word == "true")
    notice = deprecation_notice(entry)
    assert notice is None or notice.isprintable()


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Deprecation(), "the template a is deprecated"),
        (Deprecation(date(2027, 1, 31)), "may be withdrawn after 2027-01-31"),
        (Deprecation(None, "debian-13"), "recommends 'debian-13'"),
    ],
)
def test_users_hear_of_it(end: Deprecation, words: str) -> None:
    assert words in (deprecation_notice(with_deprecation(ENTRY, end)) or "")
    assert deprecation_notice(ENTRY) is None
