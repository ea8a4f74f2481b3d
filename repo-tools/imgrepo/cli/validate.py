"""``pybuilder-repo validate``: is an index fit to be published?"""

from __future__ import annotations

from pathlib import Path

import click

from imgbuilder.errors import UsageError
from imgbuilder.host.text import printable
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.cli.options import quiet_option
from imgrepo.services import Services
from imgrepo.webroot.validate import Compatibility, ValidateRequest, validate

_PROGRAM = "pybuilder-repo"


@click.command(
    "validate",
    short_help="Check an index.",
    help="Check the index FILE, signed or not: its grammar, as virt-index-validate does; with --full also "
    "what it says, its signature, and the files beside it.\n\n"
    "The exit code is 0 when it is valid and 1 when it is not.",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--compat-1.24.0", "compat_0", is_flag=True, help="virt-builder 1.24.0 must be able to read it too."
)
@click.option(
    "--compat-1.24.1", "compat_1", is_flag=True, help="virt-builder 1.24.1 must be able to read it too."
)
@click.option("--full", is_flag=True, help="Check fields, duplicates, signature, and all files.")
@click.option(
    "--gpgkey",
    "key",
    type=click.Path(path_type=Path),
    metavar="KEYFILE",
    help="Public keys that may have signed it [default: index.gpg beside it].",
)
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Show other details.")
@click.pass_context
def validate_command(
    ctx: click.Context,
    *,
    file: Path,
    compat_0: bool,
    compat_1: bool,
    full: bool,
    key: Path | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Read the options and check."""
    services: Services = ctx.obj
    if key is not None and not full:
        raise UsageError("--gpgkey is of use only with --full", hint="without it, no signature is checked")
    compatibility = Compatibility.NONE
    if compat_0 or compat_1:
        compatibility = Compatibility.VERSION_1_24_0 if compat_0 else Compatibility.VERSION_1_24_1
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet, verbose=verbose)
    problems = validate(ValidateRequest(file, compatibility, full, key), services, reporter)
    reporter.close()
    for problem in problems:
        reporter.error(problem.message, problem.hint)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        reporter.error(f"{file} could not be validated: {count}", None)
        ctx.exit(1)
    click.echo(f"{printable(str(file))} validated OK")
