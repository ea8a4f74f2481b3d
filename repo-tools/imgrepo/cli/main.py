"""The command group ``pybuilder-repo`` and its error boundary."""

from __future__ import annotations

import os
import sys
import time
import traceback

import click

from imgbuilder.console import ConsoleReporter
from imgbuilder.errors import PybuilderError
from imgbuilder.interrupts import interruptible
from imgindex import __version__
from imgrepo.cli.make_template import make_template_command
from imgrepo.cli.publish import publish_command
from imgrepo.services import Services, default_services

_PROGRAM = "pybuilder-repo"


@click.group(
    context_settings={"help_option_names": ["--help"], "max_content_width": 110},
    help="Make templates, and publish folders of them with a signed index.\n\n"
    "What is published is read by pybuilder and by virt-builder.",
)
@click.version_option(__version__, "-V", "--version", prog_name=_PROGRAM, message="%(prog)s %(version)s")
def group() -> None:
    """Choose the command."""


group.add_command(make_template_command)
group.add_command(publish_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit; the only place that turns errors into words and exit codes."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments, default_services()))


def run(arguments: list[str], services: Services) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name.
        services: The ports that the commands use.

    Returns:
        The exit code: 0, or 1 for a failure, 2 for wrong usage, 3 for missing trust, 128 plus a signal.
    """
    reporter = ConsoleReporter(_PROGRAM, started=time.monotonic())
    try:
        with interruptible():
            # Without standalone mode, click returns the code of ctx.exit() instead of raising it.
            code = group.main(arguments, prog_name=_PROGRAM, standalone_mode=False, obj=services)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
    except PybuilderError as error:
        reporter.error(error.message, error.hint)
        if {"-v", "--verbose"} & set(arguments):
            traceback.print_exc()
        return error.exit_code
    except click.ClickException as error:
        reporter.error(error.format_message(), f"see: {_PROGRAM} --help")
        return error.exit_code
    except click.Abort:
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        reporter.error(f"{error.filename or 'the system'}: {error.strerror or error}", None)
        return 1


if __name__ == "__main__":
    main()
