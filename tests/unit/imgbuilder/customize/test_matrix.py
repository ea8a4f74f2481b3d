"""The table of guests and operations has no empty cell and is what the tests see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.imgbuilder.customize import matrix


def test_every_operation_has_a_column() -> None:
    shown = [keyword for trials in matrix.COLUMNS.values() for keyword in trials]
    assert sorted(shown) == sorted(matrix.every_keyword())


def test_every_operation_works_or_is_refused_in_every_kind_of_guest_as_the_page_says() -> None:
    """An operation that does nothing fails here: what it should have changed is looked at."""
    assert matrix.PAGE.read_text() == matrix.page(), "run: python -m tests.unit.imgbuilder.customize.matrix"


def test_the_named_tests_exist() -> None:
    for test in matrix.every_test():
        path, _colons, name = test.partition("::")
        assert re.search(rf"^def {name}\(", (matrix.ROOT / path).read_text(), re.MULTILINE), test


def test_a_trial_that_does_nothing_is_noticed(tmp_path: Path) -> None:
    trial = matrix.Trial("/srv/a", lambda guest: not guest.exists("/srv/b"))
    with pytest.raises(AssertionError, match="did nothing"):
        matrix.outcome("Debian 11-13", "delete", trial, matrix.local_files(tmp_path))
