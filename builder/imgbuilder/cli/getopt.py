"""virt-builder's way of writing options, turned into click's (``virt-builder.md`` 0.1).

Its parser is ``getopt_long_only``: a long option may have one dash or two, and
may be shortened to any unambiguous prefix; an exact name beats prefixes. What
is unambiguous in a release of virt-builder means the same here, although more
options begin like that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import click

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


class GetoptCommand(click.Command):
    """A command that reads options as a program of virt-builder's family does.

    Args:
        theirs: The names of that program's options, release by release.
    """

    def __init__(self, *args: Any, theirs: Sequence[Collection[str]] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._theirs = theirs

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line."""
        return super().parse_args(ctx, self.normalised(ctx, args))

    def normalised(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Return the command line with the full names of all long options."""
        named = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        longs = {
            name.removeprefix("--"): not (param.is_flag or param.count)
            for param in named
            for name in [*param.opts, *param.secondary_opts]
            if name.startswith("--")
        }
        shorts = {name[1] for param in named for name in param.opts if not name.startswith("--")}
        return normalise(args, longs, shorts, OPTIONAL_VALUES & longs.keys(), self._theirs)


def standard_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Declare what all programs of virt-builder's family have: for use as a decorator."""
    for option in (
        click.option(
            "--color", "--colors", "--colour", "--colours", "colour", is_flag=True,
            help="Colour messages even where they do not go to a terminal.",
        ),
        click.option("--wrap", is_flag=True, help="Wrap messages at 76 columns."),
        click.option(
            "--debug-gc", is_flag=True, expose_value=False,
            help="Accepted for virt-builder's sake; it changes nothing.",
        ),
        _names_option("--short-options", "-"),
        _names_option("--long-options", "--"),
    ):  # fmt: skip
        command = option(command)
    return command


def _names_option(name: str, dashes: str) -> Callable[..., Any]:
    """Make an option that prints the names of all others, a line each, for completion in shells."""

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

    return click.option(name, is_flag=True, is_eager=True, expose_value=False, hidden=True, callback=show)


def normalise(
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

    Returns:
        The same arguments for a parser that knows ``--name`` only.

    Raises:
        UsageError: A prefix is ambiguous.
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
    typed = word.lstrip("-").partition("=")[0]
    double = word.startswith("--")
    if typed in options and (double or len(typed) > 1):
        return typed
    if not double and typed[:1] in shorts:
        return None
    matches = sorted(name for name in options if name.startswith(typed))
    for names in preferred:
        known = [name for name in matches if name in names]
        if len([name for name in names if name.startswith(typed)]) == len(known) == 1:
            return known[0]
    if len(matches) == 1:
        return matches[0]
    if matches:
        shown = ", ".join(f"--{name}" for name in matches)
        raise UsageError(f"option {word!r} is ambiguous", hint=f"it could be {shown}")
    return None
