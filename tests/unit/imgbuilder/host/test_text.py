"""Foreign text made safe to show."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.host.text import is_one_line, one_line, printable, without_controls


def test_names_that_are_not_utf8_can_be_written() -> None:
    shown = printable(os.fsdecode(b"a\xffb") + "\ud800")
    assert shown == "a\\xffb\\ud800"


@pytest.mark.row("P16", "T15")
@given(st.text(st.characters()))
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    if text.isprintable():
        assert shown == text


MISLEADING = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0x200B, 0x2010), 0x2028, 0x2029, 0xFEFF,
              *range(0xE0020, 0xE0080), *range(0x80, 0xA0), 0xAD, 0x61C, 0x180E, 0x2060]  # fmt: skip


def test_characters_that_turn_or_hide_text_are_escaped() -> None:
    for code in MISLEADING:
        shown = printable(f"Debian {chr(code)}12")
        assert shown.isascii()
        assert f"{code:x}12" in shown
    assert printable("\u202e \U000e0041") == "\\u202e \\U000e0041"
    for words in ("größe 日本 שלום مرحبا", "a\tb\nc", "\U0001f600"):
        assert printable(words) == words


@pytest.mark.row("T15")
def test_control_characters_are_not_shown() -> None:
    assert without_controls("a\tb\r\nc\rd\x1b[0m\x9b\x00\u202e") == "a\tb\nc\nd?[0m???"


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    made = one_line(text, 20)
    assert len(made) <= 20
    assert is_one_line(made)
    assert made == made.strip()


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a\rb", "a\x1b[0m", "a\u202eb", "a\u2028b"])
def test_text_with_line_breaks_or_controls_is_not_one_line(text: str) -> None:
    assert not is_one_line(text)
    assert is_one_line(one_line(text, 20))
