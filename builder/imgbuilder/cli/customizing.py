"""Customization options for click: made from the registry, their order kept.

click gathers the values of a repeated option and forgets how options of
different names followed each other; a guest must be changed in the order that
the user wrote. So the parser is asked for that order before click uses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgbuilder.cli.getopt import normalise
from imgbuilder.customize.commands_file import read_commands_file
from imgbuilder.customize.registry import all_operations, parse_operation
from imgbuilder.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgbuilder.customize.operation import Operation

COMMANDS_FILE = "commands-from-file"
_KEY = "imgbuilder.operations"
ATTACHED = "imgbuilder.attached"
"""Where the context keeps the disks of ``--attach``, each with the format named last before it."""
_ORDER = "imgbuilder.order"


def customization_options() -> list[click.Option]:
    """Make one click option per operation of the registry."""
    options: list[click.Option] = []
    for spec in all_operations().values():
        flag: dict[str, Any] = {"is_flag": True} if not spec.metavar else {"metavar": spec.metavar}
        options.append(
            _Customization(
                [f"--{spec.keyword}"],
                multiple=not flag.get("is_flag"),
                help=spec.help,
                expose_value=False,
                **flag,
            )
        )
    options.append(
        _Customization(
            [f"--{COMMANDS_FILE}"], multiple=True, metavar="FILE", expose_value=False,
            help="Read customizations from FILE, one a line: option name without dashes, and argument.",
        )
    )  # fmt: skip
    return options


class _Customization(click.Option):
    """An option whose values are used in the order of the command line."""


class VirtBuilderCommand(click.Command):
    """A command that reads options as virt-builder does, and keeps the order of customizations."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line."""
        named = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        longs = {
            name.removeprefix("--"): not (param.is_flag or param.count)
            for param in named
            for name in [*param.opts, *param.secondary_opts]
            if name.startswith("--")
        }
        shorts = {name[1] for param in named for name in param.opts if not name.startswith("--")}
        words = normalise(args, longs, shorts)
        values, _, order = self.make_parser(ctx).parse_args(args=list(words))
        ctx.meta[ATTACHED] = list(_attached(values, order))
        given = list(_in_order(values, order))
        ctx.meta[_KEY] = [(name, value) for name, value, ours in given if ours]
        ctx.meta[_ORDER] = [(name, value) for name, value, _ours in given]
        return super().parse_args(ctx, words)


class SectionedCommand(VirtBuilderCommand):
    """The command, with the customizations in a section of their own in the help."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in two sections."""
        ours: list[tuple[str, str]] = []
        operations: list[tuple[str, str]] = []
        names = {option.opts[0] for option in customization_options()}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                (operations if param.opts[0] in names else ours).append(record)
        with formatter.section("Options"):
            formatter.write_dl(ours)
        with formatter.section("Customizations, in the order given"):
            formatter.write_dl(operations)


def integer(_ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read a number as C's strtol with base 0 does (``virt-builder.md`` 0.1)."""
    if value is None:
        return None
    try:
        octal = len(value) > 1 and value[0] == "0" and value[1:].isdigit()
        number = int(value, 8 if octal else 0)
    except ValueError:
        number = -1
    if not 0 < number < 2**30:
        raise UsageError(f"{param.opts[-1]} {value!r} is not a positive whole number")
    return number


def given_operations(ctx: click.Context) -> tuple[Operation, ...]:
    """Return the operations of the command line, in the user's order.

    Raises:
        UsageError: An argument does not fit its operation, or a commands file cannot be read.
    """
    operations: list[Operation] = []
    for keyword, text in ctx.meta[_KEY]:
        if keyword == COMMANDS_FILE:
            operations += read_commands_file(Path(text))
        else:
            operations.append(parse_operation(keyword, text))
    return tuple(operations)


def refuse_operations(ctx: click.Context, mode: str) -> None:
    """Refuse customizations where nothing is built.

    Raises:
        UsageError: There is one.
    """
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
    """Return repeatable options with their values, in the order of the command line.

    Args:
        ctx: The parsed command line.
        names: First names of the options, without dashes.
    """
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
