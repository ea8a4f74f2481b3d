"""Lines of text from what a serial console sends, whatever that is. Pure.

A guest may send anything: endless lines, colours, orders for the terminal.
Memory stays bounded, and of a line only characters that can be shown are left.
"""

from __future__ import annotations

import re
from collections import deque

LONGEST_LINE = 4096
"""Bytes after which a line counts as complete."""
_ROWS = 25
"""Rows of the terminal that firmware and boot loaders draw on."""
_ESCAPE = re.compile(
    r"\x1b\[(?P<row>[0-9]{1,3});[0-9]{1,3}[Hf]"  # to a row and a column
    r"|\x1b\[[0-?]*[ -/]*(?P<order>[@-~])"  # any other control sequence
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # strings: titles, colours, what a printer gets
    r"|\x1b[ -/]*[0-~]?"
)
_MOVES = frozenset("ABEFHJTSdf")
"""Control sequences after which another line of the screen is written to."""

_TO_THE_TOP = {"\x1bc", "\x1b[2J", "\x1b[H"}
"""After these, the first row is written to."""


class Lines:
    """Splits a stream of bytes into lines; how it was cut into pieces makes no difference."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._row: int | None = None

    def feed(self, piece: bytes) -> list[str]:
        """Take more bytes; return the lines that are complete now, without empty ones."""
        found: list[str] = []
        self._waiting += piece
        begin = 0
        while True:
            end = self._waiting.find(b"\n", begin, begin + LONGEST_LINE)
            if end < 0 and len(self._waiting) - begin < LONGEST_LINE:
                break
            stop = end + 1 if end >= 0 else begin + LONGEST_LINE
            found += self._clean(bytes(self._waiting[begin:stop]))
            if end >= 0 and self._row is not None:
                self._row = min(self._row + 1, _ROWS)
            begin = stop
        del self._waiting[:begin]
        return found

    def unfinished(self) -> list[str]:
        """Return what the line that has no end yet shows; it is not taken away."""
        row = self._row
        found = self._clean(bytes(self._waiting))
        self._row = row
        return found

    def _clean(self, data: bytes) -> list[str]:
        text = _ESCAPE.sub(self._moved, data.decode(errors="replace")).replace("\r", "\n")
        shown = ("".join(letter for letter in line if letter.isprintable()) for line in _lines(text))
        return [line.strip() for line in shown if line.strip()]

    def _moved(self, found: re.Match[str]) -> str:
        # A BIOS on the serial console tells places all the time; on the same row, the line goes on.
        if found["row"] is not None:
            before, self._row = self._row, int(found["row"])
            return "" if before == self._row else "\n"
        if found.group() in _TO_THE_TOP:
            self._row = 1
        return "\n" if found["order"] and found["order"] in _MOVES else ""


def _lines(text: str) -> list[str]:
    return text.replace("\t", " ").split("\n")


class Log:
    """The beginning and the end of a console's lines, and how many between them were left out.

    Args:
        room: Characters that are kept of the beginning, and as many of the end.
    """

    def __init__(self, room: int = 512 << 10) -> None:
        self._room = room
        self._first: list[str] = []
        self._first_size = 0
        self._last: deque[str] = deque()
        self._last_size = 0
        self._left_out = 0

    def add(self, line: str) -> None:
        """Keep a line."""
        size = len(line) + 1
        if not self._last and self._first_size + size <= self._room:
            self._first.append(line)
            self._first_size += size
            return
        self._last.append(line)
        self._last_size += size
        while self._last_size > self._room:
            self._last_size -= len(self._last.popleft()) + 1
            self._left_out += 1

    def text(self) -> str:
        """Return all that was kept."""
        gap = [f"[... {self._left_out} lines are left out here ...]"] if self._left_out else []
        return "".join(f"{line}\n" for line in (*self._first, *gap, *self._last))

    def tail(self, count: int) -> tuple[str, ...]:
        """Return the last lines."""
        return (*self._first, *self._last)[-count:]
