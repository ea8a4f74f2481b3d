"""The parts that all commands share: their context, results as text or JSON, and questions."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.host.text import printable
from imgbuilder.terminal.reporter import ConsoleReporter
from imgindex.model import Index
from imgrepo.publishing.request import Question
from imgrepo.services import Services
from imgrepo.webroot.entries import differences
from imgrepo.webroot.journal import Change, changes

PROGRAM = "pybuilder-repo"
_Target = TypeVar("_Target")
_Result = TypeVar("_Result")


@dataclass
class Publisher:
    """The object on click's context; options such as --quiet change it before the command runs."""

    services: Services
    reporter: ConsoleReporter
    verbose: bool = False
    trace: bool = False
    as_json: bool = False

    def keep_output_clean(self) -> None:
        """Send steps and notices to standard error: standard output is for the result."""
        self.reporter.out = sys.stderr

    def emit_edit(self, before: Index, after: Index, **further: object) -> None:
        """Print what a command changed in an index."""
        changed = [change_data(change) for change in changes(before, after)]
        self.emit({"version": 1, **further, "changed": changed}, differences(before, after))

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


def change_data(change: Change) -> dict[str, object]:
    """Return a changed template as it stands in JSON."""
    return {
        "name": change.name,
        "arch": change.arch,
        "before": change.before,
        "after": change.after,
        "file": change.file or None,
    }


def iso(moment: datetime | None) -> str | None:
    """Return a time as it stands in JSON."""
    return None if moment is None else moment.astimezone(UTC).isoformat()


def each(
    targets: Sequence[_Target],
    action: Callable[[_Target], _Result],
    on_error: Callable[[_Target, PybuilderError], _Result],
) -> list[_Result]:
    """Run an action on each target; an error does not stop the others unless ``on_error`` raises it (T24)."""
    results = []
    for target in targets:
        try:
            results.append(action(target))
        except PybuilderError as error:
            results.append(on_error(target, error))
    return results


def ask(question: Question) -> str:
    """Ask at the terminal until the answer fits; a UsageError when standard input has ended."""
    while True:
        try:
            answer = click.prompt(question.text, default=question.default, err=True, type=str)
        except click.Abort as error:
            raise UsageError(
                "standard input ended before all questions were answered",
                hint="without --interactive nothing is asked",
            ) from error
        answer = str(answer).strip()
        if question.pattern.fullmatch(answer) or (question.optional and answer == "-"):
            return answer
        click.echo(f"{answer!r} is not allowed here", err=True)


def examples(*commands: str) -> str:
    """Return the end of a command's ``--help``: command lines to copy, as they are."""
    title = "Example:" if len(commands) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {line}" for command in commands for line in command.split("\n"))])
