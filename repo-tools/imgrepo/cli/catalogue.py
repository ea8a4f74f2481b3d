"""``pybuilder-repo catalogue``: a web site that shows the library."""

from __future__ import annotations

import itertools
from pathlib import Path

import click

from imgbuilder.errors import UsageError
from imgbuilder.events import info
from imgbuilder.fetch.urls import Address
from imgbuilder.sizes import counted
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.catalogue.make import make_catalogue
from imgrepo.catalogue.model import CatalogueRequest
from imgrepo.catalogue.text import link
from imgrepo.cli.options import quiet_option, reviewers_option, webroot_argument
from imgrepo.services import Services
from imgrepo.stats.count import Statistics, count_downloads, files_of
from imgrepo.stats.logs import read_log
from imgrepo.webroot.signing import read_served

_PROGRAM = "pybuilder-repo"


@click.command(
    "catalogue",
    short_help="Make web pages that show the library.",
    help="Make a static web site of what is published in WEBROOT: a list with search, a page for each "
    "template, a feed, and with --calendar a calendar of dated entries.\n\n"
    "LIBRARY is the folder that publish was given; what its entries say is shown, too, but nothing that the "
    "signed index does not name. Nothing is loaded from other hosts, and all can be read without JavaScript.",
)
@click.argument("library", type=click.Path(path_type=Path))
@webroot_argument
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the site goes; a former one there is replaced [default: WEBROOT/catalogue].",
)
@click.option("--title", default="Disk images", show_default=True, metavar="TITLE", help="Title of the site.")
@click.option(
    "--base-url",
    default="",
    metavar="URL",
    help="Address under which WEBROOT is served, for the commands to copy and for the feed.",
)
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="ACCESS.LOG",
    help="Show how often templates were downloaded, by this access log; may be given more than once.",
)
@click.option("--calendar", is_flag=True, help="Make a calendar of the entries with a not-before day.")
@reviewers_option
@quiet_option
@click.pass_obj
def catalogue_command(
    services: Services,
    *,
    library: Path,
    webroot: Path,
    output: Path | None,
    title: str,
    base_url: str,
    logs: tuple[Path, ...],
    calendar: bool,
    reviewers: Path | None,
    quiet: bool,
) -> None:
    """Read the options and make it."""
    address = link(f"{base_url.rstrip('/')}/") if base_url else ""
    if address is None or "?" in address or "#" in address:
        raise UsageError(
            f"--base-url {Address(base_url)}: give an address that begins with http:// or https://"
        )
    if Address(address).has_secret:
        raise UsageError("--base-url: everybody could read the password in the pages", hint="leave it out")
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet)
    target = output if output is not None else webroot / "catalogue"
    request = CatalogueRequest(library, webroot, target, title, address, calendar, reviewers)
    try:
        result = make_catalogue(request, services, reporter, _count(webroot, logs, services))
        done = "written" if result.changed else "nothing changed"
        info(reporter, f"{target}: {counted(result.templates, 'template')}, {done}")
    finally:
        reporter.close()


def _count(webroot: Path, logs: tuple[Path, ...], services: Services) -> Statistics | None:
    if not logs:
        return None
    published, _signed = read_served(webroot, services)
    found = count_downloads(
        itertools.chain.from_iterable(read_log(path) for path in logs), files_of(published.index)
    )
    if found.lines and found.skipped == found.lines:
        raise UsageError(
            "no line of the logs was understood",
            hint="known are the formats common and combined of nginx and Apache",
        )
    return found
