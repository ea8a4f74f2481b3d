"""Reads recipes (ADR 0008)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from imgbuilder.customize.argforms import ArgumentPart, Kind, Raw
from imgbuilder.customize.registry import Written, all_operations
from imgbuilder.errors import UsageError
from imgbuilder.recipe.document import Key, RecipeDocument, nearest
from imgbuilder.recipe.recipe import SETTINGS, Recipe, Setting, SettingKind
from imgbuilder.recipe.variables import NAME, ValueReader, Variable, next_to, resolve

_MOST_FILES = 100
_TOP = ("include", "variables", "operation")
_Plain = TypeVar("_Plain", str, int)


class RecipeFiles:
    """A recipe and the recipes that it includes, read once, for any values of its variables.

    An included file comes before the including one, and counts once even if several files include it. Its
    operations come first; the including file's settings and defaults replace its settings and defaults.
    """

    def __init__(self, path: Path) -> None:
        self._gathered = _Gathered()
        _gather(path, self._gathered, ())

    @property
    def variables(self) -> Mapping[str, Variable]:
        """The declared variables."""
        return self._gathered.variables

    def recipe(self, values: Mapping[str, str]) -> Recipe:
        """Return the recipe with these values of its variables."""
        known = resolve(self.variables, values)
        settings: dict[str, Any] = {}
        operations: list[Written] = []
        for document in self._gathered.documents:
            reader = _RecipeReader(document, known)
            settings |= reader.settings()
            operations += reader.operations()
        return Recipe(settings, tuple(operations))


def read_recipe(path: Path, values: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe and the recipes that it includes."""
    return RecipeFiles(path).recipe(values or {})


@dataclass
class _Gathered:
    """The content of the files read so far."""

    documents: list[RecipeDocument] = field(default_factory=list)
    variables: dict[str, Variable] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


def _gather(path: Path, gathered: _Gathered, including: tuple[tuple[str, Path], ...]) -> None:
    """Read a file after the files that it includes."""
    document = RecipeDocument(path)
    real = _real(path)
    gathered.seen.add(real)
    _check_keys(document)
    for index, other in _includes(document):
        place = ("include", index)
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
            if error.message.startswith("the recipe "):  # it cannot be read: name the including file
                raise document.error(place, error.message, error.hint) from error
            raise
    gathered.documents.append(document)
    gathered.variables |= _variables(document)


def _real(path: Path) -> str:
    """Return the path without links, to recognise a file that was read before."""
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL in the name: the file will not be found
        return str(path)


def _check_keys(document: RecipeDocument) -> None:
    known = (*_TOP, *SETTINGS)
    for name, value in document.data.items():
        if name in known:
            continue
        if name in all_operations():
            written = value if isinstance(value, str) and len(value) < 40 else "..."
            raise document.error(
                (name,),
                f"{name!r} is an operation and must follow a line [[operation]]",
                f'write [[operation]], and below it {name} = "{written}"',
            )
        raise document.error(
            (name,), f"there is no setting {name!r}", nearest(name, known, f"known: {', '.join(known)}")
        )


def _includes(document: RecipeDocument) -> list[tuple[int, Path]]:
    given = document.data.get("include", [])
    if not isinstance(given, list) or not all(isinstance(item, str) and item for item in given):
        raise document.error(
            ("include",), "a list of files is expected here", 'for example include = ["base.toml"]'
        )
    return [(index, next_to(document, name)) for index, name in enumerate(given)]


def _variables(document: RecipeDocument) -> dict[str, Variable]:
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
                raise _unknown_key(document, (*key, inner), "a variable", inner, ("default", "description"))
            if not isinstance(text, str):
                raise document.error(
                    (*key, inner), "a string is expected here", f'put it in quotes: "{text}"'
                )
        found[name] = Variable(name, about.get("default"), about.get("description", ""), document)
    return found


