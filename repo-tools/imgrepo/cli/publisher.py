"""The object that every command works with, and the printing of results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from imgbuilder.errors import PybuilderError
from imgbuilder.host.text import printable
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.services import Services

PROGRAM = "pybuilder-repo"
_Target = TypeVar("_Target")
_Result = TypeVar("_Result")


@dataclass
class Publisher:
    """The object on click's context.

    Attributes:
        services: The outside world.
        reporter: The console; options such as --quiet set it before the command runs.
        verbose: Show the appliance's messages.
        trace: Show every libguestfs call.
        as_json: Print the result as JSON.
    """

    services: Services
    reporter: ConsoleReporter
    verbose: bool = False
    trace: bool = False
    as_json: bool = False

    def keep_output_clean(self) -> None:
        """Send steps and notices to standard error: standard output is for the result."""
        self.reporter.out = sys.stderr

    def emit(self, record: Mapping[str, Any], lines: Iterable[str] = ()) -> None:
        """Print a result: the record as JSON if that is wanted, else the lines."""
        if self.as_json:
            click.echo(json.dumps(record, indent=2))
        else:
            show(lines)


pass_publisher = click.make_pass_decorator(Publisher)


def show(lines: Iterable[str]) -> None:
    """Print lines without characters that a terminal would obey."""
    for line in lines:
        click.echo(printable(line))


def each(
    targets: Sequence[_Target],
    action: Callable[[_Target], _Result],
    on_error: Callable[[_Target, PybuilderError], _Result],
) -> list[_Result]:
    """Run an action on each target; an error of one does not stop the others (T24).

    Args:
        targets: The targets, in order.
        action: Returns the result of one.
        on_error: Returns the result of one that failed, or raises the error to stop.
    """
    results = []
    for target in targets:
        try:
            results.append(action(target))
        except PybuilderError as error:
            results.append(on_error(target, error))
    return results
