"""Recipes on the command line: ``--recipe`` says what no option says, ``--write-recipe`` writes all down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from imgbuilder.cli.customizing import ATTACHED, given_recipe, has_recipe, written_operations
from imgbuilder.cli.list_mode import show
from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.host.workspace import follow

_VALUES = {
    "arch": "arch_", "output": "output", "format": "format_", "compress": "compress", "size": "size",
    "memsize": "memsize", "smp": "smp", "network": "network", "keys": "keys",
}  # fmt: skip
"""Settings of recipes that are options of the same meaning, and the names of the options' values."""


def with_recipe(ctx: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options' values, with the settings of ``--recipe`` where the command line says nothing.

    Args:
        ctx: The parsed command line; the disks to attach are put there.
        options: The options' values.

    Raises:
        UsageError: The recipe is wrong.
    """
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


def check_template(ctx: click.Context, options: dict[str, Any]) -> None:
    """Refuse a build from a recipe without a template, in the recipe's words.

    Raises:
        UsageError: Neither the recipe nor the command line names one.
    """
    if has_recipe(ctx) and not options["names"]:
        raise UsageError(
            "the recipe names no template",
            hint='begin it with template = "debian-12", or name one as OS-VERSION',
        )


def write_recipe(ctx: click.Context, options: dict[str, Any]) -> bool:
    """Write the command line down as the recipe that ``--write-recipe`` names.

    Args:
        ctx: The parsed command line.
        options: The options' values, those of a recipe among them.

    Returns:
        Whether it went to the standard output.

    Raises:
        UsageError: Nothing but a dry run may write one; or something cannot stand in a recipe.
        WorkspaceError: The file is there already, or cannot be written.
    """
    from imgbuilder.recipe.recipe import Recipe
    from imgbuilder.recipe.writer import recipe_text

    name = options["write_recipe"]
    if not options["dry_run"]:
        raise UsageError("--write-recipe needs --dry-run", hint="build from it afterwards: --recipe FILE")
    recipe = Recipe(_settings(ctx, options), written_operations(ctx))
    recipe.make_operations()  # what is wrong should not be written down
    if name == "-":
        show(recipe_text(recipe, None))
        return True
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
    return False


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
    return [{"url": url, "fingerprint": pin} for url, pin in zip(urls, pins, strict=True)]


def _is_given(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option) is ParameterSource.COMMANDLINE
