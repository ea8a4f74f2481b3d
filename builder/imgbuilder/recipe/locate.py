"""Finds the lines of the values in a TOML text.

The standard library's ``tomllib`` does not report positions, nor do the libraries that keep a text's style
(ADR 0008). This module walks over a text that ``tomllib`` has accepted: it does not validate, it only finds
the ends of strings, arrays and tables. It runs only if there is an error to report.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Key = tuple[str | int, ...]
"""The path to a value: names of keys, and positions in arrays."""

_STRING = re.compile(
    r'"""(?:[^"\\]|\\[\s\S]|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
)
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANKS = re.compile(r"[ \t]*")
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")


def find_lines(text: str) -> dict[Key, int]:
    """Return the line of each key, table and array item of a valid TOML document with LF line ends."""
    return _Walk(text).places


class _Walk:
    """One walk over a document."""

    def __init__(self, text: str) -> None:
        self.places: dict[Key, int] = {}
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._counts: dict[Key, int] = {}
        table: Key = ()
        self._skip(_SPACE)
        while self._at < len(text):
            if text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_SPACE)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _note(self, key: Key) -> None:
        self.places.setdefault(key, bisect_right(self._starts, self._at))

    def _header(self) -> Key:
        """Walk over ``[table]`` or ``[[table]]``; return the path to it."""
        start = self._at
        many = self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        *parents, last = self._names()
        table = (*self._existing(parents), last)
        end, self._at = self._at, start
        self._note(table)
        if many:
            self._counts[table] = self._counts.get(table, -1) + 1
            table = (*table, self._counts[table])
            self._note(table)
        elif table in self._counts:
            table = (*table, self._counts[table])
        self._at = end + (2 if many else 1)
        return table

    def _existing(self, names: list[str]) -> Key:
        """Return the path to a table by names; in an array of tables, to the newest one."""
        way: Key = ()
        for name in names:
            way = (*way, name)
            self._note(way)
            if way in self._counts:
                way = (*way, self._counts[way])
        return way

    def _names(self) -> list[str]:
        """Walk over a dotted key."""
        names = []
        while True:
            self._skip(_BLANKS)
            quoted = self._skip(_STRING)
            names.append(str(tomllib.loads(f"x = {quoted}")["x"]) if quoted else self._skip(_WORD))
            self._skip(_BLANKS)
            if not self._text.startswith(".", self._at):
                return names
            self._at += 1

    def _pair(self, table: Key) -> None:
        start = self._at
        way = table
        names = self._names()
        end, self._at = self._at, start
        for name in names:
            way = (*way, name)
            self._note(way)
        self._at = end + 1  # after the "="
        self._value(way)

    def _value(self, way: Key) -> None:
        self._skip(_SPACE)
        self._note(way)
        opening = self._text[self._at : self._at + 1]
        if opening == "[":
            self._items(way, "]")
        elif opening == "{":
            self._items(way, "}")
        elif not self._skip(_STRING):
            self._skip(_SCALAR)

    def _items(self, way: Key, closing: str) -> None:
        """Walk over an array or an inline table."""
        self._at += 1
        index = 0
        while True:
            self._skip(_SPACE)
            if self._text.startswith(closing, self._at) or self._at >= len(self._text):
                self._at += 1
                return
            if closing == "]":
                self._value((*way, index))
                index += 1
            else:
                self._pair(way)
            self._skip(_SPACE)
            if self._text.startswith(",", self._at):
                self._at += 1
