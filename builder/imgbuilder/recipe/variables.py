"""Values in recipes: their kinds, the variables ``${{ name }}`` in them, and the files that they name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import UsageError
from imgbuilder.recipe.document import Document, nearest
from imgbuilder.recipe.locate import Key

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MARK = re.compile(r"\$\$\{\{|\$\{\{((?:(?!\}\}).)*)(\}\})?", re.DOTALL)
_LARGEST = 16 * 1024 * 1024
"""Characters of a text with its variables put in."""


@dataclass(frozen=True)
class Variable:
    """A declared variable.

    Attributes:
        name: Its name.
        default: Its value when none is set; None when one must be set.
        description: What it is for.
        document: The recipe that declares it.
    """

    name: str
    default: str | None
    description: str
    document: Document

    def error(self, message: str, hint: str | None = None) -> UsageError:
        """Return a complaint about it."""
        return self.document.error(("variables", self.name), message, hint)


def parse_settings(given: Sequence[str]) -> dict[str, str]:
    """Read the values of ``--set KEY=VALUE``; the last one of a name counts.

    Raises:
        UsageError: One has no ``=``, or no name.
    """
    values = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not NAME.fullmatch(name):
            raise UsageError(
                f"--set {name[:80]!r} is not understood", hint="give --set NAME=VALUE, with a variable's name"
            )
        values[name] = value
    return values


def resolve(declared: Mapping[str, Variable], given: Mapping[str, str]) -> dict[str, str]:
    """Find the value of each variable.

    Args:
        declared: The variables that there are.
        given: Values that the user set, taken as they are; a default may name other variables.

    Raises:
        UsageError: A value is set for a variable that there is not, or none for one that needs it; or
            defaults need each other.
    """
    for name in given:
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise UsageError(
                f"--set {name}: the recipe has no such variable",
                hint=nearest(name, declared, f"its variables are: {known}"),
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
            raise variable.error(f"variables need each other: {way}", "give one of them a plain default")
        if variable.default is None:
            about = f" ({variable.description})" if variable.description else ""
            raise variable.error(
                f"the variable {name!r}{about} has no value", f"give one: --set {name}=VALUE"
            )
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
    """Return the complaint about a variable that nobody declared."""
    return UsageError(
        f"there is no variable {name!r}",
        hint=nearest(name, known, f'declare it: [variables], and below it {name} = "its default"'),
    )


def substitute(text: str, value_of: Callable[[str], str]) -> str:
    """Put values in the place of ``${{ name }}``; ``$${{`` stands for ``${{`` itself.

    Args:
        text: A text of the recipe.
        value_of: Returns the value of a variable; may raise ``UsageError``.

    Raises:
        UsageError: A mark is not closed, or holds no name; or the text becomes too long.
    """

    def one(match: re.Match[str]) -> str:
        if match[1] is None:
            return "${{"
        name = match[1].strip()
        if match[2] is None:
            raise UsageError(
                "a ${{ is not closed", hint="write ${{ name }}, or $${{ for the signs themselves"
            )
        if not NAME.fullmatch(name):
            raise UsageError(
                f"${{{{{match[1][:40]}}}}} holds no name of a variable",
                hint="write ${{ name }}, or $${{ for the signs themselves",
            )
        return value_of(name)

    result = _MARK.sub(one, text)
    if len(result) > _LARGEST:
        raise UsageError("the text is too long with its variables put in")
    return result


def escape(text: str) -> str:
    """Write a text so that ``substitute`` returns it unchanged."""
    return text.replace("${{", "$${{")


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
