"""The command group ``pybuilder-repo``."""

from __future__ import annotations

import os
import sys

import click

from imgbuilder.errors import UsageError
from imgbuilder.terminal.boundary import run_command
from imgbuilder.terminal.configuration import apply_configuration
from imgbuilder.terminal.console import ConsoleReporter
from imgindex import __version__
from imgrepo.cli import keeping, sharing
from imgrepo.cli.bootcheck import boot_check_command
from imgrepo.cli.catalogue import catalogue_command
from imgrepo.cli.contents import sbom_group
from imgrepo.cli.entry import entry_group
from imgrepo.cli.entrycheck import check_command
from imgrepo.cli.entrylist import list_command
from imgrepo.cli.importing import import_command
from imgrepo.cli.make_template import make_template_command
from imgrepo.cli.publish import publish_command
from imgrepo.cli.sources import sources_command
from imgrepo.cli.stats import stats_command
from imgrepo.cli.status import status_command
from imgrepo.cli.uploading import upload_command
from imgrepo.cli.validate import validate_command
from imgrepo.services import Services

_PROGRAM = "pybuilder-repo"


@click.group(
    context_settings={"help_option_names": ["--help"], "max_content_width": 110},
    help="Make templates; publish folders of them with a signed index; keep, check, serve and copy those.\n\n"
    "What is published is read by pybuilder and by virt-builder.",
)
@click.version_option(__version__, "-V", "--version", prog_name=_PROGRAM, message="%(prog)s %(version)s")
def group() -> None:
    """Choose the command."""


group.add_command(make_template_command)
group.add_command(import_command)
group.add_command(publish_command)
group.add_command(status_command)
group.add_command(upload_command)
group.add_command(validate_command)
group.add_command(boot_check_command)
group.add_command(stats_command)
entry_group.add_command(check_command)
entry_group.add_command(list_command)
group.add_command(entry_group)
group.add_command(catalogue_command)
group.add_command(sbom_group)
group.add_command(sources_command)
for _command in (*keeping.COMMANDS, *sharing.COMMANDS):
    group.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments, Services()))


def run(arguments: list[str], services: Services) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name.
        services: The ports that the commands use.

    Returns:
        The exit code, see ``imgbuilder.terminal.boundary``.
    """

    def body() -> object:
        apply_configuration(os.environ)
        try:
            # Without standalone mode, click returns the code of ctx.exit() instead of raising it.
            return group.main(arguments, prog_name=_PROGRAM, standalone_mode=False, obj=services)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            return UsageError.exit_code
        except click.ClickException as error:
            command = (
                error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else _PROGRAM
            )
            raise UsageError(error.format_message(), hint=f"see: {command} --help") from error

    return run_command(body, ConsoleReporter(_PROGRAM), verbose=bool({"-v", "--verbose"} & set(arguments)))


if __name__ == "__main__":
    main()
