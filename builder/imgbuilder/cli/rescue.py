"""The shell that ``--on-error=shell`` opens in a guest whose customization failed.

libguestfs carries no terminal into the guest, so it works line by line: each
line runs in a new shell, in the folder where the last one ended, and its
output is shown when it has ended.
"""

from __future__ import annotations

import shlex
import sys

import click

from imgbuilder.customize.commands import preamble_for_shell
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.failure import GuestShell
from imgbuilder.errors import GuestCallError, OperationError
from imgbuilder.guests.ports import Guest
from imgbuilder.host.text import printable
from imgbuilder.terminal.console import ConsoleReporter

_MARK = "@pybuilder-folder@"
_WELCOME = """\
A shell in the guest, as the failed operation left it. Each line runs on its own, without input.
  exit    end, and remove the image
  keep    end, and keep the image as it is now"""


def shell_with(console: ConsoleReporter) -> GuestShell:
    """Return a shell that is shown after the console's progress bar is taken away."""

    def shell(guest: Guest, context: GuestContext, error: OperationError) -> bool:
        console.close()
        click.echo(printable(error.message), err=True)
        for line in error.log_tail.split("\n"):
            click.echo(printable(line), err=True)
        click.echo(_WELCOME, err=True)
        return _loop(guest, context)

    return shell


def _loop(guest: Guest, context: GuestContext) -> bool:
    folder = "/"
    while True:
        click.echo(printable(f"guest:{folder}# "), nl=False, err=True)
        line = sys.stdin.readline()
        word = line.strip()
        if not line or word == "exit":
            return False
        if word == "keep":
            return True
        if not word:
            continue
        script = f"{preamble_for_shell(context)}cd {shlex.quote(folder)} || cd /\n{line}\n"
        try:
            result = guest.sh(
                f"trap 'status=$?; echo; echo \"{_MARK}$(pwd)\"; exit $status' EXIT\n{script}", patience=None
            )
        except GuestCallError as error:
            click.echo(printable(error.message), err=True)
            continue
        output, mark, place = result.output.rpartition(f"\n{_MARK}")
        if mark:
            folder = place.strip("\n") or "/"
        else:
            output = result.output
        shown = context.mask.text(output).rstrip("\n")
        if shown:
            click.echo("\n".join(printable(part) for part in shown.split("\n")))
        if result.status != 0:
            click.echo(f"exit status {result.status}", err=True)
