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
from imgbuilder.terminal.reporter import ConsoleReporter


class VerbGroup(click.Group):
    """A group of verbs; without one it prints its help as an error, whichever click is installed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(UsageError.exit_code)
        return super().parse_args(ctx, args)


class Tools(NamedTuple):
    """The object of click's context in the client's programs."""

    reporter: ConsoleReporter
    make_services: Callable[..., Services] = Services


_NOW_VERBS = {
    "doctor": "doctor",
    "search": "search",
    "cache-add": "cache add",
    "cache-gc": "cache gc",
    "cache-verify": "cache verify",
    "export-bundle": "cache export",
    "add-source": "source add",
    "sources": "source list",
    "list-sources": "source list",
    "forget-source": "source forget",
    "write-recipe": "recipe write",
    "run-script": "machine script",
    "libvirt-xml": "machine libvirt",
    "virt-install": "machine virt-install",
    "firstboot-log": "firstboot-log",
}
"""Verbs of ``pybuilder`` that are easily taken for options."""


def _no_option(error: click.NoSuchOption, program: click.Command) -> UsageError:
    """Return the error for an unknown option; only a close name is suggested."""
    import difflib  # late: only mistakes need it

    name = error.option_name
    path = error.ctx.command_path if error.ctx else str(program.name)
    verb = _NOW_VERBS.get(name.lstrip("-"))
    if verb is not None and isinstance(program, click.Group) and verb.split()[0] in program.commands:
        return UsageError(f"{name} is a verb", hint=f"{program.name} {verb}")
    params = error.ctx.command.get_params(error.ctx) if error.ctx else []
    known = [option.lstrip("-") for param in params for option in (*param.opts, *param.secondary_opts)]
    near = difflib.get_close_matches(name.lstrip("-"), known, n=1, cutoff=0.75)
    advice = f"did you mean --{near[0]}? " if near else ""
    return UsageError(
        f"{path.removeprefix(f'{program.name} ')} has no option {name}", hint=f"{advice}see: {path} --help"
    )


def run_program(
    command: click.Command, arguments: Sequence[str], console: ConsoleReporter, obj: object
) -> int:
    """Run a program and return its exit code, see ``imgbuilder.terminal.boundary``."""

    def body() -> object:
        apply_configuration(os.environ)
        try:
            # Without standalone mode, click returns the code of ctx.exit() instead of raising it.
            return command.main(list(arguments), prog_name=command.name, standalone_mode=False, obj=obj)
        except click.NoSuchOption as error:
            raise _no_option(error, command) from error
        except click.ClickException as error:
            known = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else None
            raise UsageError(error.format_message(), hint=f"see: {known or command.name} --help") from error

    return run_command(body, console, verbose=bool({"-v", "--verbose", "-x"} & set(arguments)))
