"""virt-builder's way of writing options, turned into click's (``docs/compatibility.md``), and verbs.

Its parser is ``getopt_long_only``: a long option may have one dash or two, and
may be shortened to any unambiguous prefix; an exact name beats prefixes. What
is unambiguous in a release of virt-builder means the same here, although more
options begin like that.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import click
from click.shell_completion import CompletionItem

from imgbuilder.cli.program import VerbGroup
from imgbuilder.errors import UsageError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ALL_TOOLS = _names(
    "color colors colour colours debug-gc help long-options quiet short-options verbose version wrap"
)
_GONE = _names("sm-attach sm-credentials sm-register sm-remove sm-unregister")
_SINCE = _names(
    "chown inject-blnsvr inject-qemu-ga inject-virtio-win no-selinux-relabel selinux-relabel-exclude tar-in"
)
_CUSTOMIZING = _ALL_TOOLS.union(
    _GONE,
    _names(
        "append-line attach attach-format chmod commands-from-file copy copy-in delete edit firstboot "
        "firstboot-command firstboot-install format hostname install link memsize mkdir move network "
        "no-logfile no-network password password-crypto root-password run run-command scrub selinux-relabel "
        "smp ssh-inject timezone touch truncate truncate-recursive uninstall update upload write"
    ),
)
_BUILDER = _CUSTOMIZING | _names(
    "arch cache cache-all-templates check-signature check-signatures curl delete-cache fingerprint "
    "get-kernel gpg list list-format long machine-readable no-cache no-check-signature "
    "no-check-signatures no-delete-on-failure no-sync no-warn-if-partition notes output print-cache size "
    "source"
)
_CUSTOMIZE = _CUSTOMIZING | _names("add connect domain dry-run dryrun echo-keys key keys-from-stdin")

VIRT_BUILDER = (_BUILDER, _BUILDER - _GONE | _SINCE)
"""The options of virt-builder, of 1.48 and of 1.57."""
VIRT_CUSTOMIZE = (_CUSTOMIZE, _CUSTOMIZE - _GONE | _SINCE)
"""The options of virt-customize, of 1.48 and of 1.57."""
VIRT_BUILDER_REPOSITORY = (_ALL_TOOLS | _names("gpg gpg-key interactive machine-readable no-compression"),)
"""The options of virt-builder-repository."""

OPTIONAL_VALUES = frozenset({"machine-readable"})
"""Options that have a value only with an equals sign."""


OTHER = "Other"
"""Section of the help for options that name none."""


_WIDE = 76
"""Columns that the longest names of an option need."""


class Option(click.Option):
    """An option with a section of the help, and with proposals for its value in shell completion."""

    def __init__(self, section: str, *names: str, **attributes: Any) -> None:
        super().__init__(names, **attributes)
        self.section = section

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return names and help; of many names that would not fit into a line, the first ones."""
        record = super().get_help_record(ctx)
        if record is None or len(record[0]) < _WIDE or not self.secondary_opts:
            return record
        return f"{self.opts[0]} / {self.secondary_opts[0]}", record[1]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Propose what the metavar names: words as in ``raw|qcow2``, a file or a folder."""
        return super().shell_complete(ctx, incomplete) or proposals(self.metavar or "", incomplete)


def proposals(metavar: str, incomplete: str) -> list[CompletionItem]:
    """Return the values that a metavar suggests to a shell."""
    if re.fullmatch(r"[a-z0-9]+(\|[a-z0-9]+)+", metavar):
        return [CompletionItem(word) for word in metavar.split("|") if word.startswith(incomplete)]
    for kind, words in (("file", "FILE|IMAGE|SCRIPT|LOCALPATH|TARFILE|USER-DATA"), ("dir", "DIR")):
        if re.match(rf"\[?({words})\b", metavar):
            return [CompletionItem(incomplete, type=kind)]
    return []


class _Formatter(click.HelpFormatter):
    """Writes help for terminals of 40 columns and more; click's own takes at least 50."""

    def __init__(
        self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None
    ) -> None:
        columns = min(shutil.get_terminal_size().columns, max_width or 80)
        super().__init__(indent_increment, width or max(columns - 2, 30), max_width)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write names and texts side by side, or each text below its name where that leaves too little."""
        if self.width >= _WIDE:
            super().write_dl(list(rows), col_max, col_spacing)
            return
        for name, text in rows:
            self.write_text(name)
            with self.indentation(), self.indentation():
                self.write_text(text)


class _Context(click.Context):
    formatter_class = _Formatter


class GetoptCommand(click.Command):
    """A command that reads options as a program of virt-builder's family does.

    ``theirs`` are the names of that program's options, release by release.
    """

    context_class = _Context

    def __init__(self, *args: Any, theirs: Sequence[Collection[str]] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._theirs = theirs

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line."""
        return super().parse_args(ctx, self.normalised(ctx, args))

    def options(self, ctx: click.Context) -> list[click.Option]:
        """Return the options of the command."""
        return [param for param in self.get_params(ctx) if isinstance(param, click.Option)]

    def normalised(
        self, ctx: click.Context, args: list[str], options: Sequence[click.Option] | None = None
    ) -> list[str]:
        """Return the command line with the full names of all long options, by default the command's."""
        longs: dict[str, bool] = {}
        shorts = set()
        for param in self.options(ctx) if options is None else options:
            for name in [*param.opts, *param.secondary_opts]:
                if name.startswith("--"):
                    longs[name.removeprefix("--")] = _takes_value(param)
                else:
                    shorts.add(name[1])
        try:
            return spell_out(args, longs, shorts, OPTIONAL_VALUES & longs.keys(), self._theirs)
        except UsageError:
            if ctx.resilient_parsing:  # a shell asks for completion in the middle of a word
                return args
            raise


