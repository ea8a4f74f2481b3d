"""``pybuilder-repo sbom``: which packages images hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import ApplianceError, PybuilderError
from imgbuilder.events import info
from imgbuilder.host.text import printable
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.cli.options import appliance_options, json_option, quiet_option, verbose_option
from imgrepo.contents.diff import compare_lists, read_list
from imgrepo.contents.sbom import Format, Target, find_targets, make_sbom
from imgrepo.library.records import ContentsRecord
from imgrepo.services import Services

_PROGRAM = "pybuilder-repo"
_BOTH = "both"


class _WithDefault(click.Group):
    """A group whose first command is meant when none is named: ``sbom IMAGE`` is ``sbom make IMAGE``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(
    "sbom",
    cls=_WithDefault,
    short_help="List the packages of images, and compare.",
    help="List the packages of images (software bill of materials), or compare two lists.\n\n"
    "Without a command, make is meant: pybuilder-repo sbom images/debian-12.",
)
def sbom_group() -> None:
    """Choose the command."""


@sbom_group.command(
    "make",
    short_help="List the packages of images.",
    help="Look into images and list their packages, with versions, source packages and licences.\n\n"
    "ENTRY is the folder of an entry, whose folder contents/ gets the lists; those of an IMAGE go into the "
    "folder NAME.contents beside it.",
)
@click.argument("targets", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="ENTRY|IMAGE...")
@click.option(
    "--format",
    "wanted",
    type=click.Choice([*(one.value for one in Format), _BOTH]),
    default=_BOTH,
    show_default=True,
    help="In which format, beside contents.json.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Put the lists into DIR/NAME/contents instead.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@appliance_options
@quiet_option
@verbose_option
@click.pass_context
def make_command(
    ctx: click.Context,
    *,
    targets: tuple[Path, ...],
    wanted: str,
    output: Path | None,
    as_json: bool,
    memsize: int | None,
    no_instant: bool,
    cache: Path | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Read the options and look; exit code 1 when an image could not be looked into."""
    services: Services = ctx.obj
    found = find_targets(targets, output)
    formats = tuple(Format) if wanted == _BOTH else (Format(wanted),)
    options = ApplianceOptions(memsize=memsize, verbose=verbose, instant=not no_instant, cache=cache)
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet or as_json, verbose=verbose)
    rows: list[dict[str, Any]] = []
    failed = False
    try:
        for target in found:
            try:
                contents = make_sbom(target, formats, services, options, reporter)
            except ApplianceError:
                raise
            except PybuilderError as error:  # that of one image does not keep the others (T24)
                if len(found) == 1:
                    raise
                failed = True
                reporter.error(f"{target.image.path}: {error.message}", error.hint)
                continue
            rows.append(_as_data(target, contents))
            if not as_json:
                info(reporter, _told(target, contents))
    finally:
        reporter.close()
    if as_json:
        click.echo(json.dumps({"version": 1, "images": rows}, indent=2))
    if failed:
        ctx.exit(1)


@sbom_group.command(
    "diff",
    short_help="Compare two lists of packages.",
    help="Say what changed from the packages in OLD to those in NEW: added, removed, upgraded, downgraded, "
    "and other licences.\n\n"
    "Each is a contents.json, a CycloneDX file (JSON) of anybody, the folder of an entry or of its contents, "
    "or an image that was looked into before.",
)
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@json_option
def diff_command(*, old: Path, new: Path, as_json: bool) -> None:
    """Read the two lists and compare them."""
    found = compare_lists(read_list(old), read_list(new))
    if as_json:
        click.echo(json.dumps(found.as_data(), indent=2))
    else:
        click.echo("\n".join(printable(line) for line in found.as_lines()))


def _counts(contents: ContentsRecord) -> tuple[int, int]:
    """Return how many packages are copyleft, and of how many that is not known."""
    kinds = [package.copyleft for package in contents.packages]
    return kinds.count(True), kinds.count(None)


def _told(target: Target, contents: ContentsRecord) -> str:
    copyleft, unknown = _counts(contents)
    return printable(
        f"{target.contents}: {len(contents.packages)} packages of {contents.system or 'an unnamed system'} "
        f"({contents.manager}), {copyleft} of them copyleft, {unknown} with a licence that is not known"
    )


def _as_data(target: Target, contents: ContentsRecord) -> dict[str, Any]:
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
