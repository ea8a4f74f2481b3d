"""``pybuilder-repo upload``, and what ``publish --to`` shares with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from imgbuilder.events import info
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.cli.options import grace_option, quiet_option, webroot_argument
from imgrepo.services import Services
from imgrepo.sharing.rsync import RsyncTarget
from imgrepo.sharing.s3 import S3Target
from imgrepo.sharing.target import Place, Target, read_place
from imgrepo.sharing.upload import UploadRequest, upload

_PROGRAM = "pybuilder-repo"


def endpoint_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that names another S3 server than Amazon's."""
    return click.option(
        "--endpoint-url", metavar="URL", help="For s3:// targets: a server that is not Amazon's."
    )(function)


def bring(
    services: Services, request: UploadRequest, endpoint: str | None, reporter: ConsoleReporter
) -> None:
    """Upload a folder and tell of it."""

    def open_target(place: Place) -> Target:
        return S3Target(place, endpoint) if place.bucket else RsyncTarget(place)

    result = upload(request, services, open_target, reporter)
    count = len(result.sent)
    what = f"{count} file{'' if count == 1 else 's'} sent" if count else "nothing new to upload"
    info(reporter, f"{request.place.shown}: {what}")


@click.command(
    "upload",
    short_help="Bring a published folder to another machine.",
    help="Bring WEBROOT to TARGET on another machine; what is there already is not sent again.\n\n"
    "TARGET is s3://bucket/prefix, rsync://host/module/path, or host:path for rsync over ssh. The index goes "
    "last: clients never meet one whose files are not there.",
)
@webroot_argument
@click.argument("target")
@endpoint_option
@click.option(
    "--prune", is_flag=True, help="After the grace time, delete files there that the index does not name."
)
@grace_option()
@click.option("--force", is_flag=True, help="Replace an index there that is newer, or by another key.")
@quiet_option
@click.pass_obj
def upload_command(
    services: Services,
    *,
    webroot: Path,
    target: str,
    endpoint_url: str | None,
    prune: bool,
    grace: int,
    force: bool,
    quiet: bool,
) -> None:
    """Read the options and upload."""
    request = UploadRequest(webroot, read_place(target), prune, timedelta(days=grace), force)
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet)
    try:
        bring(services, request, endpoint_url, reporter)
    finally:
        reporter.close()
