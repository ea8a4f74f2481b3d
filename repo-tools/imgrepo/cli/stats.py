"""``stats``: counts downloads, as text, JSON and charts."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click

from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.events import warn
from imgbuilder.sizes import human_size
from imgrepo.cli import options, places
from imgrepo.cli.options import PATH
from imgrepo.cli.publisher import Publisher, examples, pass_publisher
from imgrepo.recordfile import write_text
from imgrepo.services import Services
from imgrepo.stats import Statistics, bar_chart, count_downloads, files_of, read_log
from imgrepo.webroot.signing import read_served


def count(webroot: Path, logs: Sequence[Path], services: Services) -> Statistics:
    """Count the downloads of a served folder in access logs."""
    published, _signed = read_served(webroot, services)
    lines = itertools.chain.from_iterable(read_log(path) for path in logs)
    found = count_downloads(lines, files_of(published.index))
    if found.lines and found.skipped == found.lines:
        raise UsageError(
            "no line of the logs was understood",
            hint="give logs in the common or combined format of nginx and Apache",
        )
    return found


@click.command(
    "stats",
    short_help="Count downloads in the web server's logs.",
    help="Count the downloads of the templates in WEBROOT, from access logs of nginx or Apache (common or "
    "combined format, plain or gzip; - is standard input).\n\n"
    "A download in ranges, or one that was resumed, counts once. Addresses of clients are only counted. "
    "Days are in UTC.",
    epilog=examples("pybuilder-repo stats web /var/log/nginx/access.log* --by-day"),
)
@places.webroot_argument
@click.argument("logs", nargs=-1, required=True, type=PATH, metavar="ACCESS.LOG...")
@click.option("--by-day", is_flag=True, help="Show a line for each day.")
@options.json_option
@click.option(
    "--svg",
    type=PATH,
    metavar="DIRECTORY",
    help="Write bar charts by day there: all.svg, and one for each template.",
)
@pass_publisher
def stats_command(
    publisher: Publisher, *, webroot: Path, logs: tuple[Path, ...], by_day: bool, svg: Path | None
) -> None:
    """Count downloads."""
    found = count(webroot, logs, publisher.services)
    if found.skipped:
        warn(publisher.reporter, f"{found.skipped} of {found.lines} lines were not understood")
    if svg is not None:
        _draw(svg, found)
    publisher.emit(_stats_data(found), _stats_lines(found, by_day=by_day))


def _all_days(found: Statistics) -> Counter[date]:
    return sum((count.days for count in found.counts), Counter())


def _stats_lines(found: Statistics, *, by_day: bool) -> list[str]:
    if found.first is None:
        return ["no downloads"]
    rows = [("template", "downloads", "partial", "clients", "sent")]
    rows += [
        (count.name, str(count.downloads), str(count.partial), str(count.clients), human_size(count.sent))
        for count in found.counts
    ]
    partial = sum(count.partial for count in found.counts)
    rows.append(("all", str(found.downloads), str(partial), str(found.clients), human_size(found.sent)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(row[at].rjust(widths[at]) for at in range(1, 5))])
        for row in rows
    ]
    lines.append(f"from {found.first} to {found.last}")
    if by_day:
        days = _all_days(found)
        lines += ["", *(f"{day}  {days[day]:>6}" for day in sorted(days))]
    return lines


def _stats_data(found: Statistics) -> dict[str, Any]:
    return {
        "version": 1,
        "first": None if found.first is None else str(found.first),
        "last": None if found.last is None else str(found.last),
        "downloads": found.downloads,
        "sent": found.sent,
        "clients": found.clients,
        "lines": found.lines,
        "lines-not-understood": found.skipped,
        "templates": [
            {
                "name": count.name,
                "in-index": count.is_known,
                "downloads": count.downloads,
                "partial": count.partial,
                "sent": count.sent,
                "clients": count.clients,
                "days": {str(day): number for day, number in sorted(count.days.items())},
            }
            for count in found.counts
        ],
    }


def _draw(folder: Path, found: Statistics) -> None:
    if found.first is None or found.last is None:
        return
    charts = {"all": ("all templates", _all_days(found))}
    for count in found.counts:
        if count.is_known:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", count.name).strip("-.")
            charts[name] = (count.name, count.days)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (title, days) in charts.items():
            text = bar_chart(f"Downloads of {title}", days, found.first, found.last)
            write_text(folder / f"{name}.svg", text)
    except OSError as error:
        raise WorkspaceError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
