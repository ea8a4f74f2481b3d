"""``sbom`` and ``sources``: the packages that images contain, and their source packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.cli.program import VerbGroup
from imgbuilder.errors import ApplianceError, PybuilderError
from imgbuilder.events import Reporter, info, warn
from imgbuilder.host.text import printable
from imgbuilder.sizes import human_size
from imgrepo.cli import options
from imgrepo.cli.options import PATH
from imgrepo.cli.publisher import Publisher, each, examples, pass_publisher
from imgrepo.contents.diff import compare_lists, read_list
from imgrepo.contents.packages import Format, ImageTarget, find_targets, make_sbom
from imgrepo.library.records import ContentsRecord
from imgrepo.sourcepackages.collect import Collected, SourcesRequest, collect
from imgrepo.sourcepackages.finding import MAINTAINER_KEYRING, SourceArchives
from imgrepo.template.recipes import DEBIAN_MIRROR, DEBIAN_SECURITY_MIRROR, GUEST_KEYRING

_BOTH = "both"
_targets_argument = click.argument("targets", nargs=-1, required=True, type=PATH, metavar="ENTRY|IMAGE...")


class _WithDefault(VerbGroup):
    """A group whose first command is meant when none is named: ``sbom IMAGE`` is ``sbom make IMAGE``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(
    "sbom",
    cls=_WithDefault,
    short_help="List the packages in images, or compare lists.",
    help="List the packages in images (software bill of materials), or compare two lists.\n\n"
    "make is the default command: sbom IMAGE is the same as sbom make IMAGE.",
    epilog=examples(
        "pybuilder-repo sbom images/debian-12.img",
        "pybuilder-repo sbom diff old/contents.json new/contents.json",
    ),
)
def sbom_group() -> None:
    """Choose the command."""


@sbom_group.command(
    "make",
    short_help="List the packages in images.",
    help="Look into images and list their packages, with versions, source packages and licences.\n\n"
    "ENTRY is the folder of an entry, whose folder contents/ gets the lists; those of an IMAGE go into the "
    "folder NAME.contents next to it.",
)
@_targets_argument
@click.option(
    "--format",
    "wanted",
    type=click.Choice([*(one.value for one in Format), _BOTH]),
    default=_BOTH,
    show_default=True,
    help="Formats to write besides contents.json.",
)
@click.option("--output", type=PATH, metavar="DIR", help="Put the lists into DIR/NAME/contents instead.")
@options.json_option
@options.appliance_options
@options.quiet_option()
@options.verbose_option()
@pass_publisher
def make_command(
    publisher: Publisher,
    *,
    targets: tuple[Path, ...],
    wanted: str,
    output: Path | None,
    appliance: ApplianceOptions,
) -> int:
    """List packages; return 1 when an image could not be looked into."""
    found = find_targets(targets, output)
    formats = tuple(Format) if wanted == _BOTH else (Format(wanted),)

    def make(target: ImageTarget) -> dict[str, Any] | None:
        contents = make_sbom(target, formats, publisher.services, appliance, publisher.reporter)
        if not publisher.as_json:
            info(publisher.reporter, _sbom_line(target, contents))
        return _sbom_data(target, contents)

    def failed(target: ImageTarget, error: PybuilderError) -> None:
        if len(found) == 1 or isinstance(error, ApplianceError):
            raise error
        publisher.reporter.error(f"{target.image.path}: {error.message}", error.hint)

    rows = each(found, make, failed)
    publisher.emit({"version": 1, "images": [row for row in rows if row is not None]})
    return 1 if None in rows else 0


@sbom_group.command(
    "diff",
    short_help="Compare two lists of packages.",
    help="Show what changed from the packages in OLD to those in NEW: added, removed, upgraded, downgraded, "
    "and other licences.\n\n"
    "Each is a contents.json, a CycloneDX file (JSON) from any tool, the folder of an entry or of its "
    "contents, or an image whose packages were listed before.",
)
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@options.json_option
@pass_publisher
def diff_command(publisher: Publisher, *, old: Path, new: Path) -> None:
    """Compare two lists."""
    found = compare_lists(read_list(old), read_list(new))
    publisher.emit(found.as_data(), found.as_lines())


def _counts(contents: ContentsRecord) -> tuple[int, int]:
    """Return the numbers of packages with a copyleft licence, and with an unknown one."""
    kinds = [package.copyleft for package in contents.packages]
    return kinds.count(True), kinds.count(None)


def _sbom_line(target: ImageTarget, contents: ContentsRecord) -> str:
    copyleft, unknown = _counts(contents)
    return printable(
        f"{target.contents}: {len(contents.packages)} packages of {contents.system or 'an unnamed system'} "
        f"({contents.manager}), {copyleft} of them copyleft, {unknown} with an unknown licence"
    )


