"""``pybuilder-repo sources``: the source packages of what images hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.events import Reporter, info, warn
from imgbuilder.host.text import printable
from imgbuilder.sizes import human_size
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.cli.options import appliance_options, quiet_option, verbose_option
from imgrepo.contents.sbom import find_targets
from imgrepo.services import Services
from imgrepo.sourcepackages.collect import Collected, SourcesRequest, collect
from imgrepo.sourcepackages.finding import MAINTAINER_KEYRING, Places
from imgrepo.template.recipes import DEBIAN_MIRROR, DEBIAN_SECURITY_MIRROR, GUEST_KEYRING

_PROGRAM = "pybuilder-repo"


@click.command(
    "sources",
    short_help="Collect the sources of images.",
    help="Collect the source packages of all packages in an image whose licence asks for sources, or is not "
    "known: exactly the versions in it, checked from the archive's signature down to each file, into one "
    "tar file with a text that offers them.\n\n"
    "ENTRY is the folder of an entry, whose folder sources/ gets them; those of an IMAGE go into the folder "
    "NAME.sources beside it. The exit code is 1 when some are missing; they are named.",
)
@click.argument("targets", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="ENTRY|IMAGE...")
@click.option("--mirror", default=DEBIAN_MIRROR, show_default=True, metavar="URL", help="The archive.")
@click.option(
    "--security-mirror",
    default=DEBIAN_SECURITY_MIRROR,
    show_default=True,
    metavar="URL",
    help="Its security updates.",
)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="SUITE",
    help="Look into this suite of --mirror alone; several times for several [default: those of the guest's "
    "Debian].",
)
@click.option(
    "--component",
    "components",
    multiple=True,
    default=("main",),
    show_default=True,
    metavar="NAME",
    help="Component of each suite.",
)
@click.option(
    "--keyring",
    type=click.Path(path_type=Path),
    default=GUEST_KEYRING,
    show_default=True,
    metavar="FILE",
    help="Public keys that may sign the archive.",
)
@click.option(
    "--snapshot",
    "snapshots",
    multiple=True,
    metavar="URL",
    help="The archive as it was once, for versions that it no longer has: its signed lists, and its pool.",
)
@click.option(
    "--maintainer-keyring",
    type=click.Path(path_type=Path),
    default=MAINTAINER_KEYRING,
    show_default=True,
    metavar="FILE",
    help="Public keys that may sign a source package in a snapshot's pool, where no list has it.",
)
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only the sources of this package, to try; repeatable."
)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR", help="Use DIR/NAME/sources instead."
)
@click.option("--dry-run", is_flag=True, help="Only say how many there are, and how many bytes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@appliance_options
@quiet_option
@verbose_option
@click.pass_context
def sources_command(
    ctx: click.Context,
    *,
    targets: tuple[Path, ...],
    mirror: str,
    security_mirror: str,
    suites: tuple[str, ...],
    components: tuple[str, ...],
    keyring: Path,
    snapshots: tuple[str, ...],
    maintainer_keyring: Path,
    only: tuple[str, ...],
    output: Path | None,
    dry_run: bool,
    as_json: bool,
    memsize: int | None,
    no_instant: bool,
    cache: Path | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Read the options and collect; exit code 1 when sources are missing."""
    services: Services = ctx.obj
    found = find_targets(targets, output)
    places = Places(mirror, security_mirror, suites, components, snapshots, keyring, maintainer_keyring)
    request = SourcesRequest(places, only, dry_run)
    options = ApplianceOptions(memsize=memsize, verbose=verbose, instant=not no_instant, cache=cache)
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet or as_json, verbose=verbose)
    rows: list[Collected] = []
    try:
        for target in found:
            rows.append(collect(target, request, services, options, reporter))
            if not as_json:
                _tell(rows[-1], reporter, dry_run=dry_run)
    finally:
        reporter.close()
    if as_json:
        click.echo(json.dumps({"version": 1, "images": [_as_data(row) for row in rows]}, indent=2))
    if any(row.gaps for row in rows):
        ctx.exit(1)


def _tell(row: Collected, reporter: Reporter, *, dry_run: bool) -> None:
    for gap in row.gaps:
        warn(reporter, printable(f"missing: {gap.source} {gap.version}: {gap.reason}"))
    count = row.wanted - len(row.gaps)
    if dry_run:
        files = sum(len(package.files) for package in row.packages)
        info(
            reporter,
            printable(
                f"{row.target.name}: {count} of {row.wanted} source packages would be collected, {files} "
                f"files of {human_size(row.size)}, of which {human_size(row.to_fetch)} would be fetched"
            ),
        )
    elif row.record is not None and row.record.archive:
        path = row.target.sources / row.record.archive
        info(
            reporter,
            printable(f"{path}: {count} of {row.wanted} source packages, {human_size(row.record.size)}"),
        )
        if not row.target.offer:
            warn(reporter, "nobody is named whom people ask for more: write source-offer= into entry.toml")
    else:
        info(reporter, printable(f"{row.target.name}: no source package was collected"))


def _as_data(row: Collected) -> dict[str, Any]:
    record = row.record
    return {
        "name": row.target.name,
        "folder": str(row.target.sources),
        "wanted": row.wanted,
        "files": sum(len(package.files) for package in row.packages),
        "bytes": row.size,
        "bytes-to-fetch": row.to_fetch,
        "gaps": [{"source": gap.source, "version": gap.version, "reason": gap.reason} for gap in row.gaps],
        "archive": None if record is None or not record.archive else record.archive,
        "sha512": None if record is None or not record.archive else record.sha512,
        "size": None if record is None or not record.archive else record.size,
    }