class GetoptGroup(GetoptCommand, VerbGroup):
    """A group of verbs. The options of a verb may stand before it: ``pybuilder -v cache --offline list``."""

    allow_interspersed_args = True

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.get_short_help_str(62)) for name, verb in self.commands.items()])

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the help."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, or leave it to the verb."""
        at = self._verb_at(ctx, args)
        if at is None:
            return super().parse_args(ctx, args)
        click.Command.parse_args(self, ctx, ["--"])  # all defaults
        # What Group.parse_args() sets; before click 8.2 its name had no underscore.
        setattr(ctx, "protected_args" if "protected_args" in vars(ctx) else "_protected_args", [args[at]])
        ctx.args = [*args[:at], *args[at + 1 :]]
        return ctx.args

    def _verb_at(self, ctx: click.Context, args: list[str]) -> int | None:
        """Return the place of the first word that is not an option nor a value of one, if it is a verb."""
        places = [at for at, word in enumerate(args) if word in self.commands]
        if not places:
            return None  # a build: the options of all verbs take their time
        options = [*self.options(ctx), *_options_below(self, ctx)]
        valued = {
            name[1]
            for param in options
            if _takes_value(param)
            for name in param.opts
            if not name.startswith("--")
        }
        for at in places:
            words = self.normalised(ctx, args[: at + 1], options)
            first = _first_operand(words, valued)
            if first is not None:
                return at if first == len(words) - 1 else None
        return None


def _options_below(group: click.Group, ctx: click.Context) -> list[click.Option]:
    found: list[click.Option] = []
    for command in group.commands.values():
        if isinstance(command, GetoptCommand):
            found += command.options(ctx)
        if isinstance(command, GetoptGroup):
            found += _options_below(command, ctx)
    return found


def _takes_value(param: click.Option) -> bool:
    return not (param.is_flag or param.count)


def _first_operand(words: Sequence[str], valued: set[str]) -> int | None:
    """Return the place of the first word that is not an option; ``valued`` are the letters with a value."""
    rest = iter(enumerate(words))
    for at, word in rest:
        if word == "--":
            return None
        if word == "-" or not word.startswith("-"):
            return at
        if not word.startswith("--") and word[-1] in valued and not valued.intersection(word[1:-1]):
            next(rest, None)
    return None


_STANDARD: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--color", "--colors", "--colour", "--colours", "colour"),
        {"is_flag": True, "help": "Colour messages even where they do not go to a terminal."},
    ),
    (("--wrap",), {"is_flag": True, "help": "Wrap messages at 76 columns."}),
    (
        ("--debug-gc",),
        {
            "is_flag": True,
            "expose_value": False,
            "help": "Accepted for virt-builder's sake; it changes nothing.",
        },
    ),
)


