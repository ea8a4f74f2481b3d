"""Foreign text made safe to show: no control characters, nothing that hides or reorders text."""

from __future__ import annotations

import re

from imgindex.lexer import MISLEADING

_NOT_ON_A_LINE = re.compile(rf"[\n\t]|{MISLEADING.pattern}")


def printable(text: str) -> str:
    r"""Escape characters that control a terminal or hide or reorder text; newlines and tabs stay.

    Bytes of file names that are not UTF-8 become ``\xNN``: streams refuse the surrogates that Python uses.
    """
    return MISLEADING.sub(lambda found: _escaped(ord(found.group())), text)


def _escaped(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def without_controls(text: str) -> str:
    """Replace everything that is not printable by ``?``; line ends become newlines, and tabs stay."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(character if character.isprintable() or character in "\n\t" else "?" for character in text)


def one_line(text: str, limit: int) -> str:
    """Return text on one line, without control characters, cut to ``limit`` characters; it may be empty."""
    return " ".join(MISLEADING.sub(" ", text).split())[:limit].strip()


def is_one_line(text: str) -> bool:
    """Tell whether text has no line break, no tab, and no character that ``printable`` would escape."""
    return _NOT_ON_A_LINE.search(text) is None
