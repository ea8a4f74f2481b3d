"""Recipes on the command line: the option ``--recipe``, and ``pybuilder recipe``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from imgbuilder.cli.customizing import ATTACHED, given_options, given_recipe, has_recipe, written_operations
from imgbuilder.cli.modes import plan_image
from imgbuilder.cli.requests import Call
from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.fetch.urls import Address
from imgbuilder.host.workspace import follow
from imgbuilder.sizes import counted
from imgbuilder.terminal.reporter import show

_VALUES = {
    "arch": "arch_", "output": "output", "format": "format_", "compress": "compress", "linked": "linked",
    "seed": "seed", "size": "size",
    "memsize": "memsize", "smp": "smp", "network": "network", "keys": "keys",
}  # fmt: skip
"""Settings of recipes that are options of the same meaning, and the names of the options' values."""


def with_recipe(ctx: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options' values, with the settings of ``--recipe`` where the command line has none."""
    if not has_recipe(ctx):
        return options
    settings = given_recipe(ctx).settings
    result = dict(options)
    for name, option in _VALUES.items():
        if name in settings and not _is_given(ctx, option):
            result[option] = settings[name]
    if "template" in settings and not options["names"]:
        result["names"] = (settings["template"],)
    if "source" in settings and not _is_given(ctx, "sources"):
        result["sources"] = tuple(row["url"] for row in settings["source"])
        result["fingerprints"] = tuple(row["fingerprint"] for row in settings["source"])
    if "attach" in settings and not ctx.meta[ATTACHED]:
        ctx.meta[ATTACHED] = [(row["file"], row.get("format", "auto")) for row in settings["attach"]]
    return result


def write_recipe(call: Call) -> None:
    """Write the command line of a build down as a recipe; show its plan when the recipe goes to a file."""
    from imgbuilder.recipe.recipe import Recipe
    from imgbuilder.recipe.writer import recipe_text

    if not call.names or len(call.names) > 2:
        raise UsageError(
            "recipe write needs a file and the OS-VERSION to build",
            hint="pybuilder recipe write web.toml debian-12 --install nginx",
        )
    name, *template = call.names
    settings = _settings(call.ctx, {**call.options, "names": template})
    if "template" not in settings:
        raise UsageError("the recipe would name no template", hint=f"pybuilder recipe write {name} debian-12")
    recipe = Recipe(settings, written_operations(call.ctx))
    recipe.make_operations()  # what is wrong should not be written down
    if name == "-":
        show(recipe_text(recipe, None))
        return
    path = Path(name)
    text = recipe_text(recipe, path.parent)
    try:
        place = follow(path.parent) / path.name
        with place.open("x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
            except BaseException:
                place.unlink()  # a part of a recipe would be in the way of the next try
                raise
    except FileExistsError as error:
        raise WorkspaceError(
            f"{path} is there already, and was not changed", hint="give another name, or remove it first"
        ) from error
    except OSError as error:
        raise WorkspaceError(f"{path} cannot be written: {error.strerror}") from error
    call.options["names"] = (settings["template"],)
    plan_image(call)


def print_schema(call: Call) -> None:
    """Print the JSON Schema of recipes, for editors."""
    from imgbuilder.recipe.schema import recipe_schema

    call.no_name()
    show(json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n")


def check_recipes(call: Call) -> None:
    """Read recipes with all that they include, and check their operations."""
    from imgbuilder.recipe.reader import read_recipe
    from imgbuilder.recipe.variables import parse_settings

    if not call.names:
        raise UsageError("recipe check needs at least one FILE", hint="pybuilder recipe check web.toml")
    values = parse_settings([text for _name, text in given_options(call.ctx, "set")])
    for name in call.names:
        operations = read_recipe(Path(name), values).make_operations()
        show(f"{name}: good, with {counted(len(operations), 'operation')}\n")


def _settings(ctx: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    settings = dict(given_recipe(ctx).settings)
    for name, option in _VALUES.items():
        if _is_given(ctx, option):
            settings[name] = options[option]
    if options["names"]:
        settings["template"] = options["names"][0]
    if _is_given(ctx, "sources"):
        settings["source"] = _sources(options["sources"], options["fingerprints"])
    if ctx.meta[ATTACHED]:
        settings["attach"] = [
            {"file": path} if kind == "auto" else {"file": path, "format": kind}
            for path, kind in ctx.meta[ATTACHED]
        ]
    return settings


def _sources(urls: tuple[str, ...], fingerprints: tuple[str, ...]) -> list[dict[str, str]]:
    pins = fingerprints * len(urls) if len(fingerprints) == 1 else fingerprints
    if len(pins) != len(urls):
        raise UsageError(
            "a recipe names each --source with the key that must have signed it", hint="give --fingerprint"
        )
    for url in urls:
        if Address(url).has_secret:
            raise UsageError(
                f"--source {Address(url)}: a password must not stand in a recipe",
                hint="configure the source, and leave --source out",
            )
    return [{"url": url, "fingerprint": pin} for url, pin in zip(urls, pins, strict=True)]


def _is_given(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option) is ParameterSource.COMMANDLINE