def standard_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Declare what all programs of virt-builder's family have: for use as a decorator."""
    for names, attributes in (*_STANDARD, *_NAMES_OPTIONS):
        command = click.option(*names, **attributes)(command)
    return command


@cache
def standard() -> tuple[Option, ...]:
    """Return the same options, for the parameters of commands."""
    return tuple(Option(OTHER, *names, **attributes) for names, attributes in (*_STANDARD, *_NAMES_OPTIONS))


def version_option(version: str) -> Option:
    """Return the option that prints a program's name and version."""

    def show(ctx: click.Context, _param: click.Parameter, wanted: object) -> None:
        if wanted and not ctx.resilient_parsing:
            click.echo(f"{ctx.find_root().info_name} {version}")
            ctx.exit()

    return Option(
        OTHER,
        "-V",
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the version.",
    )


def _names_option(name: str, dashes: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Declare an option that prints the names of all others, a line each, as virt-builder's do."""

    def show(ctx: click.Context, _param: click.Parameter, wanted: object) -> None:
        if not wanted or ctx.resilient_parsing:
            return
        names = {
            name
            for param in ctx.command.get_params(ctx)
            if isinstance(param, click.Option) and param.name not in {"short_options", "long_options"}
            for name in [*param.opts, *param.secondary_opts]
        }
        shown = [name for name in names if name.startswith("--") == (dashes == "--")]
        click.echo("\n".join(sorted(shown, key=str.lower)))
        ctx.exit()

    attributes = {
        "is_flag": True, "is_eager": True, "expose_value": False, "hidden": True, "callback": show,
    }  # fmt: skip
    return (name,), attributes


_NAMES_OPTIONS = (_names_option("--short-options", "-"), _names_option("--long-options", "--"))


def spell_out(
    arguments: Sequence[str],
    options: Mapping[str, bool],
    shorts: Collection[str],
    optional: Collection[str] = (),
    preferred: Sequence[Collection[str]] = (),
) -> list[str]:
    """Rewrite arguments so that every long option has two dashes and its full name.

    Args:
        arguments: The command line without the program's name.
        options: Long names without dashes, and whether each takes a value.
        shorts: Letters of short options.
        optional: Long names whose value may be left out; it is never the next word.
        preferred: Sets of long names: what fits one name of a set means that, whatever others it fits.
    """
    result: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            result += [word, *rest]
            break
        name = _long_name(word, options, shorts, preferred)
        if name is None:
            result.append(word)
            continue
        _, equals, value = word.partition("=")
        result.append(f"--{name}{equals}{value}")
        if name in optional:
            result[-1] = f"--{name}={value}"
        elif options[name] and not equals:
            # The value may look like an option, as in --append-line=... '-x'; it belongs to this one.
            following = next(rest, None)
            if following is not None:
                result[-1] = f"--{name}={following}"
    return result


def _long_name(
    word: str, options: Mapping[str, bool], shorts: Collection[str], preferred: Sequence[Collection[str]]
) -> str | None:
    """Return the full name of the long option that a word means; None when it means none."""
    if not word.startswith("-") or word in {"-", "--"}:
        return None
    if word == "-h" and "h" not in shorts and "help" in options:
        return "help"  # virt-builder calls it ambiguous
    typed = word.lstrip("-").partition("=")[0]
    if not word.startswith("--"):
        if typed in options and len(typed) > 1:
            return typed
        if typed[:1] in shorts:
            return None
    elif typed in options:
        return typed
    return _completed(word, typed, options, preferred)


def _completed(
    word: str, typed: str, options: Collection[str], preferred: Sequence[Collection[str]]
) -> str | None:
    """Return the only name that begins with what was typed; None when there is none."""
    for names in (*preferred, options):
        matches = sorted(name for name in names if name.startswith(typed))
        if len(matches) == 1 and matches[0] in options:
            return matches[0]
    if matches:
        shown = ", ".join(f"--{name}" for name in matches)
        raise UsageError(f"option {word!r} is ambiguous", hint=f"it could be {shown}")
    return None