class _RecipeReader:
    """Reads the settings and operations of one file, with the values of its variables."""

    def __init__(self, document: RecipeDocument, variables: Mapping[str, str]) -> None:
        self._document = document
        self._values = ValueReader(document, variables)

    def settings(self) -> dict[str, Any]:
        """Return the settings, checked."""
        return {
            name: self._setting(setting, self._document.data[name])
            for name, setting in SETTINGS.items()
            if name in self._document.data
        }

    def operations(self) -> list[Written]:
        """Return the operations, not yet converted."""
        tables = self._document.data.get("operation", [])
        if not isinstance(tables, list):
            raise self._document.error(
                ("operation",), "operations are written as [[operation]]", "with two brackets on each side"
            )
        return [self._operation(("operation", index), table) for index, table in enumerate(tables)]

    def _setting(self, setting: Setting, value: object) -> object:
        key: Key = (setting.name,)
        match setting.kind:
            case SettingKind.TEXT:
                return self._checked(key, setting, self._values.text(key, value))
            case SettingKind.NUMBER:
                return self._checked(key, setting, self._values.number(key, value))
            case SettingKind.SWITCH:
                return self._values.switch(key, value)
            case SettingKind.TEXTS:
                texts = self._values.texts(key, value)
                return tuple(
                    self._checked((*key, index), setting, self._values.with_file(text))
                    for index, text in enumerate(texts)
                )
            case SettingKind.TABLES:
                rows = value if isinstance(value, list) else [None]
                return tuple(self._row(setting, (*key, index), row) for index, row in enumerate(rows))

    def _row(self, setting: Setting, key: Key, row: object) -> dict[str, str]:
        if not isinstance(row, dict):
            raise self._document.error(key, f"write it as [[{setting.name}]], with two brackets")
        known = dict(setting.keys)
        for name in row:
            if name not in known:
                raise _unknown_key(self._document, (*key, name), f"[[{setting.name}]]", name, known)
        for name, needed in setting.keys:
            if needed and name not in row:
                raise self._document.error(key, f"[[{setting.name}]] needs {name} = ...")
        texts = {name: self._values.text((*key, name), value) for name, value in row.items()}
        texts |= {name: self._values.path(texts[name]) for name in setting.paths}
        try:
            setting.check(*texts.values())
        except UsageError as error:
            raise self._document.error(key, error.message, error.hint) from error
        return texts

    def _checked(self, key: Key, setting: Setting, value: _Plain) -> _Plain:
        try:
            setting.check(value)
        except UsageError as error:
            raise self._document.error(key, error.message, error.hint) from error
        return value

    def _operation(self, key: Key, table: object) -> Written:
        if not isinstance(table, dict) or not table:
            raise self._document.error(
                key, "the operation is empty", 'below [[operation]] goes, for example, install = ["nginx"]'
            )
        registry = all_operations()
        named = [name for name in table if name in registry]
        if not named:
            name = next(iter(table))
            raise self._document.error(
                (*key, name),
                f"there is no operation {name!r}",
                nearest(name, registry, "the manual page pybuilder(1) lists them, as options"),
            )
        # A field may have the name of an operation, as "password" of "user" has.
        keyword = next((name for name in named if set(table) <= {name, *registry[name].fields}), named[0])
        spec = registry[keyword]
        for name in table:
            if name != keyword and name not in spec.fields:
                raise self._misplaced((*key, name), keyword, name)
        if not spec.fields:
            if table[keyword] is not True:
                raise self._document.error((*key, keyword), f"write {keyword} = true, or leave it out")
            return Written(spec, (), lambda _field: self._document.place(key))
        values = tuple(self._field(key, keyword, name, part, table) for name, part in spec.fields.items())
        return Written(
            spec, values, partial(self._place, key, dict(zip(spec.field_names, spec.fields, strict=True)))
        )

    def _misplaced(self, key: Key, keyword: str, name: str) -> UsageError:
        """Return the error about a key that the operation does not have."""
        if name in all_operations():
            return self._document.error(
                key,
                f"{keyword!r} and {name!r} are two operations",
                f"begin the second one with a line [[operation]] before {name!r}",
            )
        if name in SETTINGS:
            return self._document.error(
                key,
                f"{name!r} is a setting of the recipe, not a part of {keyword!r}",
                "settings come first, before any line in brackets",
            )
        known = list(all_operations()[keyword].fields)[1:]
        return _unknown_key(self._document, key, repr(keyword), name, known)

    def _place(self, key: Key, names: Mapping[str, str], field_name: str) -> str:
        return self._document.place((*key, names[field_name]) if field_name in names else key)

    def _field(
        self, key: Key, keyword: str, name: str, part: ArgumentPart, table: Mapping[str, object]
    ) -> Raw:
        if name not in table:
            if part.optional:
                return None
            raise self._document.error(key, f"{keyword!r} needs {name} = ...", _example(part, name))
        way, value = (*key, name), table[name]
        match part.kind:
            case Kind.SWITCH:
                return self._values.switch(way, value)
            case Kind.LIST:
                return self._values.texts(way, value)
            case Kind.OWNER if isinstance(value, int) and not isinstance(value, bool):
                return str(value)
            case Kind.PATH:
                return self._values.path(self._values.text(way, value))
        text = self._values.text(way, value)
        if part.is_secret(text):
            raise self._document.error(
                way,
                "a recipe must not contain a password",
                "name a secret (secret:NAME, with --secret NAME=env:VARIABLE) or a file (file:PATH)"
                if part.kind is Kind.SELECTOR
                else "leave it out of the address",
            )
        return self._values.with_file(text) if part.kind is Kind.SELECTOR else text


def _unknown_key(
    document: RecipeDocument, key: Key, what: str, name: str, known: Iterable[str]
) -> UsageError:
    names = list(known)
    listed = f"known: {', '.join(names)}" if names else "it takes only its value"
    return document.error(key, f"{what} has no key {name!r}", nearest(name, names, listed))


def _example(part: ArgumentPart, name: str) -> str:
    match part.kind:
        case Kind.LIST:
            return f'for example {name} = ["..."]'
        case Kind.SWITCH:
            return f"for example {name} = true"
        case _:
            return f'for example {name} = "..."'
