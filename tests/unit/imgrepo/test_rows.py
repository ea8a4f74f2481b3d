"""Every row of the publisher in the threat model has a test of its name, and the table says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
ROWS = tuple(f"R{number}" for number in range(1, 21))


def named() -> dict[str, dict[str, int]]:
    """Return how many tests of each file bear each row's name."""
    found: dict[str, dict[str, int]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE):
            for number in re.findall(r"(?<=_)r(\d+)(?=_)", name):
                files = found.setdefault(f"R{number}", {})
                file = str(path.relative_to(TESTS))
                files[file] = files.get(file, 0) + 1
    return found


@pytest.mark.parametrize("row", ROWS)
def test_the_row_has_a_test_and_the_table_names_its_files(row: str) -> None:
    files = named().get(row, {})
    assert files, f"no test is named after {row}"
    table = (Path(__file__).parent / "README.md").read_text()
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {row} |")]
    assert dict(re.findall(r"`([\w/.]+)`: (\d+)", line)) == {
        file: str(count) for file, count in files.items()
    }


def test_there_are_no_rows_that_nobody_knows() -> None:
    assert set(named()) <= set(ROWS)