def _sbom_data(target: ImageTarget, contents: ContentsRecord) -> dict[str, Any]:
    copyleft, unknown = _counts(contents)
    return {
        "name": target.name,
        "folder": str(target.contents),
        "system": contents.system,
        "manager": contents.manager,
        "sha512": contents.image.sha512,
        "packages": len(contents.packages),
        "copyleft": copyleft,
        "licence-unknown": unknown,
    }


_places_options = options.option_group(
    "places",
    SourceArchives,
    click.option("--mirror", default=DEBIAN_MIRROR, show_default=True, metavar="URL", help="The archive."),
    click.option(
        "--security-mirror",
        "security",
        default=DEBIAN_SECURITY_MIRROR,
        show_default=True,
        metavar="URL",
        help="Its security updates.",
    ),
    click.option(
        "--suite",
        "suites",
        multiple=True,
        metavar="SUITE",
        help="Use only this suite of --mirror; repeatable [default: those of the guest's Debian].",
    ),
    click.option(
        "--component",
        "components",
        multiple=True,
        default=("main",),
        show_default=True,
        metavar="NAME",
        help="Component of each suite.",
    ),
    click.option(
        "--keyring",
        type=PATH,
        default=GUEST_KEYRING,
        show_default=True,
        metavar="FILE",
        help="Public keys that may sign the archive.",
    ),
    click.option(
        "--snapshot",
        "snapshots",
        multiple=True,
        metavar="URL",
        help="An older state of the archive, for versions that it no longer has: signed lists, and pool.",
    ),
    click.option(
        "--maintainer-keyring",
        "maintainers",
        type=PATH,
        default=MAINTAINER_KEYRING,
        show_default=True,
        metavar="FILE",
        help="Public keys that may sign a source package in a snapshot's pool that is in none of its lists.",
    ),
)


@click.command(
    "sources",
    short_help="Collect the source packages of images.",
    help="Collect the source packages of all packages in an image whose licence asks for sources, or is "
    "unknown: exactly the versions in it, verified from the archive's signature down to each file, in one "
    "tar file with a text that offers them.\n\n"
    "ENTRY is the folder of an entry, whose folder sources/ gets them; those of an IMAGE go into the folder "
    "NAME.sources next to it. The exit code is 1 when some are missing; they are listed.",
    epilog=examples("pybuilder-repo sources images/debian-12.img --dry-run"),
)
@_targets_argument
@_places_options
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only the sources of this package, to try; repeatable."
)
@click.option("--output", type=PATH, metavar="DIR", help="Use DIR/NAME/sources instead.")
@click.option("--dry-run", is_flag=True, help="Only show how many there are, and how many bytes.")
@options.json_option
@options.appliance_options
@options.quiet_option()
@options.verbose_option()
@pass_publisher
def sources_command(
    publisher: Publisher,
    *,
    targets: tuple[Path, ...],
    places: SourceArchives,
    only: tuple[str, ...],
    output: Path | None,
    dry_run: bool,
    appliance: ApplianceOptions,
) -> int:
    """Collect sources; return 1 when some are missing."""
    request = SourcesRequest(places, only, dry_run)
    rows: list[Collected] = []
    for target in find_targets(targets, output):
        rows.append(collect(target, request, publisher.services, appliance, publisher.reporter))
        if not publisher.as_json:
            _report(rows[-1], publisher.reporter, dry_run=dry_run)
    publisher.emit({"version": 1, "images": [_sources_data(row) for row in rows]})
    return 1 if any(row.gaps for row in rows) else 0


def _report(row: Collected, on_event: Reporter, *, dry_run: bool) -> None:
    for gap in row.gaps:
        warn(on_event, printable(f"missing: {gap.source} {gap.version}: {gap.reason}"))
    count = row.wanted - len(row.gaps)
    if dry_run:
        files = sum(len(package.files) for package in row.packages)
        text = (
            f"{row.target.name}: {count} of {row.wanted} source packages would be collected, {files} "
            f"files of {human_size(row.size)}, of which {human_size(row.to_fetch)} would be fetched"
        )
    elif row.record is not None and row.record.archive:
        path = row.target.sources / row.record.archive
        text = f"{path}: {count} of {row.wanted} source packages, {human_size(row.record.size)}"
    else:
        text = f"{row.target.name}: no source package was collected"
    info(on_event, printable(text))
    if not dry_run and row.record is not None and row.record.archive and not row.target.offer:
        warn(on_event, "the offer names no contact: write source-offer= into entry.toml")


def _sources_data(row: Collected) -> dict[str, Any]:
    record = row.record
    has_archive = record is not None and record.archive
    return {
        "name": row.target.name,
        "folder": str(row.target.sources),
        "wanted": row.wanted,
        "files": sum(len(package.files) for package in row.packages),
        "bytes": row.size,
        "bytes-to-fetch": row.to_fetch,
        "gaps": [{"source": gap.source, "version": gap.version, "reason": gap.reason} for gap in row.gaps],
        "archive": record.archive if record and has_archive else None,
        "sha512": record.sha512 if record and has_archive else None,
        "size": record.size if record and has_archive else None,
    }
