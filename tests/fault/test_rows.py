"""The table in README.md cannot rot: each row is in it, and each test that it names exists under that row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
UNIT = HERE.parent / "unit" / "imgbuilder"
ROWS = [f"D{number}" for number in range(1, 31)]
ROWS += [f"C{number}" for number in range(1, 21)]
ROWS += [f"X{number}" for number in range(1, 12)]
_LINE = re.compile(r"^\| ([DCX][0-9]+) \| (.*?) \| (.*?)\|$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def table() -> dict[str, list[tuple[str, str]]]:
    text = (HERE / "README.md").read_text()
    return {row: _TEST.findall(tests) for row, tests, _other in _LINE.findall(text)}


def docstrings(file: str) -> dict[str, str]:
    """Return the tests of a file with their docstrings."""
    path = UNIT / file.removeprefix("unit/") if file.startswith("unit/") else HERE / file
    tree = ast.parse(path.read_text())
    return {
        node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.FunctionDef)
    }


def test_every_row_is_there_once_and_in_order() -> None:
    assert [row for row, _tests, _other in _LINE.findall((HERE / "README.md").read_text())] == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_tests_that_bear_its_name(row: str) -> None:
    named = table()[row]
    assert named, f"{row}: neither a test nor a reason"
    for file, name in named:
        found = docstrings(file)
        assert name in found, f"{row}: {file} has no {name}"
        said = re.split(r"[^A-Za-z0-9]+|_", f"{name} {found[name]}".upper().replace("_", " "))
        assert row in said, f"{row}: neither name nor docstring of {name} has it"
