"""Reading recipes (ADR 0008)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgbuilder.customize.registry import Written, all_operations
from imgbuilder.errors import UsageError
from imgbuilder.recipe.document import Document, nearest
from imgbuilder.recipe.model import Recipe
from imgbuilder.recipe.reader import Reader
from imgbuilder.recipe.settings import SETTINGS
from imgbuilder.recipe.values import beside
from imgbuilder.recipe.variables import NAME, Variable, resolve

_MOST_FILES = 100
_TOP = ("include", "variables", "operation")


@dataclass
class _Gathered:
    """What the files read so far say."""

    documents: list[Document] = field(default_factory=list)
    variables: dict[str, Variable] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


def read_recipe(path: Path, values: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe and those that it includes.

    A file that is included comes before the one that includes it, and counts once, however many include it:
    its operations come first, and its settings and defaults are replaced by those of the other.

    Args:
        path: The file.
        values: Values of its variables.

    Raises:
        UsageError: A file cannot be read, is not TOML, or holds what no recipe has; or a variable has no
            value. The message names file and line.
    """
    gathered = _Gathered()
    _gather(path, gathered, ())
    known = resolve(gathered.variables, values or {})
    settings: dict[str, Any] = {}
    operations: list[Written] = []
    for document in gathered.documents:
        reader = Reader(document, known)
        settings |= reader.settings()
        operations += reader.operations()
    return Recipe(settings, tuple(operations))


def _gather(path: Path, gathered: _Gathered, including: tuple[tuple[str, Path], ...]) -> None:
    """Read a file after those that it includes."""
    document = Document(path)
    real = _real(path)
    gathered.seen.add(real)
    _check_top(document)
    for name, other in _includes(document):
        place = ("include", name)
        target = _real(other)
        way = [*including, (real, path)]
        if any(target == known for known, _shown in way):
            shown = " -> ".join(str(written) for _known, written in [*way, (target, other)])
            raise document.error(
                place, f"recipes include each other: {shown}", "remove one of these includes"
            )
        if target in gathered.seen:
            continue
        if len(gathered.seen) >= _MOST_FILES:
            raise document.error(place, f"more than {_MOST_FILES} recipes are included")
        try:
            _gather(other, gathered, tuple(way))
        except UsageError as error:
            if error.message.startswith("the recipe "):  # it cannot be read: say who wants it
                raise document.error(place, error.message, error.hint) from error
            raise
    gathered.documents.append(document)
    gathered.variables |= _variables(document)


def _real(path: Path) -> str:
    """Return the path without links, by which a file is known again."""
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL in the name: the file will not be found
        return str(path)


def _check_top(document: Document) -> None:
    known = (*_TOP, *SETTINGS)
    for name, value in document.data.items():
        if name in known:
            continue
        if name in all_operations():
            written = value if isinstance(value, str) and len(value) < 40 else "..."
            raise document.error(
                (name,),
                f"{name!r} is an operation, and stands below a line [[operation]]",
                f'write [[operation]], and below it {name} = "{written}"',
            )
        raise document.error(
            (name,), f"a recipe has no {name!r}", nearest(name, known, f"it has: {', '.join(known)}")
        )


def _includes(document: Document) -> list[tuple[int, Path]]:
    given = document.data.get("include", [])
    if not isinstance(given, list) or not all(isinstance(item, str) and item for item in given):
        raise document.error(
            ("include",), "a list of files is expected here", 'for example include = ["base.toml"]'
        )
    return [(index, beside(document, name)) for index, name in enumerate(given)]


def _variables(document: Document) -> dict[str, Variable]:
    table = document.data.get("variables", {})
    if not isinstance(table, dict):
        raise document.error(
            ("variables",), "a table is expected here", 'write [variables] and below it name = "default"'
        )
    found = {}
    for name, value in table.items():
        key = ("variables", name)
        if not NAME.fullmatch(name):
            raise document.error(
                key, f"{name!r} is not the name of a variable", "use letters, digits, '_' and '-'"
            )
        about = value if isinstance(value, dict) else {"default": value}
        for inner, text in about.items():
            if inner not in ("default", "description"):
                raise document.error(
                    (*key, inner),
                    f"a variable has no {inner!r}",
                    nearest(inner, ("default", "description"), "it has: default, description"),
                )
            if not isinstance(text, str):
                raise document.error((*key, inner), "a text is expected here", f'in quotes: "{text}"')
        found[name] = Variable(name, about.get("default"), about.get("description", ""), document)
    return found
