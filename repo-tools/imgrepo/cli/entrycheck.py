"""``pybuilder-repo entry check``: what is missing or wrong with entries, point by point."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import PybuilderError, RepositoryError, UsageError
from imgbuilder.events import info
from imgbuilder.host.text import printable
from imgbuilder.sizes import counted
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.cli.options import appliance_options, json_option, library_option, quiet_option, verbose_option
from imgrepo.library.description import DESCRIPTION_NAME
from imgrepo.library.folder import chosen_entries
from imgrepo.review.check import Checked, check_entry
from imgrepo.review.results import CheckResult, Status
from imgrepo.services import Services

_PROGRAM = "pybuilder-repo"


@click.command(
    "check",
    short_help="Say what is missing or wrong with entries.",
    help="Check the entries NAME, or all of the library, point by point: texts, licence, packed size, "
    "screenshot, packages and their sources, what is left of a machine's identity and of secrets in it, and "
    "whether the script run starts it from another folder and only reads it.\n\n"
    "The exit code is 1 when something is missing or wrong. What could not be found out here is unknown.",
)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@library_option
@click.option(
    "--quick",
    is_flag=True,
    help="Do not look into images, pack them or start QEMU: what is known of this very image counts.",
)
@json_option
@appliance_options
@quiet_option
@verbose_option
@click.pass_context
def check_command(
    ctx: click.Context,
    *,
    names: tuple[str, ...],
    library: Path,
    quick: bool,
    as_json: bool,
    memsize: int | None,
    no_instant: bool,
    cache: Path | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Read the options and check."""
    services: Services = ctx.obj
    chosen = chosen_entries(library, names)
    options = ApplianceOptions(memsize=memsize, verbose=verbose, instant=not no_instant, cache=cache)
    # Standard output is for the points.
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet or as_json, verbose=verbose, out=sys.stderr)
    results: list[Checked] = []
    try:
        for name, folder in chosen.items():
            try:
                if isinstance(folder, RepositoryError):
                    raise folder
                checked = check_entry(folder, services, options, reporter, quick=quick)
            except PybuilderError as error:  # one of many must not stop all (T24)
                checked = Checked(name, (CheckResult("entry", Status.WRONG, error.message, error.hint),))
            results.append(checked)
            if not as_json:
                click.echo("\n".join(printable(line) for line in _as_lines(checked)))
    finally:
        reporter.close()
    if as_json:
        click.echo(json.dumps({"version": 1, "entries": [_as_data(one) for one in results]}, indent=2))
    elif not results and (library / DESCRIPTION_NAME).exists():
        given = library.absolute()
        raise UsageError(
            f"{library} is an entry, and no folder of entries",
            hint=f"give its name, and the folder that it is in: {given.name} --library {given.parent}",
        )
    elif not results:
        info(reporter, f"there are no entries in {library}; one is made by: pybuilder-repo entry new NAME")
    if any(one.fails for one in results):
        ctx.exit(1)


def _as_lines(checked: Checked) -> list[str]:
    bad = sum(item.fails for item in checked.results)
    unknown = sum(item.status is Status.UNKNOWN for item in checked.results)
    words = [f"{counted(bad, 'point')} missing or wrong"] if bad else []
    words += [f"{unknown} not known"] if unknown else []
    lines = [f"{checked.name}: {', '.join(words) or 'checked'}"]
    width = max(len(item.key) for item in checked.results)
    for item in checked.results:
        lines.append(f"  {item.status.value:<7}  {item.key:<{width}}  {_one_line(item.detail)}")
        lines += [f"{'':{width + 13}}note: {_one_line(note)}" for note in item.notes]
        if item.hint and item.status is not Status.OK:
            lines.append(f"{'':{width + 13}}{_one_line(item.hint)}")
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _as_data(checked: Checked) -> dict[str, Any]:
    return {
        "name": checked.name,
        "checked": checked.checked,
        "items": [
            {
                "key": item.key,
                "state": item.status.value,
                "detail": item.detail,
                "hint": item.hint,
                "notes": list(item.notes),
            }
            for item in checked.results
        ],
    }
