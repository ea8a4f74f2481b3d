"""Cleans text from strangers for a page.

The templates escape all markup. These functions replace what remains: control
characters, and marks that change the direction of reading (Unicode Technical
Report 36, section 2).
"""

from __future__ import annotations

import re
from urllib.parse import quote

from imgindex.lexer import MISLEADING

_ODD = "\ufffd"
_LINK = re.compile(r"https?://[A-Za-z0-9\[][^\s<>\"'`\\]{0,1000}")
LONGEST_LINE, LONGEST_TEXT = 200, 20_000
"""Most characters that a page shows of a line, and of a text; the index may have millions."""


def fit(text: str) -> str:
    """Return a text without misleading characters."""
    return MISLEADING.sub(_ODD, text)


def line(text: str | None, limit: int = LONGEST_LINE) -> str:
    """Return a text as one line without misleading characters, cut to ``limit`` characters."""
    words = " ".join(fit(text or "").split())
    return words if len(words) <= limit else f"{words[: limit - 1]}…"


def paragraphs(text: str | None) -> tuple[str, ...]:
    """Return the paragraphs of a plain text, with their line breaks."""
    whole = fit((text or "").replace("\r\n", "\n").replace("\r", "\n"))
    if len(whole) > LONGEST_TEXT:
        whole = f"{whole[: LONGEST_TEXT - 1]}…"
    return tuple(part.strip("\n") for part in re.split(r"\n[ \t]*\n", whole) if part.strip())


def link(address: str | None) -> str | None:
    """Return a URL if it is http or https; None for any other."""
    text = (address or "").strip()
    return text if _LINK.fullmatch(text) and not MISLEADING.search(text) else None


def segment(name: str) -> str:
    """Return a name as one part of a file path: letters, digits, ``.``, ``_``, ``-``; else ``~HEX~``.

    Different names stay different; no name is hidden or leads out of its folder.
    """
    made = "".join(
        one if one.isascii() and (one.isalnum() or one in "._-") else f"~{ord(one):x}~" for one in name
    )
    return f"~2e~{made[1:]}" if made.startswith(".") else made or "~"


def address(path: str) -> str:
    """Return a file path as the path of a URL."""
    return quote(path, safe="/-._~")


def size(number: int) -> str:
    """Write a number of bytes for people: ``111.3 MiB``."""
    value = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{int(value)} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
