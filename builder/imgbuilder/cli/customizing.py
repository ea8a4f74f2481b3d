"""Customization on the command line: options for click made from the registry, and the shell for failures.

click gathers the values of a repeated option and forgets how options of
different names followed each other; a guest must be changed in the order that
the user wrote. So the parser is asked for that order before click uses it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from imgbuilder.cli.getopt import OTHER, GetoptCommand, Option
from imgbuilder.customize.commands import preamble_for_shell
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.failure import GuestShell
from imgbuilder.customize.operation import Operation
from imgbuilder.customize.registry import Written, all_operations, written_argument, written_commands
from imgbuilder.customize.syspreptasks import TASKS
from imgbuilder.errors import GuestCallError, OperationError, UsageError
from imgbuilder.guests.ports import Guest
from imgbuilder.host.text import printable
from imgbuilder.terminal.reporter import ConsoleReporter

if TYPE_CHECKING:
    from imgbuilder.recipe.recipe import Recipe  # few command lines have one


CUSTOMIZE = "Customize"
"""Section of the help."""
COMMANDS_FILE = "commands-from-file"
RECIPE = "recipe"
_KEY = "imgbuilder.operations"
ATTACHED = "imgbuilder.attached"
"""Key in the context of the disks of ``--attach``, each with the format named last before it."""
NAMES = "imgbuilder.names"
"""Key in the context of the names of all options given, in the order of the command line."""
_ORDER = "imgbuilder.order"
_OPERATIONS = "imgbuilder.made"
_READ = "imgbuilder.recipe"


_FLAG: dict[str, Any] = {"is_flag": True}
_NOT_OURS: dict[str, dict[str, Any]] = {
    "sm-attach": {}, "sm-credentials": {}, "sm-register": _FLAG, "sm-remove": _FLAG, "sm-unregister": _FLAG,
}  # fmt: skip
"""Customizations of virt-builder that are named, not done."""


def _refuse(_ctx: click.Context, param: click.Parameter, value: object) -> None:
    if not value:
        return
    raise UsageError(
        f"{param.opts[0]} is not an option of pybuilder, and no longer one of virt-builder",
        hint="use the guest's own program: --run-command 'subscription-manager ...'",
    )


@cache
def customization_options() -> tuple[click.Option, ...]:
    """Make one click option per operation of the registry; all commands share them."""
    options: list[click.Option] = []
    for spec in all_operations().values():
        flag: dict[str, Any] = {"is_flag": True} if not spec.metavar else {"metavar": spec.metavar}
        options.append(
            _Customization(
                CUSTOMIZE,
                f"--{spec.keyword}",
                multiple=not flag.get("is_flag"),
                help=f"{spec.help}.",
                expose_value=False,
                **flag,
            )
        )
    options.append(
        _Customization(
            CUSTOMIZE, f"--{COMMANDS_FILE}", multiple=True, metavar="FILE", expose_value=False,
            help="Read customizations from FILE, one a line: option name without dashes, and argument.",
        )
    )  # fmt: skip
    options.append(
        _Customization(
            CUSTOMIZE, f"--{RECIPE}", multiple=True, metavar="FILE.toml", expose_value=False,
            help="Use the customizations of a recipe and, in builds, its template and settings.",
        )
    )  # fmt: skip
    options += [
        click.Option([f"--{name}"], hidden=True, expose_value=False, callback=_refuse, **kind)
        for name, kind in _NOT_OURS.items()
    ]
    options.append(
        Option(
            CUSTOMIZE, "--set", multiple=True, metavar="NAME=VALUE", expose_value=False,
            help="Give a variable of the recipe a value.",
        )
    )  # fmt: skip
    return tuple(options)


_LISTS = {"sysprep": ("all", *TASKS)}
"""Words of the options that take several, separated by commas."""


class _Customization(Option):
    """An option whose values are used in the order of the command line."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Propose the words of a list, one after the other, or what other options propose."""
        before, comma, word = incomplete.rpartition(",")
        words = [known for known in _LISTS.get(str(self.name), ()) if known.startswith(word)]
        found = [CompletionItem(f"{before}{comma}{known}") for known in words]
        return found or super().shell_complete(ctx, incomplete)


class VirtBuilderCommand(GetoptCommand):
    """A command that reads options as virt-builder does, and keeps the order of customizations."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line."""
        words = self.normalised(ctx, args)
        values, _, order = self.make_parser(ctx).parse_args(args=list(words))
        ctx.meta[ATTACHED] = list(_attached(values, order))
        ctx.meta[NAMES] = [param.name for param in order if isinstance(param, click.Option)]
        given = list(_in_order(values, order))
        ctx.meta[_KEY] = [(name, value) for name, value, ours in given if ours]
        ctx.meta[_ORDER] = [(name, value) for name, value, _ours in given]
        return super().parse_args(ctx, words)


_FIRST_SECTIONS = ("Build", CUSTOMIZE)


