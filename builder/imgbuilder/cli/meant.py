"""The probable meaning of a mistyped command line, found without asking any server."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from imgbuilder.cli.customizing import given_options
from imgbuilder.cli.requests import Call
from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.events import ignore
from imgbuilder.fetch.urls import local_path
from imgbuilder.services import Services, Settings

_WITH_PACKAGES = ("install", "uninstall", "firstboot-install")
_IMAGE_SUFFIXES = {".img", *(f".{kind.value}" for kind in OutputFormat)}


def known_templates(settings: Settings, make_services: Callable[..., Services] = Services) -> dict[str, str]:
    """Return names and aliases of the templates that are known without a server, with their full names."""
    try:
        entries = make_services(replace(settings, offline=True)).catalog(ignore).entries
    except PybuilderError:
        return {}
    return {
        name: entry.name or ""
        for entry in entries
        if not entry.hidden
        for name in (entry.os_version, *entry.aliases)
    }


def verb_meant(call: Call) -> str | None:
    """Return advice when the first word of a build is close to a verb."""
    program = call.ctx.find_root().command
    if call.ctx.parent is not None or not isinstance(program, click.Group) or not call.names:
        return None  # a verb was given
    word, *rest = call.names
    near = difflib.get_close_matches(word, program.commands, n=1, cutoff=0.7)
    return f"did you mean the verb {near[0]}? {shlex.join(['pybuilder', near[0], *rest])}" if near else None


def refuse_mistyped(call: Call, name: str, verb: str | None = None) -> None:
    """Refuse a name that was meant as a verb, as an image, or as another template, before a server is asked.

    A template that is new there is not known yet. So only a name with the same letters and digits as a known
    one is taken for that, and ``pybuilder list`` asks for new ones; and the verb ``build`` takes any name.
    """
    is_image = Path(name).suffix in _IMAGE_SUFFIXES and Path(name).is_file()
    if verb is None and not is_image and not _asks_servers(call.settings):
        return  # the sources answer as quickly
    if _is_section(name, call):
        return
    known = known_templates(call.settings, call.ctx.obj.make_services)
    if name in known:
        return
    if is_image:
        raise UsageError(
            f"{name} is a file, not a template", hint=f"to change this image: pybuilder-customize -a {name}"
        )
    if verb is not None:
        raise UsageError(
            f"pybuilder has no verb {name!r}, and no template of that name is known",
            hint=f"{verb}; to build it all the same: {shlex.join(['pybuilder', 'build', *call.names])}",
        )
    near = [word for word in known if _key(word) == _key(name)]
    if near:
        raise UsageError(
            f"no source had a template {name!r} when it was asked last",
            hint=f"did you mean {near[0]}? To ask the sources again: pybuilder list",
        )


def comma_meant(call: Call) -> str | None:
    """Return advice when several names are given after an option that takes packages."""
    given = given_options(call.ctx, *_WITH_PACKAGES)
    if len(call.names) < 2 or not given:
        return None
    known = known_templates(call.settings, call.ctx.obj.make_services)
    packages = [name for name in call.names if name not in known]
    if len(packages) == len(call.names):
        packages = packages[1:]
    option, value = given[-1]
    return f"packages are separated by commas: --{option} {','.join([value, *packages])}"


def _asks_servers(settings: Settings) -> bool:
    sources = settings.configured_sources(ignore)
    return not settings.offline and any(local_path(uri) is None for item in sources for uri in item.addresses)


def _is_section(name: str, call: Call) -> bool:
    """Tell whether an index that was accepted last names the template; to verify and read it takes longer."""
    states, section = call.ctx.obj.make_services(call.settings).states(), f"\n[{name}]\n".encode()
    sources = call.settings.configured_sources(ignore)
    return any(section in (states.last_index(source.addresses) or b"") for source in sources)


def _key(name: str) -> tuple[str, str]:
    """Return what a mistyped name has in common with the right one: its digits in order, and its letters."""
    folded = name.casefold()
    return "".join(filter(str.isdigit, folded)), "".join(sorted(filter(str.isalpha, folded)))
