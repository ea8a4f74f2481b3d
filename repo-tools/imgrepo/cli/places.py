"""The arguments that name a library or a served folder, and what its ``library.toml`` says about options."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from imgbuilder.errors import UsageError
from imgrepo.cli.options import PATH
from imgrepo.publishing.settings import SETTINGS_NAME, LibrarySettings, read_settings


def _take_defaults(ctx: click.Context, folder: Path) -> LibrarySettings | None:
    """Take the defaults of the options from the ``library.toml`` of a folder, if there is one."""
    settings = None if ctx.resilient_parsing else read_settings(folder)
    if settings is not None:
        ctx.default_map = _defaults(settings, folder)
    return settings


def _defaults(settings: LibrarySettings, folder: Path) -> dict[str, Any]:
    """Return the values of options by their parameters' names."""
    webroot = str(folder / settings.webroot)
    values = {
        "webroot": webroot,
        "output": webroot,
        "images": str(folder),
        "keys": settings.keys,
        "expire": settings.expire,
        "targets": settings.targets,
        "target": settings.targets[0] if len(settings.targets) == 1 else None,
        "endpoint_url": settings.endpoint_url,
        "title": settings.title,
        "base_url": settings.base_url,
        "calendar": settings.calendar,
        "reviewers": None if settings.reviewers is None else str(folder / settings.reviewers),
        "required": tuple(one.value for one in settings.require),
        "zstd": settings.zstd,
        "zstd_level": settings.zstd_level,
        "preset": settings.xz_preset,
        "prune": settings.prune,
        "grace": settings.grace,
    }
    return {name: value for name, value in values.items() if value is not None}


def _library(ctx: click.Context, _param: click.Parameter, folder: Path) -> Path:
    _take_defaults(ctx, folder)
    return folder


def _settled_library(ctx: click.Context, _param: click.Parameter, folder: Path) -> Path:
    if _take_defaults(ctx, folder) is None and not ctx.resilient_parsing:
        raise UsageError(
            f"{folder} has no {SETTINGS_NAME}, which says what to bring up to date",
            hint=f"write one; a new library is set up by: pybuilder-repo init {shlex.quote(str(folder))}",
        )
    return folder


def _webroot(ctx: click.Context, _param: click.Parameter, folder: Path) -> Path:
    settings = _take_defaults(ctx, folder)
    return folder if settings is None else folder / settings.webroot


# All are eager: what a library.toml says is a default of the parameters that come later.
webroot_argument = click.argument("webroot", type=PATH, is_eager=True, callback=_webroot)


def _served(ctx: click.Context, param: click.Parameter, place: str) -> Path | str:
    return place if "://" in place else _webroot(ctx, param, Path(place))


served_argument = click.argument("place", metavar="WEBROOT|URL", is_eager=True, callback=_served)
"""A served folder, or the address where users find it."""


def library_argument(
    name: str, *, settled: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the argument that names the folder of a library; ``settled`` refuses one without settings."""
    callback = _settled_library if settled else _library
    return click.argument(name, type=PATH, is_eager=True, callback=callback)


def library_option(*, settings: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that names the folder of the entries; with ``settings``, its file gives defaults."""
    return click.option(
        "--library",
        type=PATH,
        is_eager=True,
        callback=_library if settings else None,
        default=".",
        metavar="DIR",
        help="The folder of the entries [default: the current one].",
    )
