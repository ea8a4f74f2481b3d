"""The table of tests/guest/README.md cannot rot: each row is in it, and its tests exist under that row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[3]
ROWS = [f"Z{number}" for number in range(1, 25)]
_LINE = re.compile(r"^\| (Z[0-9]+) \| (.*?) \| (.*?)\|$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
TABLE = {
    row: _TEST.findall(tests) for row, tests, _other in _LINE.findall((TESTS / "guest/README.md").read_text())
}


def docstrings(file: str) -> dict[str, str]:
    folder = TESTS / "unit/imgbuilder" if file.startswith("unit/") else TESTS / "guest"
    tree = ast.parse((folder / file.removeprefix("unit/")).read_text())
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }


def test_every_row_is_there_once_and_in_order() -> None:
    assert list(TABLE) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_tests_that_bear_its_name(row: str) -> None:
    assert TABLE[row], f"{row}: no test"
    for file, name in TABLE[row]:
        found = docstrings(file)
        assert name in found, f"{row}: {file} has no {name}"
        assert row in re.split(r"[^A-Z0-9]+", f"{name} {found[name]}".upper()), f"{row}: not named by {name}"
