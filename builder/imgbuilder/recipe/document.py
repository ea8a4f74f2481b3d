"""One recipe file: its content, and errors that name file and line."""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from imgbuilder.errors import UsageError
from imgbuilder.recipe.locate import Key, find_lines
from imgindex.files import open_given

_LARGEST = 1024 * 1024
"""Largest recipe in bytes; larger content belongs into files of its own."""
_DEEPEST = 8
"""Levels of tables and arrays; recipes use three."""
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class RecipeDocument:
    """A parsed recipe file.

    Args:
        path: The file.

    Raises:
        UsageError: It cannot be read, is too large, or is not TOML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = _read(path).replace("\r\n", "\n")
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
        return UsageError(f"{self.path}: tables and lists are nested too deeply for a recipe")

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


def _read(path: Path) -> str:
    try:
        with open_given(path) as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(
            f"the recipe {str(path)!r} cannot be read: {error.strerror}", hint="check the name"
        ) from error
    if len(content) > _LARGEST:
        raise UsageError(
            f"{path}: a recipe has at most {_LARGEST} bytes",
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
