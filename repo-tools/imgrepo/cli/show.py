"""``status``, ``validate`` and ``catalogue``: commands that show what is published."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from imgbuilder.errors import UsageError
from imgbuilder.events import info
from imgbuilder.fetch.urls import Address
from imgbuilder.sizes import counted, human_size
from imgrepo.catalogue.make import make_catalogue
from imgrepo.catalogue.model import CatalogueRequest
from imgrepo.cli import options, places
from imgrepo.cli.options import PATH
from imgrepo.cli.publisher import Publisher, examples, iso, pass_publisher
from imgrepo.cli.share import endpoint_option, target_opener
from imgrepo.cli.stats import count
from imgrepo.publishing.public import public_status, targets_behind
from imgrepo.publishing.status import FolderStatus, metrics, status_of
from imgrepo.recordfile import write_text
from imgrepo.webroot.validate import Compatibility, ValidateRequest, validate


@click.command(
    "status",
    short_help="Report what needs attention.",
    help="Check WEBROOT: signature, keys, missing files, pages and upload targets that are behind, changed "
    "images. With the URL under which users find it, check what they get now, by one small request for each "
    "file.\n\n"
    "The exit code is 1 when something needs attention.",
    epilog=examples(
        "pybuilder-repo status web --images images --metrics images.prom",
        "pybuilder-repo status https://images.example.org/ --key example.gpg",
    ),
)
@places.served_argument
@click.option(
    "--images",
    type=PATH,
    metavar="DIRECTORY",
    help="The folder of images, to show what changed there since it was published.",
)
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="TARGET",
    help="Also check that this upload target has the same index; see upload.",
)
@endpoint_option
@click.option(
    "--key",
    "key_file",
    type=PATH,
    metavar="FILE",
    help="With a URL: the public key that users have [default: index.gpg next to the index].",
)
@options.days_option(
    "--within", "Warn about a signature or key that expires within so many days.", default=14
)
@click.option("--verify", is_flag=True, help="Read all files, and compare their digests.")
@click.option(
    "--metrics", "metrics_file", type=PATH, metavar="FILE", help="Also write the state there, for Prometheus."
)
@options.json_option
@pass_publisher
def status_command(
    publisher: Publisher,
    *,
    place: Path | str,
    images: Path | None,
    targets: tuple[str, ...],
    endpoint_url: str | None,
    key_file: Path | None,
    within: int,
    verify: bool,
    metrics_file: Path | None,
) -> int:
    """Report the state of the folder; return 1 when something needs attention."""
    services, reporter, period = publisher.services, publisher.reporter, timedelta(days=within)
    status = None
    try:
        if isinstance(place, str):
            if images is not None or verify or targets:
                raise UsageError("--images, --verify and --to are for a folder, not for a URL")
            status = public_status(place, key_file, services, reporter, within=period)
        else:
            if key_file is not None:
                raise UsageError("--key is for a URL, not for a folder")
            status = status_of(place, services, reporter, images=images, within=period, verify=verify)
            behind = tuple(targets_behind(place, targets, target_opener(endpoint_url)))
            status = replace(status, problems=(*status.problems, *behind))
    finally:  # monitoring must see a failure as well
        if metrics_file is not None:
            where = str(Address(place) if isinstance(place, str) else place.absolute())
            write_text(metrics_file, metrics(status, where, services.clock()))
    publisher.emit(_status_data(status), _status_lines(status))
    return 1 if status.problems else 0


def _status_lines(status: FolderStatus) -> list[str]:
    lines = [
        f"templates:   {status.templates}, {human_size(status.size)}",
        f"signed:      {_when(status.signed_at)} by {status.signer}",
        f"expires:     {_when(status.expires_at)}",
    ]
    lines += [f"key:         {key.fingerprint}, expires {_when(key.expires_at)}" for key in status.keys]
    if status.retired:
        old = human_size(sum(item.size for item in status.retired))
        lines.append(f"old files:   {len(status.retired)}, {old}")
    lines += [f"withdrawn:   {name} ({arch})" for name, arch in status.withdrawn]
    lines += [f"changed:     {change}" for change in status.changes]
    lines += [f"PROBLEM:     {problem}" for problem in status.problems]
    if not status.problems:
        empty = "the index is empty: clients find no template here"
        lines.append("all is well" if status.templates else empty)
    return lines


def _when(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _status_data(status: FolderStatus) -> dict[str, Any]:
    return {
        "version": 1,
        "checked_at": iso(status.checked_at),
        "templates": status.templates,
        "size": status.size,
        "signed_at": iso(status.signed_at),
        "signer": status.signer,
        "expires_at": iso(status.expires_at),
        "keys": [{"fingerprint": key.fingerprint, "expires_at": iso(key.expires_at)} for key in status.keys],
        "old_files": [
            {"name": item.name, "size": item.size, "since": iso(item.since)} for item in status.retired
        ],
        "withdrawn": [{"name": name, "arch": arch} for name, arch in status.withdrawn],
        "changes": list(status.changes),
        "problems": list(status.problems),
    }


@click.command(
    "validate",
    short_help="Check an index, signed or not.",
    help="Check the index FILE, signed or not: its grammar, as virt-index-validate does; with --full also "
    "its fields, its signature, and the files next to it.\n\n"
    "The exit code is 0 when it is valid and 1 when it is not.",
    epilog=examples("pybuilder-repo validate --full web/index.asc"),
)
@click.argument("file", type=PATH)
@click.option(
    "--compat-1.24.0", "compat_0", is_flag=True, help="virt-builder 1.24.0 must be able to read it as well."
)
@click.option(
    "--compat-1.24.1", "compat_1", is_flag=True, help="virt-builder 1.24.1 must be able to read it as well."
)
@click.option("--full", is_flag=True, help="Check fields, duplicates, signature, and all files.")
@click.option(
    "--gpgkey",
    "key",
    type=PATH,
    metavar="KEYFILE",
    help="Public keys that may have signed it [default: index.gpg next to it].",
)
@options.json_option
@options.quiet_option()
@options.verbose_option("Show other details.")
@pass_publisher
def validate_command(
    publisher: Publisher, *, file: Path, compat_0: bool, compat_1: bool, full: bool, key: Path | None
) -> int:
    """Check the index; return 1 when it is not valid."""
    if key is not None and not full:
        raise UsageError("--gpgkey needs --full", hint="without --full, no signature is checked")
    compatibility = Compatibility.NONE
    if compat_0 or compat_1:
        compatibility = Compatibility.VERSION_1_24_0 if compat_0 else Compatibility.VERSION_1_24_1
    reporter = publisher.reporter
    problems = validate(ValidateRequest(file, compatibility, full, key), publisher.services, reporter)
    if not publisher.as_json:
        for problem in problems:
            reporter.error(problem.message, problem.hint)
        if problems:
            reporter.error(f"{file} could not be validated: {counted(len(problems), 'problem')}", None)
    found = [{"message": problem.message, "hint": problem.hint} for problem in problems]
    publisher.emit(
        {"version": 1, "file": str(file), "problems": found},
        () if problems else [f"{file} validated OK"],
    )
    return 1 if problems else 0


@click.command(
    "catalogue",
    short_help="Make web pages that show the library.",
    help="Make a static web site of what is published in WEBROOT: a list with search, a page for each "
    "template, a feed, and with --calendar a calendar of dated entries.\n\n"
    "LIBRARY is the folder that publish was given; the pages also show what its entries contain, but only "
    "for templates that the signed index names. Nothing is loaded from other hosts, and everything can be "
    "read without JavaScript.",
    epilog=examples("pybuilder-repo catalogue images web --base-url https://images.example.org/"),
)
@places.library_argument("library")
@places.webroot_argument
@click.option(
    "--output",
    "site",
    type=PATH,
    metavar="DIR",
    help="Where the site goes; an older site there is replaced [default: WEBROOT/catalogue].",
)
@click.option("--title", default="Disk images", show_default=True, metavar="TITLE", help="Title of the site.")
@options.base_url_option
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=PATH,
    metavar="ACCESS.LOG",
    help="Show how often templates were downloaded, according to this access log; repeatable.",
)
@click.option("--calendar", is_flag=True, help="Make a calendar of the entries with a not-before day.")
@options.reviewers_option
@options.json_option
@options.quiet_option()
@pass_publisher
def catalogue_command(
    publisher: Publisher,
    *,
    library: Path,
    webroot: Path,
    site: Path | None,
    title: str,
    base_url: str,
    logs: tuple[Path, ...],
    calendar: bool,
    reviewers: Path | None,
) -> None:
    """Make the pages."""
    address = options.check_base_url(base_url)
    target = site if site is not None else webroot / "catalogue"
    request = CatalogueRequest(library, webroot, target, title, address, calendar, reviewers)
    statistics = count(webroot, logs, publisher.services) if logs else None
    result = make_catalogue(request, publisher.services, publisher.reporter, statistics)
    done = "written" if result.changed else "nothing changed"
    info(publisher.reporter, f"{target}: {counted(result.templates, 'template')}, {done}")
    publisher.emit(
        {
            "version": 1,
            "folder": str(target),
            "templates": result.templates,
            "changed": result.changed,
        }
    )
