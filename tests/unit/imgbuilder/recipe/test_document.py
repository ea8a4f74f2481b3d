"""Lines of values: the walk finds the keys that tomllib finds, at their lines in the text."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.recipe.document import Key, find_lines
from tests.fakes.fuzz import examples


def ways(value: object, way: Key = ()) -> Iterator[Key]:
    """Yield the path to each value that tomllib read."""
    if way:
        yield way
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from ways(inner, (*way, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from ways(inner, (*way, index))


HARD = r'''
# a comment = "with a sign"
"quoted key".'other "key"' . bare = 1 # here

a = """
[not.a.table]
b = ""quotes"" \""" and \\"""
c = QQQ
x = Q'y'Q
QQQ
d = """ends with quotes"""""
dates = [1979-05-27 07:32:00, 07:32:00,
  1979-05-27T00:32:00-07:00] # twice
inline = {x = [1, 2], "y z" = {deep = 'a # b'}, s = "}"}

[table]
key = [ # a comment ]
  "one", # and, another
  ['two', {three = 3}],
]
[[many]]
name = "first"
[many.inside]
x = 1
[[many.below]]
y = 1
[[many.below]]
y = 2

[[many]]
name = "second"
[[many.below]]
y = 3
[table."more"]
z = -1.5e3
'''.replace("Q", "'")


PLACES = [
    (("quoted key", 'other "key"', "bare"), '"quoted key"', 0),
    (("a",), "a =", 0),
    (("c",), "c =", 0),
    (("d",), "d =", 0),
    (("dates", 2), "1979-05-27T", 0),
    (("inline", "y z", "deep"), "inline", 0),
    (("table", "key", 0), '"one"', 0),
    (("table", "key", 1, 1, "three"), "['two'", 0),
    (("many", 1, "name"), "name", 1),
    (("many", 0, "inside", "x"), "x = 1", 0),
    (("many", 0, "below", 1, "y"), "y = 2", 0),
    (("many", 1, "below", 0, "y"), "y = 3", 0),
    (("table", "more", "z"), "z =", 0),
]
"""Paths to values, the start of their lines, and which line of that start it is."""


def test_everything_is_found_in_a_hard_text() -> None:
    assert set(find_lines(HARD)) == set(ways(tomllib.loads(HARD)))


@pytest.mark.parametrize(("way", "start", "nth"), PLACES)
def test_lines_of_a_hard_text(way: Key, start: str, nth: int) -> None:
    numbers = [number for number, line in enumerate(HARD.split("\n"), 1) if line.strip().startswith(start)]
    assert find_lines(HARD)[way] == numbers[nth]


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ['"', '""', "'", '"""', "'''", "#", "[", "]]", "{", "}", "=", ",", "\n", "\\", "a\nb = 1\n[c]"]
)
VALUES = st.recursive(
    TEXTS | st.integers(-99, 99) | st.booleans() | st.floats(-9, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=5), st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_the_walk_finds_what_tomllib_reads(data: dict[str, object], many: bool) -> None:
    text = tomli_w.dumps(data, multiline_strings=many)
    assert set(find_lines(text)) == set(ways(tomllib.loads(text)))


@given(
    st.lists(
        st.tuples(TEXTS, st.sampled_from(["{}", "[\n{},\n {}]", "[{}]", '"""\n\n"""', "{{k={}}}"])),
        max_size=6,
    )
)
@settings(max_examples=examples(40), deadline=None)
def test_lines_are_those_of_the_text(pairs: list[tuple[str, str]]) -> None:
    text, expected = "", {}
    for number, (value, shape) in enumerate(pairs):
        literal = tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
        text += f"# {number}\n\n[[t]]\nv = {shape.format(literal, literal)} # end\n"
        expected["t", number, "v"] = text.count("\n", 0, text.rindex("\nv = ") + 1) + 1
    assume_valid = tomllib.loads(text)
    assert len(assume_valid.get("t", [])) == len(pairs)
    lines = find_lines(text)
    assert {way: lines[way] for way in expected} == expected


@pytest.mark.parametrize("text", ["", "\n\n", "# only", "a=1", "[a]", "[[a]]"])
def test_small_texts(text: str) -> None:
    assert set(find_lines(text)) == set(ways(tomllib.loads(text)))
