"""Variables of recipes: ``${{ name }}`` in texts, with defaults, and values from ``--set``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from imgbuilder.errors import UsageError
from imgbuilder.recipe.document import Document, nearest

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
