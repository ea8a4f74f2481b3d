"""``pybuilder-repo publish``: a folder of images as a signed repository."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.cli.getopt import VIRT_BUILDER_REPOSITORY, GetoptCommand, standard_options
from imgbuilder.events import info, warn
from imgbuilder.host.text import printable
from imgbuilder.terminal.console import ConsoleReporter, open_stream
from imgindex import __version__
from imgrepo.cli.options import (
    appliance_options,
    ask,
    grace_option,
    key_options,
    quiet_option,
    require_option,
    reviewers_option,
    signing,
    verbose_option,
)
from imgrepo.cli.uploading import bring, endpoint_option
from imgrepo.images.compress import PRESETS
from imgrepo.publishing.publish import PublishResult, publish
from imgrepo.publishing.request import PublishRequest
from imgrepo.review.results import Requirement
from imgrepo.services import Services
from imgrepo.sharing.target import read_place
from imgrepo.sharing.upload import UploadRequest
from imgrepo.webroot.entries import differences

_PROGRAM = "pybuilder-repo"
_CAPABILITIES = ("virt-builder-repository", "pybuilder-repo", "zstd", "expire", "dry-run")


def _tell_capabilities(ctx: click.Context, _param: click.Parameter, where: str | None) -> None:
    if where is not None and not ctx.resilient_parsing:
        stream = open_stream(where)
        stream.write("\n".join([*_CAPABILITIES, ""]))
        stream.flush()
        ctx.exit()


@click.command(
    "publish",
    cls=GetoptCommand,
    theirs=VIRT_BUILDER_REPOSITORY,
    short_help="Publish a folder of disk images.",
    help="Publish the disk images in DIRECTORY: compress what is new, and sign the index of them all.\n\n"
    "Images are the regular files NAME.img, NAME.raw and NAME.qcow2. They stay where they are; the template "
    "NAME, the index (index.asc, and index for reading) and the public key (index.gpg) appear in WEBROOT, "
    "which any web server can serve, also while this command runs.\n\n"
    "A folder NAME with an entry.toml is an entry: its image is published as the template NAME, named and "
    "noted as the file says, and not before the day that it says.",
)
@click.argument("directory", type=click.Path(path_type=Path))
@key_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="WEBROOT",
    help="Put the results here [default: beside the images].",
)
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="TARGET",
    help="Then upload WEBROOT: to s3://bucket/prefix, rsync://host/module/path, or host:path.",
)
@endpoint_option
@click.option("-i", "--interactive", is_flag=True, help="Ask what to publish about new images.")
@click.option("--dry-run", is_flag=True, help="Only show what would be different in the index.")
@click.option(
    "--xz-preset",
    "preset",
    type=click.Choice(PRESETS),
    default="6",
    show_default=True,
    metavar="PRESET",
    help="How hard xz tries: 0 to 9, with e for even harder.",
)
@click.option("--zstd", is_flag=True, help="Offer each disk as a zstd file as well, for quick unpacking.")
@click.option(
    "--zstd-level",
    type=click.IntRange(1, 19),
    default=19,
    show_default=True,
    metavar="LEVEL",
    help="How hard zstd tries, with --zstd.",
)
@click.option("--no-compression", is_flag=True, help="Publish the disks as they are, without xz.")
@click.option("--no-trim", is_flag=True, help="Do not give back the free space inside the filesystems first.")
@click.option(
    "--prune",
    is_flag=True,
    help="After the grace time, drop templates whose image is gone, and delete files that nothing names.",
)
@grace_option()
@click.option("--remove-images", is_flag=True, help="At the very end, delete the images that were published.")
@click.option("--force", is_flag=True, help="Build on a published index that is not signed by this key.")
@require_option("Refuse images that have not been through this")
@reviewers_option
@appliance_options
@quiet_option
@verbose_option
@click.option("-x", "trace", is_flag=True, help="Show every libguestfs call.")
@click.option(
    "--machine-readable",
    metavar="[=FORMAT]",
    is_eager=True,
    expose_value=False,
    callback=_tell_capabilities,
    help="Say what this command can do, one word a line, and do nothing.",
)
@standard_options
@click.version_option(__version__, "-V", "--version", prog_name=_PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def publish_command(
    ctx: click.Context,
    *,
    directory: Path,
    keys: tuple[str, ...],
    expire: int | None,
    gpg: str,
    output: Path | None,
    targets: tuple[str, ...],
    endpoint_url: str | None,
    interactive: bool,
    dry_run: bool,
    preset: str,
    zstd: bool,
    zstd_level: int,
    no_compression: bool,
    no_trim: bool,
    prune: bool,
    grace: int,
    remove_images: bool,
    force: bool,
    required: tuple[str, ...],
    reviewers: Path | None,
    memsize: int | None,
    no_instant: bool,
    cache: Path | None,
    quiet: bool,
    verbose: bool,
    trace: bool,
    colour: bool,
    wrap: bool,
) -> None:
    """Read the options and publish; exit code 1 when an image was refused."""
    services: Services = ctx.obj
    places = [read_place(target) for target in targets]
    request = PublishRequest(
        folder=directory,
        output=output or directory,
        signing=signing(keys, expire, gpg),
        preset=preset,
        appliance=ApplianceOptions(
            memsize=memsize, verbose=verbose, trace=trace, instant=not no_instant, cache=cache
        ),
        compress=not no_compression,
        zstd_level=zstd_level if zstd else None,
        trim=not no_trim,
        prune=prune,
        grace=timedelta(days=grace),
        dry_run=dry_run,
        force=force,
        remove_images=remove_images,
        ask=ask if interactive else None,
        require=tuple(Requirement(word) for word in required),
        reviewers=reviewers,
    )
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet, verbose=verbose or trace)
    reporter.colour, reporter.wrap = colour, wrap
    try:
        result = publish(request, services, reporter)
        _tell(result, reporter, dry_run=dry_run)
        for place in places if result.has_index and not dry_run else ():
            upload = UploadRequest(request.output, place, prune, request.grace, force)
            bring(services, upload, endpoint_url, reporter)
    finally:
        reporter.close()
    if result.refused:
        ctx.exit(1)


def _tell(result: PublishResult, reporter: ConsoleReporter, *, dry_run: bool) -> None:
    if dry_run:
        lines = list(differences(result.before, result.index))
        for line in lines or ["nothing would be different"]:
            click.echo(printable(line))
    elif result.changed:
        info(reporter, f"published: {', '.join(result.changed)}")
    for name, error in result.refused.items():
        warn(reporter, f"{name} was refused: {error.message}" + (f" ({error.hint})" if error.hint else ""))
