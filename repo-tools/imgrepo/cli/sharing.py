"""Commands that bring published folders to others: ``serve`` and ``mirror``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from imgbuilder.events import info
from imgbuilder.host.text import printable
from imgbuilder.sizes import counted
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.cli.options import grace_option, quiet_option, webroot_argument
from imgrepo.services import Services
from imgrepo.sharing.mirror import MirrorRequest, mirror
from imgrepo.sharing.serve import PublishedFolderServer

_PROGRAM = "pybuilder-repo"


@click.command(
    "serve",
    short_help="Serve a published folder over HTTP.",
    help="Serve WEBROOT over HTTP, for trying and for a LAN, until Ctrl-C.\n\n"
    "There is no encryption, and needs none: clients check the signature. For the world outside take a real "
    "web server.",
)
@webroot_argument
@click.option(
    "--bind",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Listen here; 0.0.0.0: everywhere.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes any.")
@click.option("-q", "--quiet", is_flag=True, help="Do not show requests.")
def serve_command(*, webroot: Path, bind: str, port: int, quiet: bool) -> None:
    """Read the options and serve."""

    def tell(line: str) -> None:
        if not quiet:
            click.echo(printable(line), err=True)

    with PublishedFolderServer(webroot, (bind, port), tell) as server:
        host = f"[{bind}]" if ":" in bind else bind
        click.echo(f"serving {webroot} at http://{host}:{server.server_port}/index.asc")
        server.serve_forever()


@click.command(
    "mirror",
    short_help="Copy somebody's repository, checked.",
    help="Bring DIRECTORY up to date with the repository at SOURCE: files checked, signatures intact.\n\n"
    "SOURCE is the address of an index.asc or of its folder; a web address or a local path. Clients take the "
    "copy for the original: they check the publisher's signature.",
)
@click.argument("source")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The publisher's public key.",
)
@click.option(
    "--prune", is_flag=True, help="After the grace time, delete files that the index does not name any more."
)
@grace_option()
@quiet_option
@click.pass_obj
def mirror_command(
    services: Services,
    *,
    source: str,
    directory: Path,
    key_file: Path,
    prune: bool,
    grace: int,
    quiet: bool,
) -> None:
    """Read the options and copy."""
    request = MirrorRequest(source, directory, key_file, prune, timedelta(days=grace))
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet)
    try:
        result = mirror(request, services, services.fetcher, reporter)
        info(
            reporter,
            f"{counted(result.templates, 'template')}; new files: {', '.join(result.fetched) or 'none'}",
        )
    finally:
        reporter.close()


COMMANDS = (serve_command, mirror_command)
