"""Values in recipes: their kinds, the variables ``${{ name }}`` in them, and the files that they name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import UsageError
from imgbuilder.recipe.document import Key, RecipeDocument, nearest

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MARK = re.compile(r"\$\$\{\{|\$\{\{((?:(?!\}\}).)*)(\}\})?", re.DOTALL)
_LARGEST = 16 * 1024 * 1024
"""Longest text in characters, with its variables replaced."""


@dataclass(frozen=True)
class Variable:
    """A declared variable, which must be set if it has no default."""

    name: str
    default: str | None
    description: str
    document: RecipeDocument

    def error(self, message: str, hint: str | None = None) -> UsageError:
        """Return an error about it."""
        return self.document.error(("variables", self.name), message, hint)


def parse_settings(given: Sequence[str]) -> dict[str, str]:
    """Parse the values of ``--set NAME=VALUE``; the last one of a name wins."""
    values = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not NAME.fullmatch(name):
            raise UsageError(
                f"--set {name[:80]!r} is not NAME=VALUE",
                hint="write --set NAME=VALUE, with a variable's name",
            )
        values[name] = value
    return values


def resolve(declared: Mapping[str, Variable], given: Mapping[str, str]) -> dict[str, str]:
    """Return the value of each declared variable."""
    for name in given:
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise UsageError(
                f"--set {name}: the recipe has no such variable",
                hint=nearest(name, declared, f"its variables: {known}"),
            )
    values = dict(given)

    def value_of(name: str, asking: tuple[str, ...]) -> str:
        variable = declared.get(name)
        if variable is None:
            raise unknown(name, declared)
        if name in values:
            return values[name]
        if name in asking:
            way = " -> ".join([*asking, name])
            raise variable.error(
                f"variables refer to each other: {way}", "give one of them a default without a variable"
            )
        if variable.default is None:
            about = f" ({variable.description})" if variable.description else ""
            raise variable.error(f"the variable {name!r}{about} has no value", f"set it: --set {name}=VALUE")
        text = variable.default
        try:
            values[name] = substitute(text, lambda inner: value_of(inner, (*asking, name)))
        except UsageError as error:
            if ": line " in error.message:
                raise
            raise variable.error(error.message, error.hint) from error
        return values[name]

    for name in declared:
        value_of(name, ())
    return values


def unknown(name: str, known: Mapping[str, object]) -> UsageError:
    """Return the error about a variable that is not declared."""
    return UsageError(
        f"there is no variable {name!r}",
        hint=nearest(name, known, f'declare it below [variables]: {name} = "its default"'),
    )


def substitute(text: str, value_of: Callable[[str], str]) -> str:
    """Replace each ``${{ name }}`` by ``value_of(name)``, and ``$${{`` by a literal ``${{``."""

    def one(match: re.Match[str]) -> str:
        if match[1] is None:
            return "${{"
        name = match[1].strip()
        if match[2] is None:
            raise UsageError("a ${{ is not closed", hint="write ${{ name }}, or $${{ for a literal ${{")
        if not NAME.fullmatch(name):
            raise UsageError(
                f"${{{{{match[1][:40]}}}}} is not the name of a variable",
                hint="write ${{ name }}, or $${{ for a literal ${{",
            )
        return value_of(name)

    result = _MARK.sub(one, text)
    if len(result) > _LARGEST:
        raise UsageError("the text is too long after its variables were replaced")
    return result


def escape(text: str) -> str:
    """Escape a text so that ``substitute`` returns it unchanged."""
    return text.replace("${{", "$${{")


_SELECTED_FILE = re.compile(r"((?:lock(?:ed)?:)*file:|[^:]+:file:)(.*)", re.DOTALL)
"""A selector that names the file of a password, key or secret, or of a device's key."""


class ValueReader:
    """Reads values of one file; errors name file and line."""

    def __init__(self, document: RecipeDocument, variables: Mapping[str, str]) -> None:
        self._document = document
        self._variables = variables

    def text(self, key: Key, value: object) -> str:
        """Return a text with its variables replaced."""
        if not isinstance(value, str):
            raise self._document.error(
                key, f"a string is expected here, not {_kind_of(value)}", "put it in quotes"
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
            if text.isascii() and text.isdigit() and len(text) <= 10:  # for example from a variable
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
        """Return the path of a local file, relative to the recipe's folder."""
        return str(next_to(self._document, text)) if text else ""

    def with_file(self, text: str) -> str:
        """Return a selector whose file is relative to the recipe's folder."""
        start, path = split_selector(text)
        return f"{start}{self.path(path)}" if start else text


def split_selector(text: str) -> tuple[str, str]:
    """Split a selector before the name of its file; both parts are empty if it names none."""
    match = _SELECTED_FILE.fullmatch(text)
    return (match[1], match[2]) if match else ("", "")


def next_to(document: RecipeDocument, name: str) -> Path:
    """Return a local file named by a recipe: relative to its folder, absolute, or in the home directory."""
    path = Path(name)
    if name.startswith("~"):
        try:
            return path.expanduser()
        except RuntimeError:
            return path  # no such user: the file will not be found
    return document.path.parent / path


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (str, "a string"),
    (int, "a number"),
    (float, "a decimal number"),
    (list, "a list"),
    (dict, "a table"),
)


def _kind_of(value: object) -> str:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "a date")
