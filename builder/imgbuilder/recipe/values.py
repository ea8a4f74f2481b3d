"""Values in a recipe: of the right kind, their variables put in, their files found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from imgbuilder.errors import UsageError
from imgbuilder.recipe.document import Document
from imgbuilder.recipe.locate import Key
from imgbuilder.recipe.variables import substitute, unknown

_SELECTED_FILE = re.compile(r"((?:lock(?:ed)?:)*file:|[^:]+:file:)(.*)", re.DOTALL)
"""A selector that names a file: of a password, key or secret, or of a device's key."""


class Values:
    """Reads values of one file.

    Its methods raise ``UsageError``, naming file and line, where something else was written.

    Args:
        document: The file.
        variables: Values of the variables.
    """

    def __init__(self, document: Document, variables: Mapping[str, str]) -> None:
        self._document = document
        self._variables = variables

    def text(self, key: Key, value: object) -> str:
        """Return a text, its variables put in."""
        if not isinstance(value, str):
            raise self._document.error(
                key, f"a text is expected here, not {_kind_of(value)}", "put it in quotes"
            )
        return self._substituted(key, value)

    def _substituted(self, key: Key, text: str) -> str:
        try:
            return substitute(text, self._value_of)
        except UsageError as error:
            raise self._document.error(key, error.message, error.hint) from error

    def _value_of(self, name: str) -> str:
        if name not in self._variables:
            raise unknown(name, self._variables)
        return self._variables[name]

    def texts(self, key: Key, value: object) -> tuple[str, ...]:
        """Return a list of texts."""
        if not isinstance(value, list):
            shown = value if isinstance(value, str) and len(value) < 40 else "..."
            raise self._document.error(
                key, f"a list is expected here, not {_kind_of(value)}", f'in brackets: ["{shown}"]'
            )
        return tuple(self.text((*key, index), item) for index, item in enumerate(value))

    def number(self, key: Key, value: object) -> int:
        """Return a whole number, also one written as a text."""
        if isinstance(value, str):
            text = self._substituted(key, value)
            if text.isascii() and text.isdigit() and len(text) <= 10:  # a variable, perhaps
                return int(text)
        elif isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self._document.error(key, f"a number is expected here, not {_kind_of(value)}")

    def switch(self, key: Key, value: object) -> bool:
        """Return true or false."""
        if not isinstance(value, bool):
            raise self._document.error(key, f"true or false is expected here, not {_kind_of(value)}")
        return value

    def path(self, text: str) -> str:
        """Return a local file, found beside the recipe."""
        return str(beside(self._document, text)) if text else ""

    def with_file(self, text: str) -> str:
        """Find the file of a selector beside the recipe."""
        start, path = split_selector(text)
        return f"{start}{self.path(path)}" if start else text


def split_selector(text: str) -> tuple[str, str]:
    """Split a selector before the name of its file; both are empty when it names none."""
    match = _SELECTED_FILE.fullmatch(text)
    return (match[1], match[2]) if match else ("", "")


def beside(document: Document, name: str) -> Path:
    """Return a local file that a recipe names: beside itself, or absolute, or in the home directory."""
    path = Path(name)
    if name.startswith("~"):
        try:
            return path.expanduser()
        except RuntimeError:
            return path  # a user that there is not: the file will not be found
    return document.path.parent / path


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (str, "a text"),
    (int, "a number"),
    (float, "a number with a point"),
    (list, "a list"),
    (dict, "a table"),
)


def _kind_of(value: object) -> str:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "a date")
