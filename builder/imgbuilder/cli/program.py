"""A program of click, from its command line to its exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import click

from imgbuilder.errors import UsageError
from imgbuilder.services import Services
from imgbuilder.terminal.boundary import run_command
from imgbuilder.terminal.configuration import apply_configuration
from imgbuilder.terminal.console import ConsoleReporter


class Tools(NamedTuple):
    """The object of click's context in the client's programs.

    Attributes:
        reporter: Shows what happens.
        make_services: Makes the ports to the outside; tests put others in.
    """

    reporter: ConsoleReporter
    make_services: Callable[..., Services] = Services


def run_program(
    command: click.Command, arguments: Sequence[str], console: ConsoleReporter, obj: object
) -> int:
    """Run a program and return its exit code, see ``imgbuilder.terminal.boundary``."""

    def body() -> object:
        apply_configuration(os.environ)
        try:
            # Without standalone mode, click returns the code of ctx.exit() instead of raising it.
            return command.main(list(arguments), prog_name=command.name, standalone_mode=False, obj=obj)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            return UsageError.exit_code
        except click.ClickException as error:
            known = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else None
            raise UsageError(error.format_message(), hint=f"see: {known or command.name} --help") from error

    return run_command(body, console, verbose=bool({"-v", "--verbose", "-x"} & set(arguments)))
