"""The tables cannot rot: each row is in one, and each test that it names exists under that row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
UNIT = HERE.parent / "unit" / "imgbuilder"
TESTS = HERE.parent
TABLES = {
    "README.md": [("D", 1, 30), ("C", 1, 20), ("X", 1, 11)],
    "BUILDS.md": [("B", 1, 26), ("X", 12, 22)],
    "../attack/README.md": [("S", 1, 40), ("P", 1, 20), ("V", 1, 9)],
}
FOLDERS = {
    "unit": UNIT,
    "imgindex": UNIT.parent / "imgindex",
    "imgrepo": UNIT.parent / "imgrepo",
    **{name: TESTS / name for name in ("guest", "attack", "conformance")},
}
ROWS = {
    file: [f"{letter}{number}" for letter, first, last in rows for number in range(first, last + 1)]
    for file, rows in TABLES.items()
}
_LINE = re.compile(r"^\| ([A-Z][0-9]+) \| (.*?) \| (.*?)\|$", re.MULTILINE)
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def table(name: str) -> dict[str, list[tuple[str, str]]]:
    text = (HERE / name).read_text()
    return {row: _TEST.findall(tests) for row, tests, _other in _LINE.findall(text)}


def docstrings(file: str, beside: Path) -> dict[str, str]:
    """Return the tests of a file with their docstrings; one without a folder is beside the table."""
    folder, _, rest = file.partition("/")
    path = FOLDERS.get(folder, beside) / (rest or file)
    tree = ast.parse(path.read_text())
    return {
        node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_there_once_and_in_order(name: str) -> None:
    assert [row for row, _tests, _other in _LINE.findall((HERE / name).read_text())] == ROWS[name]


@pytest.mark.parametrize(("table_name", "row"), [(name, row) for name in TABLES for row in ROWS[name]])
def test_a_row_has_tests_that_bear_its_name(table_name: str, row: str) -> None:
    named = table(table_name)[row]
    assert named, f"{row}: neither a test nor a reason"
    for file, name in named:
        found = docstrings(file, (HERE / table_name).parent)
        assert name in found, f"{row}: {file} has no {name}"
        said = re.split(r"[^A-Za-z0-9]+|_", f"{name} {found[name]}".upper().replace("_", " "))
        assert row in said, f"{row}: neither name nor docstring of {name} has it"
