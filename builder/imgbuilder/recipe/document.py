"""One recipe file, or another TOML file of the user: its content, and errors that name file and line.

``tomllib`` does not report positions, nor do the libraries that keep a text's style (ADR 0008). So
``find_lines`` walks over a text that ``tomllib`` has accepted, without validating it, and finds
the ends of strings, arrays and tables. It runs only if there is an error to report.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imgbuilder.errors import UsageError
from imgindex.files import open_given

_LARGEST = 1024 * 1024
"""Largest recipe in bytes; larger content belongs into files of its own."""
_DEEPEST = 8
"""Levels of tables and arrays; recipes use three."""
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")

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


class RecipeDocument:
    """A parsed recipe file; ``kind`` is its name in errors, where it is another file."""

    def __init__(self, path: Path, kind: str = "recipe") -> None:
        self.path = path
        self._kind = kind
        self._text = read_text(path, kind, _LARGEST).replace("\r\n", "\n")
        try:
            self.data: dict[str, Any] = tomllib.loads(self._text)
        except RecursionError:
            raise self._too_deep() from None
        except ValueError as error:  # a TOMLDecodeError, or a number with thousands of digits
            raise self._syntax_error(error) from error
        if _is_deeper(self.data, _DEEPEST):
            raise self._too_deep()

    @functools.cached_property
    def _lines(self) -> dict[Key, int]:
        return find_lines(self._text)

    def place(self, key: Key) -> str:
        """Return file and line of a value; if it is missing, of the nearest table around it."""
        while key and key not in self._lines:
            key = key[:-1]
        return f"{self.path}: line {self._lines.get(key, 1)}"

    def error(self, key: Key, message: str, hint: str | None = None) -> UsageError:
        """Return an error about a value."""
        return UsageError(f"{self.place(key)}: {message}", hint=hint)

    def _too_deep(self) -> UsageError:
        return UsageError(f"{self.path}: tables and lists are nested too deeply for a {self._kind}")

    def _syntax_error(self, error: ValueError) -> UsageError:
        text = str(error)
        found = _POSITION.search(text)
        reason = text[: found.start()] if found else text
        number = int(found[1]) if found and found[1] else self._text.count("\n") + 1
        line = (self._text.split("\n")[number - 1 :] or [""])[0].strip()[:80]
        shown = f": {line}" if line else ""
        return UsageError(
            f"{self.path}: line {number}: this is not TOML ({reason[:1].lower()}{reason[1:]}){shown}",
            hint=_syntax_hint(line, reason),
        )


def nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint that suggests the known word most like ``word``, or ``otherwise`` if none is like it."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


def _syntax_hint(line: str, reason: str) -> str:
    if "overwrite" in reason.lower() or "twice" in reason or "duplicate" in reason.lower():
        return "a key may occur only once in a table; begin each operation with a line [[operation]]"
    _key, equals, value = line.partition("=")
    if "illegal character" in reason.lower() and ('"' in value or "'" in value):
        return 'put a string of several lines in three quotes: """'
    if equals and re.fullmatch(r"\s*[\w/~.:-]+\s*", value) and value.strip() not in {"true", "false"}:
        return f'put strings in quotes: {_key.strip()} = "{value.strip()}"'
    return "see https://toml.io for the format; strings go in quotes, lists in [ ]"


def read_text(path: Path, kind: str, limit: int) -> str:
    """Read a text file of the user."""
    try:
        with open_given(path) as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise UsageError(
            f"the {kind} {str(path)!r} cannot be read: {error.strerror}", hint="check the name"
        ) from error
    if len(content) > limit:
        raise UsageError(
            f"{path}: a {kind} has at most {limit} bytes",
            hint="keep large content in separate files, and use upload",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: line {number}: this is not UTF-8", hint="save it as UTF-8") from error


def _is_deeper(value: object, limit: int) -> bool:
    level: list[object] = [value]
    for _ in range(limit):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list) for item in level)


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
