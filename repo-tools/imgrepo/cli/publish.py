"""``pybuilder-repo publish``: a folder of images as a signed repository."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.cli.getopt import VIRT_BUILDER_REPOSITORY, GetoptCommand, standard_options
from imgbuilder.errors import UsageError
from imgbuilder.events import Reporter, info, warn
from imgbuilder.terminal.reporter import open_stream
from imgindex import __version__
from imgrepo.cli import options, places
from imgrepo.cli.options import PATH, Cleanup, NumberType
from imgrepo.cli.publisher import PROGRAM, Publisher, ask, examples, pass_publisher, show
from imgrepo.cli.share import endpoint_option, send
from imgrepo.images.compress import PRESETS
from imgrepo.publishing.init import InitRequest, init
from imgrepo.publishing.publish import PublishResult, publish
from imgrepo.publishing.request import PublishRequest
from imgrepo.review.results import Requirement
from imgrepo.services import Signing
from imgrepo.sharing.upload import UploadRequest, read_place
from imgrepo.webroot.entries import differences

_CAPABILITIES = ("virt-builder-repository", "pybuilder-repo", "zstd", "expire", "dry-run")


def _print_capabilities(ctx: click.Context, _param: click.Parameter, where: str | None) -> None:
    if where is not None and not ctx.resilient_parsing:
        stream = open_stream(where)
        stream.write("\n".join([*_CAPABILITIES, ""]))
        stream.flush()
        ctx.exit()


def _request(
    *,
    directory: Path,
    output: Path | None,
    signing: Signing,
    appliance: ApplianceOptions,
    cleanup: Cleanup,
    preset: str,
    zstd: bool,
    zstd_level: int,
    blocks: bool,
    no_compression: bool,
    no_trim: bool,
    required: tuple[Requirement, ...],
    reviewers: Path | None,
    dry_run: bool,
    force: bool,
    remove_images: bool,
    interactive: bool,
    colour: bool,
    wrap: bool,
) -> PublishRequest:
    context = click.get_current_context()
    publisher = context.find_object(Publisher)
    if publisher is not None:  # before anything can be wrong: errors are wrapped as well
        publisher.reporter.colour, publisher.reporter.wrap = colour, wrap
    if context.args:
        raise UsageError(
            f"publish takes one folder of images; {context.args[0]} is a second one",
            hint=f"to publish into it: --output {shlex.quote(context.args[0])}",
        )
    return PublishRequest(
        directory,
        output or directory,
        signing,
        preset=preset,
        appliance=appliance,
        compress=not no_compression,
        zstd_level=zstd_level if zstd else None,
        blocks=blocks,
        trim=not no_trim,
        dry_run=dry_run,
        force=force,
        remove_images=remove_images,
        ask=ask if interactive else None,
        require=required,
        reviewers=reviewers,
        **cleanup,
    )


_request_options = options.option_group(
    "request",
    _request,
    places.library_argument("directory"),
    options.signing_options,
    click.option(
        "-o",
        "--output",
        type=PATH,
        metavar="WEBROOT",
        help="Put the results here [default: next to the images].",
    ),
    click.option(
        "--to",
        "targets",
        multiple=True,
        metavar="TARGET",
        help="Then upload WEBROOT to s3://bucket/prefix, rsync://host/module/path, or host:path.",
    ),
    endpoint_option,
    click.option("-i", "--interactive", is_flag=True, help="Ask what to publish about new images."),
    click.option("--dry-run", is_flag=True, help="Only show what would change in the index."),
    options.require_option("Refuse images that have not passed this"),
    options.reviewers_option,
    click.option("--remove-images", is_flag=True, help="Finally, delete the images that were published."),
    click.option("--force", is_flag=True, help="Accept a published index that is not signed by this key."),
    click.option(
        "--xz-preset",
        "preset",
        type=click.Choice(PRESETS),
        default="6",
        show_default=True,
        metavar="PRESET",
        help="How hard xz tries: 0 to 9, with e for even harder.",
    ),
    click.option("--zstd", is_flag=True, help="Offer each disk as a zstd file as well, for quick unpacking."),
    click.option(
        "--zstd-level",
        type=NumberType(1, 19),
        default=19,
        show_default=True,
        metavar="LEVEL",
        help="How hard zstd tries, with --zstd.",
    ),
    click.option(
        "--blocks/--no-blocks",
        default=True,
        help="List the blocks of zstd files, so that updates fetch only what changed [default: --blocks].",
    ),
    click.option("--no-compression", is_flag=True, help="Publish the disks as they are, without xz."),
    click.option("--no-trim", is_flag=True, help="Do not discard free space inside the filesystems first."),
    options.cleanup_options(
        "After the grace time, drop templates whose image is gone, and delete old files."
    ),
    options.appliance_options,
)


@click.command(
    "publish",
    cls=GetoptCommand,
    theirs=VIRT_BUILDER_REPOSITORY,
    context_settings={"allow_extra_args": True},  # refused with a hint
    short_help="Publish a folder of disk images.",
    help="Publish the disk images in DIRECTORY: compress what is new and sign the index of all of them.\n\n"
    "Images are the regular files NAME.img, NAME.raw and NAME.qcow2. They stay where they are; the template "
    "NAME, the index (index.asc, and index for reading) and the public key (index.gpg) appear in WEBROOT, "
    "which any web server can serve, even while this command runs.\n\n"
    "A folder NAME with an entry.toml is an entry: its image is published as the template NAME, with the "
    "title and notes of that file, and not before the day that it gives.",
    epilog=examples("pybuilder-repo publish images --output web --gpg-key you@example.org"),
)
@_request_options
@options.json_option
@options.quiet_option()
@options.verbose_option()
@options.trace_option
@click.option(
    "--machine-readable",
    metavar="[=FORMAT]",
    is_eager=True,
    expose_value=False,
    callback=_print_capabilities,
    help="Print what this command can do, one word per line, and exit.",
)
@standard_options
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM, message="%(prog)s %(version)s")
@pass_publisher
def publish_command(
    publisher: Publisher,
    *,
    request: PublishRequest,
    targets: tuple[str, ...],
    endpoint_url: str | None,
) -> int:
    """Publish the images; return 1 when an image was refused."""
    places = [read_place(target) for target in targets]
    reporter = publisher.reporter
    result = publish(request, publisher.services, reporter)
    _report(result, reporter, dry_run=request.dry_run, as_json=publisher.as_json)
    sent = []
    for place in places if result.has_index and not request.dry_run else ():
        upload = UploadRequest(request.output, place, request.prune, request.grace, request.force)
        sent.append(send(publisher, upload, endpoint_url))
    refused = [
        {"image": name, "reason": error.message, "hint": error.hint} for name, error in result.refused.items()
    ]
    if publisher.as_json:
        publisher.emit_edit(
            result.before, result.index, dry_run=request.dry_run, refused=refused, uploads=sent
        )
    return 1 if result.refused else 0


def _init_request(
    *,
    directory: Path,
    key: str | None,
    new_key: str | None,
    webroot: Path | None,
    base_url: str,
    title: str,
    expire: int,
    gpg: str,
) -> InitRequest:
    if (key is None) == (new_key is None):
        raise UsageError(
            "choose the key that signs: --gpg-key KEY, or --new-key 'Images <images@example.org>'",
            hint="your keys are listed by: gpg --list-secret-keys",
        )
    signing = options.make_signing(keys=(key or "",), expire=expire, gpg=gpg)
    address = options.check_base_url(base_url)
    return InitRequest(directory, signing, new_key, webroot, address, title)


_init_options = options.option_group(
    "request",
    _init_request,
    click.argument("directory", type=PATH),
    click.option("-K", "--gpg-key", "key", metavar="KEY", help="Sign with this key, which exists."),
    click.option(
        "--new-key", metavar="'NAME <MAIL>'", help="Make a signing key, for two years and without passphrase."
    ),
    click.option(
        "--webroot", type=PATH, metavar="DIR", help="The folder to serve [default: web in DIRECTORY]."
    ),
    options.base_url_option,
    click.option("--title", default="", metavar="TITLE", help="Title of the library's web pages."),
    options.days_option("--expire", "Let signatures expire after so many days.", default=30),
    options.gpg_option,
)


@click.command(
    "init",
    short_help="Set up a library: key, folders, settings.",
    help="Set up a library in DIRECTORY: the folder for images, the one to serve, a library.toml that all "
    "commands read, and in DIRECTORY/setup the public key, the configuration for users, and files for nginx, "
    "Apache, systemd and cron.",
    epilog=examples("pybuilder-repo init library --new-key 'Images <images@example.org>'"),
)
@_init_options
@options.json_option
@pass_publisher
def init_command(publisher: Publisher, *, request: InitRequest) -> None:
    """Set up the library."""
    made = init(request, publisher.services)
    folder, words = shlex.quote(str(request.folder)), "made now" if request.new_key else "as you chose"
    key_file = next(path for path in made.written if path.suffix == ".gpg")
    publisher.emit(
        {
            "version": 1,
            "fingerprint": made.fingerprint,
            "written": [str(path) for path in made.written],
            "url": made.url,
        },
        [
            f"key: {made.fingerprint}, {words}",
            *(f"written: {path}" for path in made.written),
            "next:",
            f"  pybuilder-repo make-template debian-12 {folder}/debian-12.img",
            f"  pybuilder-repo publish {folder}",
            f"  pybuilder-repo status {folder}",
            f"  pybuilder-repo serve {folder}",
            "for users, once it is served:",
            f"  pybuilder source add {request.name} {made.url}index.asc --gpgkey {key_file}",
        ],
    )


def _report(result: PublishResult, on_event: Reporter, *, dry_run: bool, as_json: bool) -> None:
    if dry_run and not as_json:
        show(list(differences(result.before, result.index)) or ["nothing would change"])
    elif result.changed:
        info(on_event, f"published: {', '.join(result.changed)}")
    for name, error in result.refused.items():
        warn(on_event, f"{name} was refused: {error.in_one_line}")
