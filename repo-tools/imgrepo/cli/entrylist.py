"""``pybuilder-repo entry list``: the entries of a library, and how far each has come."""

from __future__ import annotations

import json
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import click

from imgbuilder.events import info
from imgbuilder.host.text import printable
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.cli.options import json_option, library_option, require_option, reviewers_option
from imgrepo.review.listing import ListRequest, Row, list_entries
from imgrepo.review.results import Requirement
from imgrepo.services import Services

_PROGRAM = "pybuilder-repo"
_BROKEN = "broken"


@click.command(
    "list",
    short_help="List entries, and how far each has come.",
    help="List the entries of the library, or those that are named: state, day and title.\n\n"
    "The states are draft, checked, booted, signed (what an entry is proven to be), scheduled (checked, with "
    "all that is required, and waiting for its day), live (the signed index has this very image) and "
    "withdrawn. They are found out each time. The exit code is 1 when an entry is broken.",
)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@library_option
@click.option(
    "--webroot",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder that publish writes; without it, nothing is known to be live or withdrawn.",
)
@require_option("What publish is told to require")
@reviewers_option
@click.option("-l", "--long", is_flag=True, help="Tell what lacks, and what brings each entry further.")
@json_option
@click.pass_context
def list_command(
    ctx: click.Context,
    *,
    names: tuple[str, ...],
    library: Path,
    webroot: Path | None,
    required: tuple[str, ...],
    reviewers: Path | None,
    long: bool,
    as_json: bool,
) -> None:
    """Read the options and list."""
    services: Services = ctx.obj
    reporter = ConsoleReporter(_PROGRAM, quiet=as_json)
    request = ListRequest(
        library, names, webroot, frozenset(Requirement(word) for word in required), reviewers
    )
    try:
        rows = list_entries(request, services, reporter)
    finally:
        reporter.close()
    if as_json:
        click.echo(json.dumps({"version": 1, "entries": [_as_data(row) for row in rows]}, indent=2))
    elif rows:
        click.echo("\n".join(printable(line) for line in _as_lines(rows, long=long)))
    else:
        info(reporter, f"there are no entries in {library}; one is made by: pybuilder-repo entry new NAME")
    if any(row.problem for row in rows):
        ctx.exit(1)


def _state(row: Row) -> str:
    return _BROKEN if row.judgement is None else row.judgement.state.value


def _as_lines(rows: tuple[Row, ...], *, long: bool) -> list[str]:
    table = [(row.name, _state(row), _day(row.not_before), _title(row)) for row in rows]
    widths = [max(len(cells[column]) for cells in table) for column in range(3)]
    lines = []
    for row, cells in zip(rows, table, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
        lines.append("  ".join([*padded, cells[3]]).rstrip())
        if long and row.judgement is not None:
            lines += [f"    {remark}" for remark in row.judgement.remarks]
        if long and row.hint:
            lines.append(f"    next: {row.hint}")
    return lines


def _title(row: Row) -> str:
    return " ".join((row.problem or row.title).split())


def _day(moment: datetime | None) -> str:
    if moment is None:
        return "-"
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%d}" if moment.time() == time() else f"{moment:%Y-%m-%d %H:%M}"


def _as_data(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "state": _state(row),
        "title": row.title,
        "not_before": None if row.not_before is None else row.not_before.astimezone(UTC).isoformat(),
        "remarks": [] if row.judgement is None else list(row.judgement.remarks),
        "next": row.hint,
        "problem": row.problem,
    }
