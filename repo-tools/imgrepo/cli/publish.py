"""``pybuilder-repo publish``: a folder of images as a signed repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.console import ConsoleReporter
from imgbuilder.events import info, warn
from imgrepo.compress import PRESETS
from imgrepo.publish import PublishRequest, publish

if TYPE_CHECKING:
    from imgrepo.services import Services

_PROGRAM = "pybuilder-repo"


@click.command(
    "publish",
    help="Publish the disk images in DIRECTORY: compress what is new, and sign the index of them all.\n\n"
    "Images are the regular files NAME.img, NAME.raw and NAME.qcow2. They stay where they are; the template "
    "NAME, the index (index.asc, and index for reading) and the public key (index.gpg) appear in WEBROOT, "
    "which any web server can serve, also while this command runs.",
)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-K", "--gpg-key", "key", required=True, metavar="KEY", help="Sign with this key.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="WEBROOT",
    help="Put the results here [default: beside the images].",
)
@click.option(
    "--xz-preset",
    "preset",
    type=click.Choice(PRESETS),
    default="6",
    show_default=True,
    metavar="PRESET",
    help="How hard xz tries: 0 to 9, with e for even harder.",
)
@click.option(
    "-m", "--memsize", type=click.IntRange(256, 1 << 20), metavar="MB", help="Memory of the appliance."
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.option("-v", "--verbose", is_flag=True, help="Show the appliance's messages and other details.")
@click.pass_context
def publish_command(
    ctx: click.Context,
    *,
    directory: Path,
    key: str,
    output: Path | None,
    preset: str,
    memsize: int | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Read the options and publish; exit code 1 when an image was refused."""
    services: Services = ctx.obj
    request = PublishRequest(
        folder=directory,
        output=output or directory,
        key=key,
        preset=preset,
        options=ApplianceOptions(memsize=memsize, verbose=verbose),
    )
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet, verbose=verbose)
    try:
        result = publish(request, services, reporter)
        if result.changed:
            info(reporter, f"published: {', '.join(result.changed)}")
        for name, error in result.refused.items():
            warn(
                reporter, f"{name} was refused: {error.message}" + (f" ({error.hint})" if error.hint else "")
            )
    finally:
        reporter.close()
    if result.refused:
        ctx.exit(1)