class SectionedCommand(VirtBuilderCommand):
    """A command whose help has sections, and the most used options first."""

    def __init__(self, *args: Any, most_used: Sequence[str] = (), **attributes: Any) -> None:
        attributes.setdefault("context_settings", {"help_option_names": ["--help"], "max_content_width": 80})
        super().__init__(*args, **attributes)
        self._most_used = most_used

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs and the options, section by section."""
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        first: dict[str | None, tuple[str, str]] = {}
        sections: dict[str, list[tuple[str, str]]] = {section: [] for section in _FIRST_SECTIONS}
        sections |= {"Sources": [], "Cache": [], "Appliance": [], OTHER: []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is None:
                continue
            if param.name in self._most_used:
                first[param.name] = record
            else:
                sections[getattr(param, "section", OTHER)].append(record)
        if first:
            with formatter.section("Most used"):
                formatter.write_dl([first[name] for name in self._most_used if name in first])
        for section, records in sections.items():
            if records:
                with formatter.section(section):
                    formatter.write_dl(records)


def given_operations(ctx: click.Context) -> tuple[Operation, ...]:
    """Return the operations of the command line, in the user's order.

    Files that they name are read once: they may be pipes.
    """
    if _OPERATIONS not in ctx.meta:
        ctx.meta[_OPERATIONS] = tuple(written.make() for written in written_operations(ctx))
    operations: tuple[Operation, ...] = ctx.meta[_OPERATIONS]
    return operations


def written_operations(ctx: click.Context) -> tuple[Written, ...]:
    """Return the same as they are written; the local files that they name are not read."""
    operations: list[Written] = []
    for keyword, text in ctx.meta[_KEY]:
        if keyword == COMMANDS_FILE:
            operations += written_commands(Path(text))
        elif keyword == RECIPE:
            operations += given_recipe(ctx).operations
        else:
            operations.append(written_argument(keyword, text))
    return tuple(operations)


def has_recipe(ctx: click.Context) -> bool:
    """Return whether the command line has ``--recipe``, or ``--set``, which then is a mistake."""
    known = any(param.name == RECIPE for param in ctx.command.params)
    return known and bool(given_options(ctx, RECIPE, "set"))


def given_recipe(ctx: click.Context) -> Recipe:
    """Return the recipe of the command line, read once; an empty one when it names none."""
    if _READ not in ctx.meta:
        from imgbuilder.recipe.reader import read_recipe
        from imgbuilder.recipe.recipe import Recipe  # late: few command lines have one
        from imgbuilder.recipe.variables import parse_settings

        paths = [text for keyword, text in ctx.meta[_KEY] if keyword == RECIPE]
        values = parse_settings([text for _name, text in given_options(ctx, "set")])
        if len(paths) > 1:
            raise UsageError(
                "--recipe is given twice", hint=f'let one include the other: include = ["{paths[0]}"]'
            )
        if values and not paths:
            raise UsageError("--set gives a value to a variable of a recipe", hint="add --recipe FILE.toml")
        ctx.meta[_READ] = read_recipe(Path(paths[0]), values) if paths else Recipe()
    recipe: Recipe = ctx.meta[_READ]
    return recipe


def refuse_operations(ctx: click.Context, mode: str) -> None:
    """Refuse customizations where nothing is built."""
    if ctx.meta[_KEY]:
        raise UsageError(f"--{ctx.meta[_KEY][0][0]} has no meaning together with {mode}")


def _attached(values: dict[str, Any], order: list[click.Parameter]) -> Iterator[tuple[str, str]]:
    kind = "auto"
    formats, disks = (iter(values.get(name) or ()) for name in ("attach_format", "attach"))
    for param in order:
        if param.name == "attach_format":
            kind = next(formats)
        elif param.name == "attach":
            yield next(disks), kind


def given_options(ctx: click.Context, *names: str) -> list[tuple[str, str]]:
    """Return repeatable options with their values, in the order of the command line."""
    return [(name, value) for name, value in ctx.meta[_ORDER] if name in names]


def _in_order(values: dict[str, Any], order: list[click.Parameter]) -> Iterator[tuple[str, str, bool]]:
    """Yield name, value and whether it is a customization, for these and for all that can be repeated."""
    queues: dict[str, Iterator[str]] = {}
    for param in order:
        ours = isinstance(param, _Customization)
        if not isinstance(param, click.Option) or not (ours or param.multiple):
            continue
        assert param.name is not None
        name = max(param.opts, key=len).removeprefix("--")
        if param.is_flag:
            yield name, "", ours
        else:
            yield name, next(queues.setdefault(param.name, iter(values[param.name]))), ours


_MARK = "@pybuilder-folder@"
_WELCOME = """\
A shell in the guest, as the failed operation left it. Each line runs on its own, without input.
  exit    end, and remove the image
  keep    end, and keep the image as it is now"""


def shell_with(console: ConsoleReporter) -> GuestShell:
    """Return the shell that ``--on-error=shell`` opens in a guest whose customization failed.

    libguestfs carries no terminal into the guest, so it works line by line: each line runs in a new shell, in
    the folder where the last one ended, and its output is shown when it has ended.
    """

    def shell(guest: Guest, context: GuestContext, error: OperationError) -> bool:
        console.close()
        click.echo(printable(error.message), err=True)
        for line in error.log_tail.split("\n"):
            click.echo(printable(line), err=True)
        click.echo(_WELCOME, err=True)
        return _shell_loop(guest, context)

    return shell


def _shell_loop(guest: Guest, context: GuestContext) -> bool:
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
