"""The lines and sections of an index or configuration file."""

from __future__ import annotations

import pytest

from imgindex.errors import IndexSyntaxError
from imgindex.lexer import MAX_LINES, MAX_TEXT_SIZE, Field, Section, decode_text, parse_sections, shorten


def sections(text: str) -> list[Section]:
    return parse_sections(text, where="test")


def fields(text: str) -> tuple[Field, ...]:
    (section,) = sections(text)
    return section.fields


def test_section_and_fields_with_lines() -> None:
    assert sections("# c\n[a.B-1_]\nkey=value\nk.2_[de,x]= v # no comment \n\n[b]\t \n") == [
        Section(
            "a.B-1_", 2, (Field("key", None, "value", 3), Field("k.2_", "de,x", " v # no comment ", 4)), "# c"
        ),
        Section("b", 6, ()),
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "#\n\n#[x]\n"])
def test_nothing_in_it(text: str) -> None:
    assert sections(text) == []


def test_continuation_loses_one_blank() -> None:
    (field,) = fields("[a]\nnotes=one\n two\n\t three\n  \n \n four\n")
    assert field.value == "one\ntwo\n three\n \n\nfour"


def test_comment_inside_a_value_is_ignored() -> None:
    (field,) = fields("[a]\nnotes=one\n# comment\n two\n")
    assert field.value == "one\ntwo"


def test_empty_lines_inside_a_value_are_kept_and_others_ignored() -> None:
    # A signed text has lost the single blank of the empty note line.
    assert fields("[a]\n\nnotes=one\n\n\n two\n\n\nsize=1\n") == (
        Field("notes", None, "one\n\n\ntwo", 3),
        Field("size", None, "1", 9),
    )


def test_empty_line_before_a_field_does_not_leak_into_the_next_value() -> None:
    assert fields("[a]\nx=1\n\ny=2\n 3\n")[1].value == "2\n3"


def test_sections_without_empty_line_between() -> None:
    assert [section.name for section in sections("[a]\nx=1\n[b]\nx=2\n")] == ["a", "b"]


def test_repeated_fields_and_sections_are_kept() -> None:
    assert len(fields("[a]\nx=1\nx=2\n")) == 2
    assert len(sections("[a]\n[a]\n")) == 2


@pytest.mark.row("P8", "P12", "P16")
@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("x=1\n[a]\n", 1, "before the first"),
        (" x\n[a]\n", 1, "continues"),
        ("[a]\n x\n", 2, "continues"),
        ("[a]\nx=1\n[b]\n y\n", 4, "continues"),
        ("[a]\nx=1", 2, "newline"),
        ("[a]\nnot a field\n", 2, "neither"),
        ("[a]\nkey =1\n", 2, "neither"),
        ("[a]\nkey-x=1\n", 2, "neither"),
        ("[a]\nkey[d-e]=1\n", 2, "neither"),
        ("[a]\nkey[]=1\n", 2, "neither"),
        ("[a]\n=1\n", 2, "neither"),
        ("[a]x\n", 1, "section header"),
        ("[]\n", 1, "section header"),
        ("[a b]\n", 1, "section header"),
        ("[../x]\n", 1, "section header"),
        ("[\u00e4]\n", 1, "section header"),
        (" [a]\n", 1, "continues"),
        ("[a]\nschl\u00fcssel=1\n", 2, "neither"),
        ("[a]\n-----BEGIN PGP SIGNATURE-----\n", 2, "OpenPGP"),
        ("\ufeff[a]\n", 1, "byte order mark"),
        ("[a]\r\nx=1\r\n", 1, "CR LF"),
        ("[a]\nx=\x00\n", 2, "U+0000"),
        ("[a]\nx=\x1b[31m\n", 2, "U+001B"),
        ("[a]\nx=\x0b\n", 2, "U+000B"),
        ("[a]\nx=\x0c\n", 2, "U+000C"),
        ("[a]\nx=\x1c\n", 2, "U+001C"),
        ("[a]\nx=\x7f\n", 2, "U+007F"),
        ("[a]\nx=\x85\n", 2, "U+0085"),
        ("[a]\nx=\x9b\n", 2, "U+009B"),
        ("[a]\nx=\u2028\n", 2, "U+2028"),
        ("[a]\nx=\u2029\n", 2, "U+2029"),
        ("[a]\nx=\udcff\n", 2, "U+DCFF"),
    ],
)
def test_syntax_errors(text: str, line: int, problem: str) -> None:
    """P8, P12, P16."""
    with pytest.raises(IndexSyntaxError, match=f"^test: line {line}: ") as caught:
        sections(text)
    assert caught.value.line == line
    assert caught.value.where == "test"
    assert problem in caught.value.problem


def test_unicode_in_values_is_fine() -> None:
    assert fields("[a]\nname=Zo\u00eb \U0001f427\n")[0].value == "Zo\u00eb \U0001f427"


@pytest.mark.row("V1")
@pytest.mark.parametrize("filler", ["x", "\u00e4"])
def test_text_over_the_cap_is_refused(filler: str) -> None:
    """V1."""
    size = len(filler.encode())
    text = "[a]\nx=" + filler * ((MAX_TEXT_SIZE - 7) // size) + "\n"
    assert sections(text)
    with pytest.raises(IndexSyntaxError, match="larger than"):
        sections(text + "# " + filler * 8 + "\n")


@pytest.mark.row("P15")
def test_more_lines_than_any_index_needs_are_refused() -> None:
    text = "[a]\n" + "x=\n" * (MAX_LINES - 1)
    assert len(fields(text)) == MAX_LINES - 1
    with pytest.raises(IndexSyntaxError, match="more than 500,000 lines"):
        sections(text + "x=\n")


@pytest.mark.row("P16")
def test_decode_text() -> None:
    """P16."""
    assert decode_text("[a]\nx=\u00e4\n".encode(), where="test") == "[a]\nx=\u00e4\n"
    with pytest.raises(IndexSyntaxError, match=r"test: line 2: .*UTF-8"):
        decode_text(b"[a]\nx=\xff\n", where="test")
    with pytest.raises(IndexSyntaxError, match="larger"):
        decode_text(b"x" * (MAX_TEXT_SIZE + 1), where="test")


def test_shorten_escapes_and_cuts() -> None:
    assert shorten("a\u001b") == r"'a\x1b'"
    assert len(shorten("x" * 10_000)) < 70


def test_hyphens_in_keys_are_for_configuration_files_only() -> None:
    text = "[a]\nmax-age=1\nx=2\n"
    (section,) = parse_sections(text, where="test", hyphens=True)
    assert [field.key for field in section.fields] == ["max-age", "x"]
    with pytest.raises(IndexSyntaxError):
        parse_sections(text, where="test")
