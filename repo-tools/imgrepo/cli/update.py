"""``update``, the whole week's work on a library in one command, and ``outdated``: what is due."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from imgbuilder.appliance import ApplianceOptions
from imgrepo.cli import options, places
from imgrepo.cli.options import PATH, NumberType
from imgrepo.cli.publisher import Publisher, examples, pass_publisher
from imgrepo.cli.share import endpoint_option, limit_rate_option, target_opener
from imgrepo.publishing.settings import UpdateStep, read_settings
from imgrepo.services import Signing
from imgrepo.updating.outdated import OutdatedRequest, find_outdated
from imgrepo.updating.report import Outcome, TemplateReport, UpdateReport
from imgrepo.updating.update import UpdateRequest, update

_STEPS = tuple(step.value for step in UpdateStep if step is not UpdateStep.CATALOGUE)


def _request(
    *,
    library: Path,
    signing: Signing,
    appliance: ApplianceOptions,
    dry_run: bool,
    wait: int,
) -> UpdateRequest:
    settings = read_settings(library)
    assert settings is not None  # the argument refuses a folder without settings
    return UpdateRequest(library, settings, signing, appliance, dry_run, float(wait))


_request_options = options.option_group(
    "request",
    _request,
    places.library_argument("library", settled=True),
    options.signing_options,
    click.option("--dry-run", is_flag=True, help="Only show what there is to do; servers are asked."),
    click.option(
        "--wait",
        type=NumberType(0, 7 * 86400),
        default=0,
        metavar="SECONDS",
        help="Wait so long for another update, publisher or upload [default: fail at once].",
    ),
    options.appliance_options,
)


@click.command(
    "update",
    short_help="Bring a whole library up to date.",
    help="Bring the library in LIBRARY up to date, by its library.toml: make, import or build the images "
    "that are due; boot-check them, list their packages, collect their sources; publish; make the web pages; "
    "upload; and check what the public address serves. What is as it should be is skipped. An error of one "
    "template does not stop the others, and a run that was killed is continued by the next one.\n\n"
    "The exit code is 0 when something was done, 4 when there was nothing to do, 5 when a part of it failed, "
    "and 1 when all of it did.",
    epilog=examples("pybuilder-repo update library --dry-run", "pybuilder-repo update library --wait 3600"),
)
@_request_options
@endpoint_option
@limit_rate_option
@options.json_option
@options.quiet_option()
@options.verbose_option()
@pass_publisher
def update_command(
    publisher: Publisher, *, request: UpdateRequest, endpoint_url: str | None, rate: int | None
) -> int:
    """Bring the library up to date; return the exit code of the outcome."""
    report = update(request, publisher.services, target_opener(endpoint_url, rate), publisher.reporter)
    publisher.emit(_data(report, request), _lines(report, dry_run=request.dry_run))
    for one in report.templates:
        if one.problem:
            publisher.reporter.error(f"{one.name}: {one.problem}", None)
    for problem in report.problems:
        publisher.reporter.error(problem, None)
    return report.outcome.exit_code


def _lines(report: UpdateReport, *, dry_run: bool) -> Iterator[str]:
    rows = [("template", "image", *_STEPS, "index")]
    rows += [_row(one) for one in report.templates]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield from report.changes
    is_due = dry_run and report.outcome is Outcome.DONE
    yield "this is to do" if is_due else report.outcome.value


def _row(one: TemplateReport) -> tuple[str, ...]:
    image = f"new: {one.renewed}" if one.renewed else "as before"
    steps = (one.steps.get(step, "-") for step in _STEPS)
    index = "failed" if one.problem else "new" if one.published else "as before"
    return (one.name, image, *steps, index)


def _data(report: UpdateReport, request: UpdateRequest) -> dict[str, Any]:
    return {
        "version": 1,
        "dry-run": request.dry_run,
        "outcome": report.outcome.name.lower(),
        "templates": [
            {
                "name": one.name,
                "renewed": one.renewed or None,
                "steps": one.steps,
                "published": one.published,
                "problem": one.problem or None,
            }
            for one in report.templates
        ],
        "signed": report.signed,
        "changes": report.changes,
        "problems": report.problems,
    }


@click.command(
    "outdated",
    short_help="Show what should be renewed before long.",
    help="Show which templates have an origin in library.toml that offers something newer, or an image that "
    "is old, and which deprecations, signatures and keys end soon. LIBRARY is a folder with a library.toml, "
    "or a served folder, which has no origins. Nothing is changed.\n\n"
    "The exit code is 1 when there is something to do.",
    epilog=examples("pybuilder-repo outdated library --days 60"),
)
@click.argument("library", type=PATH)
@options.days_option("--days", "Count templates whose image is so many days old.", default=30)
@options.days_option("--within", "Count what ends within so many days.", default=14)
@endpoint_option
@options.json_option
@options.quiet_option()
@pass_publisher
def outdated_command(
    publisher: Publisher, *, library: Path, days: int, within: int, endpoint_url: str | None
) -> int:
    """Show what is outdated; return 1 when something is."""
    request = OutdatedRequest(library, read_settings(library), days, timedelta(days=within))
    found = find_outdated(request, publisher.services, target_opener(endpoint_url), publisher.reporter)
    publisher.emit(
        {"version": 1, "outdated": [{"name": one.name or None, "reason": one.reason} for one in found]},
        [f"{one.name}: {one.reason}" if one.name else one.reason for one in found] or ["nothing is outdated"],
    )
    return 1 if found else 0
