"""``serve``, ``upload`` and ``mirror``: commands that bring a published folder to its users."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from imgbuilder.errors import UsageError
from imgbuilder.events import info
from imgbuilder.host.text import printable
from imgbuilder.sizes import counted, parse_size
from imgrepo.cli import options, places
from imgrepo.cli.options import PATH, Cleanup, NumberType
from imgrepo.cli.publisher import Publisher, examples, pass_publisher
from imgrepo.sharing.mirror import MirrorRequest, mirror
from imgrepo.sharing.rsync import RsyncTarget
from imgrepo.sharing.s3 import S3Target
from imgrepo.sharing.serve import PublishedFolderServer
from imgrepo.sharing.upload import Target, UploadPlace, UploadRequest, read_place, upload


@click.command(
    "serve",
    short_help="Serve a published folder over HTTP, to try it.",
    help="Serve WEBROOT over plain HTTP until Ctrl-C: to try it, or for a LAN.\n\n"
    "Clients verify the signature. For public use, run a real web server.",
    epilog=examples("pybuilder-repo serve web --port 8000"),
)
@places.webroot_argument
@click.option(
    "--bind",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to listen on; 0.0.0.0 for all.",
)
@click.option(
    "--port", type=NumberType(0, 65535), default=8000, show_default=True, help="Port; 0 for any free one."
)
@options.json_option
@options.quiet_option("Do not show requests.")
@pass_publisher
def serve_command(publisher: Publisher, *, webroot: Path, bind: str, port: int) -> None:
    """Serve the folder."""

    def on_request(line: str) -> None:
        if not publisher.reporter.quiet:
            click.echo(printable(line), err=True)

    with PublishedFolderServer(webroot, (bind, port), on_request) as server:
        publisher.emit(
            {"version": 1, "url": f"{server.url}/", "index": f"{server.url}/index.asc"},
            [f"serving {webroot} at {server.url}/index.asc"],
        )
        server.serve()


endpoint_option = click.option(
    "--endpoint-url", metavar="URL", help="For s3:// targets: a server other than Amazon's."
)


def _read_rate(_ctx: click.Context, _param: click.Parameter, given: str | None) -> int | None:
    rate = None if given is None else parse_size(given)
    if rate is not None and rate < 1024:
        raise UsageError(f"--limit-rate {given} is too slow", hint="give bytes a second, such as 500K or 2M")
    return rate


limit_rate_option = click.option(
    "--limit-rate",
    "rate",
    metavar="RATE",
    callback=_read_rate,
    help="Send at most so many bytes a second, such as 2M.",
)


def target_opener(endpoint: str | None, rate: int | None = None) -> Callable[[UploadPlace], Target]:
    """Return what opens upload targets; ``endpoint`` is for those in S3, ``rate`` in bytes per second."""
    return lambda place: S3Target(place, endpoint, rate) if place.bucket else RsyncTarget(place, rate)


def send(
    publisher: Publisher, request: UploadRequest, endpoint: str | None, rate: int | None = None
) -> dict[str, object]:
    """Upload a folder and report it, also as it stands in JSON; ``publish --to`` does the same."""
    result = upload(request, publisher.services, target_opener(endpoint, rate), publisher.reporter)
    what = f"{counted(len(result.sent), 'file')} sent" if result.sent else "nothing new to upload"
    info(publisher.reporter, f"{request.place.shown}: {what}")
    return {"target": request.place.shown, "sent": list(result.sent), "deleted": list(result.deleted)}


@click.command(
    "upload",
    short_help="Copy a published folder to another machine.",
    help="Upload WEBROOT to TARGET on another machine; files that are already there are not sent again, "
    "and of a new revision only what is new, if the former one is still in WEBROOT.\n\n"
    "TARGET is s3://bucket/prefix, rsync://host/module/path, or host:path for rsync over ssh. The index "
    "goes last, so that clients never see one whose files are missing.",
    epilog=examples("pybuilder-repo upload web www.example.org:/srv/www/images"),
)
@places.webroot_argument
@click.argument("target")
@endpoint_option
@limit_rate_option
@options.cleanup_options("After the grace time, delete files there that the index does not name.")
@click.option("--force", is_flag=True, help="Replace an index there that is newer, or signed by another key.")
@options.json_option
@options.quiet_option()
@pass_publisher
def upload_command(
    publisher: Publisher,
    *,
    webroot: Path,
    target: str,
    endpoint_url: str | None,
    rate: int | None,
    cleanup: Cleanup,
    force: bool,
) -> None:
    """Upload the folder."""
    request = UploadRequest(webroot, read_place(target), **cleanup, force=force)
    publisher.emit({"version": 1, **send(publisher, request, endpoint_url, rate)})


@click.command(
    "mirror",
    short_help="Copy another repository, and verify it.",
    help="Copy the repository at SOURCE to DIRECTORY, or bring the copy up to date: same files, same "
    "signature.\n\n"
    "SOURCE is the URL or path of an index.asc, or of its folder. Clients trust the copy like the "
    "original, because they check the publisher's signature. Of a new revision's zstd file, only the frames "
    "that the former one has not are fetched.",
    epilog=examples("pybuilder-repo mirror https://images.example.org/ copy --key example.gpg"),
)
@click.argument("source")
@click.argument("directory", type=PATH)
@click.option(
    "--key", "key_file", required=True, type=PATH, metavar="FILE", help="The publisher's public key."
)
@options.cleanup_options("After the grace time, delete files that the index no longer names.")
@options.json_option
@options.quiet_option()
@pass_publisher
def mirror_command(
    publisher: Publisher, *, source: str, directory: Path, key_file: Path, cleanup: Cleanup
) -> None:
    """Copy the repository."""
    request = MirrorRequest(source, directory, key_file, **cleanup)
    result = mirror(request, publisher.services, publisher.reporter)
    info(
        publisher.reporter,
        f"{counted(result.templates, 'template')}; new files: {', '.join(result.fetched) or 'none'}",
    )
    publisher.emit({"version": 1, "templates": result.templates, "fetched": list(result.fetched)})
