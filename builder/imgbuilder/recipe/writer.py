"""Writes recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from imgbuilder.customize.argforms import ArgumentPart, Kind, Raw
from imgbuilder.customize.registry import Written
from imgbuilder.errors import UsageError
from imgbuilder.recipe.recipe import SETTINGS, Recipe, SettingKind
from imgbuilder.recipe.variables import escape, split_selector

_WIDTH = 100
"""Longest list on one line."""


def recipe_text(recipe: Recipe, folder: Path | None) -> str:
    """Return the TOML text of a recipe, which ``read_recipe`` reads as an equal one.

    In ``folder``, local files below it get relative names, others absolute ones; with None, names stay.
    """
    return _RecipeWriter(folder).text(recipe)


class _RecipeWriter:
    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder.resolve()

    def text(self, recipe: Recipe) -> str:
        plain: dict[str, Any] = {}
        tables: list[str] = []
        for name, setting in SETTINGS.items():
            if name not in recipe.settings:
                continue
            value = recipe.settings[name]
            if setting.kind is SettingKind.TABLES:
                tables += [
                    _table(name, {key: self._row_text(key, text, setting.paths) for key, text in row.items()})
                    for row in value
                ]
            elif setting.kind is SettingKind.TEXTS:
                for text in value:
                    setting.check(text)  # it must not contain a secret
                plain[name] = [_plain(name, self._selector(text)) for text in value]
            else:
                plain[name] = _plain(name, value) if isinstance(value, str) else value
        pieces = [_lines(plain), *tables, *(self._operation(item) for item in recipe.operations)]
        return "\n".join(piece for piece in pieces if piece)

    def _operation(self, written: Written) -> str:
        spec = written.spec
        if not spec.fields:
            return _table("operation", {spec.keyword: True})
        values = {
            name: self._value(f"--{spec.keyword}", part, raw)
            for (name, part), raw in zip(spec.fields.items(), written.values, strict=True)
            if raw is not None
        }
        return _table("operation", values)

    def _value(self, what: str, part: ArgumentPart, raw: Raw) -> object:
        if isinstance(raw, tuple):
            return [_plain(what, text) for text in raw]
        if not isinstance(raw, str):
            return raw
        if part.is_secret(raw):
            raise UsageError(
                f"{what}: a recipe must not contain a password",
                hint="use --secret NAME=env:VARIABLE, and secret:NAME instead of the password"
                if part.kind is Kind.SELECTOR
                else "leave it out of the address",
            )
        match part.kind:
            case Kind.PATH:
                return _plain(what, self._path(raw))
            case Kind.SELECTOR:
                return _plain(what, self._selector(raw))
            case _:
                return _plain(what, raw)

    def _row_text(self, key: str, text: str, paths: tuple[str, ...]) -> str:
        return _plain(key, self._path(text) if key in paths else text)

    def _path(self, text: str) -> str:
        if self._folder is not None and text:
            path = Path.cwd() / text
            try:
                below = path.relative_to(self._folder)
            except ValueError:
                return str(path)
            text = str(below)
        return f"./{text}" if text.startswith("~") else text

    def _selector(self, text: str) -> str:
        start, path = split_selector(text)
        if not start or path.startswith("~/"):  # the reader of the recipe finds the home directory
            return text
        return f"{start}{self._path(path)}"


def _plain(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{what}: a recipe can only contain UTF-8 text",
            hint="put it into a file and upload that",
        ) from None
    return escape(text)


def _table(name: str, values: dict[str, Any]) -> str:
    return f"[[{name}]]\n{_lines(values)}"


def _lines(values: dict[str, Any]) -> str:
    return "".join(_line(key, value) for key, value in values.items())


def _line(key: str, value: object) -> str:
    if isinstance(value, list):
        short = ", ".join(tomli_w.dumps({"x": text}).removeprefix("x = ").rstrip("\n") for text in value)
        if len(key) + len(short) <= _WIDTH:
            return f"{key} = [{short}]\n"
    # A carriage return is lost in a string of several lines.
    many = isinstance(value, str) and "\r" not in value
    return tomli_w.dumps({key: value}, multiline_strings=many)
