"""``pybuilder-repo import``: a distribution's cloud image, checked, among the images to publish."""

from __future__ import annotations

from pathlib import Path

import click

from imgbuilder.events import info
from imgbuilder.host.text import printable
from imgbuilder.sizes import human_size
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.cli.options import quiet_option
from imgrepo.intake.proof import Evidence
from imgrepo.intake.take import ImportRequest, take_in
from imgrepo.services import Services

_PROGRAM = "pybuilder-repo"


@click.command(
    "import",
    short_help="Take in a distribution's cloud image.",
    help="Take a distribution's cloud image into DIRECTORY, ready to publish.\n\n"
    "ADDRESS is that of the image, on the web or a path. Its checksum file (SHA512SUMS, SHA256SUMS or "
    "CHECKSUM) is looked for beside it, and must be signed by the key that you give.",
)
@click.argument("address")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--key",
    metavar="FILE-or-FINGERPRINT",
    help="The distribution's public key: a file, or its full fingerprint in your keyring.",
)
@click.option("--checksums", metavar="ADDRESS", help="The checksum file is this one.")
@click.option("--checksum", metavar="SHA512", help="Ask no checksum file: the image has this digest.")
@click.option(
    "--unsigned", is_flag=True, help="Believe the checksum file although nobody signed it, as Debian's."
)
@click.option(
    "--name", metavar="NAME", help="Name of the template [default: the image's name without its ending]."
)
@quiet_option
@click.pass_obj
def import_command(
    services: Services,
    *,
    address: str,
    directory: Path,
    key: str | None,
    checksums: str | None,
    checksum: str | None,
    unsigned: bool,
    name: str | None,
    quiet: bool,
) -> None:
    """Read the options and take it in."""
    request = ImportRequest(address, directory, Evidence(checksum, checksums, key, unsigned), name)
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet)
    try:
        result = take_in(request, services, services.fetcher, reporter)
        what = "imported" if result.new else "is here already"
        info(reporter, printable(f"{result.path} {what}: a disk of {human_size(result.size)}"))
        info(reporter, printable(f"checked by {result.proof}"))
    finally:
        reporter.close()
