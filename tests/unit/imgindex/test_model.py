"""The plain data of an index."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from imgindex.model import Entry, Index

ENTRY = Entry("a", "a.xz", "x86_64", 512)


def test_entries_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ENTRY.size = 1  # type: ignore[misc]


def test_line_does_not_make_entries_differ() -> None:
    assert Entry("a", "a.xz", "x86_64", 512, line=7) == ENTRY
    assert Index((ENTRY,)) == Index((Entry("a", "a.xz", "x86_64", 512, line=1),))
    assert len({ENTRY, Entry("a", "a.xz", "x86_64", 512, line=7)}) == 1
