"""Options that several commands share; each group of them hands over one object."""

from __future__ import annotations

import enum
import functools
import inspect
import shlex
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import UsageError
from imgbuilder.fetch.urls import Address
from imgrepo.catalogue.text import link
from imgrepo.cli.publisher import Publisher
from imgrepo.review.results import Requirement
from imgrepo.services import Signing

PATH = click.Path(path_type=Path)


class NumberType(click.IntRange):
    """A whole number within bounds; click would name it "integer range" in errors."""

    name = "integer"


class DayType(click.DateTime):
    """A day, such as 2027-01-31."""

    def __init__(self) -> None:
        super().__init__(formats=["%Y-%m-%d"])

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read the day; an error shows how to write it."""
        try:
            day: datetime = super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a day: write it as 2027-01-31", param, ctx)
        return day


_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def enum_option(
    kind: type[enum.Enum], *names: str, text: str, default: enum.Enum | None = None, multiple: bool = False
) -> _Decorator:
    """Return an option whose value is a member of an enumeration, by the member's value."""

    def member(_ctx: click.Context, _param: click.Parameter, given: str | tuple[str, ...] | None) -> object:
        if isinstance(given, tuple):
            return tuple(map(kind, given))
        return None if given is None else kind(given)

    return click.option(
        *names,
        type=click.Choice([one.value for one in kind]),
        callback=member,
        default=None if default is None else default.value,
        show_default=default is not None,
        multiple=multiple,
        help=text,
    )


def option_group(parameter: str, make: Callable[..., object], *options: _Decorator) -> _Decorator:
    """Return a decorator that adds options, and hands the command one object that ``make`` makes of them.

    The parameters of ``make`` are the names of the options. The command gets the object as ``parameter``.
    """
    names = tuple(inspect.signature(make).parameters)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(*arguments: object, **values: object) -> object:
            values[parameter] = make(**{name: values.pop(name) for name in names})
            return function(*arguments, **values)

        decorated: Callable[..., Any] = command
        for add in reversed(options):
            decorated = add(decorated)
        return decorated

    return decorate


def _flag(*names: str, apply: Callable[[Publisher], None], text: str) -> _Decorator:
    """Return an option that changes the ``Publisher``, and is not a parameter of the command."""

    def store(ctx: click.Context, _param: click.Parameter, given: bool) -> None:
        publisher = ctx.find_object(Publisher)
        if given and publisher is not None:
            apply(publisher)

    return click.option(*names, is_flag=True, expose_value=False, callback=store, help=text)


def _be_quiet(publisher: Publisher) -> None:
    publisher.reporter.quiet = True


def _be_verbose(publisher: Publisher) -> None:
    publisher.reporter.verbose = publisher.verbose = True


def _trace(publisher: Publisher) -> None:
    publisher.reporter.verbose = publisher.trace = True


def _print_json(publisher: Publisher) -> None:
    publisher.as_json = publisher.reporter.quiet = True
    publisher.keep_output_clean()


def quiet_option(text: str = "Show no progress.") -> _Decorator:
    """Return the option -q."""
    return _flag("-q", "--quiet", apply=_be_quiet, text=text)


def verbose_option(text: str = "Show the appliance's messages and other details.") -> _Decorator:
    """Return the option -v."""
    return _flag("-v", "--verbose", apply=_be_verbose, text=text)


trace_option = _flag("-x", apply=_trace, text="Show every libguestfs call.")
json_option = _flag("--json", apply=_print_json, text="Print JSON.")

reviewers_option = click.option(
    "--reviewers", type=PATH, metavar="FILE", help="Public keys of the reviewers whose approvals count."
)


def require_option(text: str) -> _Decorator:
    """Return the option that names what ``publish`` requires; ``text`` explains it."""
    return enum_option(Requirement, "--require", "required", text=f"{text}; repeatable.", multiple=True)


def days_option(name: str, text: str, default: int | None = None) -> _Decorator:
    """Return an option whose value is a number of days."""
    return click.option(
        name,
        type=NumberType(0, 3650),
        default=default,
        show_default=default is not None,
        metavar="DAYS",
        help=text,
    )


def grace_option(text: str = "The grace time of --prune.") -> _Decorator:
    """Return the option that says how long a file stays after the index no longer names it."""
    return days_option("--grace", text, default=7)


class Cleanup(TypedDict):
    """Fields of the requests that delete old files."""

    prune: bool
    grace: timedelta


def cleanup_options(text: str) -> _Decorator:
    """Return the options --prune and --grace; ``text`` explains the first."""

    def make(*, prune: bool, grace: int) -> Cleanup:
        return Cleanup(prune=prune, grace=timedelta(days=grace))

    return option_group("cleanup", make, click.option("--prune", is_flag=True, help=text), grace_option())


def _appliance(*, memsize: int | None, no_instant: bool, cache: Path | None) -> ApplianceOptions:
    publisher = click.get_current_context().find_object(Publisher)
    return ApplianceOptions(
        memsize=memsize,
        verbose=publisher is not None and publisher.verbose,
        trace=publisher is not None and publisher.trace,
        instant=not no_instant,
        cache=cache,
    )


appliance_options = option_group(
    "appliance",
    _appliance,
    click.option(
        "-m", "--memsize", type=NumberType(256, 1 << 20), metavar="MB", help="Memory of the appliance."
    ),
    click.option("--no-instant", is_flag=True, help="Boot the appliance instead of resuming a saved one."),
    click.option("--cache", type=PATH, metavar="DIR", help="Keep the saved appliance in this cache folder."),
)


base_url_option = click.option(
    "--base-url",
    default="",
    metavar="URL",
    help="URL under which WEBROOT is served, for the commands to copy and for the feed.",
)


def check_base_url(text: str) -> str:
    """Return the URL of ``--base-url`` with a slash at its end, or an empty text if none was given."""
    address = link(f"{text.rstrip('/')}/") if text else ""
    if address is None or "?" in address or "#" in address:
        raise UsageError(f"--base-url {Address(text)}: give a URL that begins with http:// or https://")
    if Address(address).has_secret:
        raise UsageError("--base-url: everyone would see the password", hint="leave it out")
    return address


gpg_option = click.option(
    "--gpg",
    default="gpg",
    metavar="CMD",
    help="The gpg to use, with options if need be: --gpg 'gpg --homedir DIR' [default: gpg].",
)
_expire_option = days_option(
    "--expire", "Let the signature expire after so many days, 0 for never [default: as before]."
)


def make_signing(*, keys: tuple[str, ...], expire: int | None, gpg: str) -> Signing:
    """Return how to sign, from the values of options; ``expire`` is in days."""
    try:
        command = shlex.split(gpg)
    except ValueError as error:
        raise UsageError(f"--gpg {gpg}: {error}") from error
    if not command:
        raise UsageError("--gpg names no program")
    return Signing(keys[0], keys[1:], None if expire is None else timedelta(days=expire), tuple(command))


signing_options = option_group(
    "signing",
    make_signing,
    click.option(
        "-K",
        "--gpg-key",
        "keys",
        required=True,
        multiple=True,
        metavar="KEY",
        help="Sign with this key; give two while clients move from one to the other.",
    ),
    _expire_option,
    gpg_option,
)
"""The options of commands that sign an index."""

reviewer_options = option_group(
    "signing",
    lambda *, key, gpg: make_signing(keys=(key,), expire=None, gpg=gpg),
    click.option("-K", "--gpg-key", "key", required=True, metavar="KEY", help="Sign with this key."),
    gpg_option,
)
"""The options of a reviewer, who signs an entry."""

rotation_options = option_group(
    "signing",
    lambda *, old, expire, gpg: make_signing(keys=(old,), expire=expire, gpg=gpg),
    click.option("--from", "old", required=True, metavar="OLD", help="The key that clients know."),
    click.option("--to", "new", required=True, metavar="NEW", help="The new signing key."),
    click.option("--finish", is_flag=True, help="From now on only the new key signs."),
    _expire_option,
    gpg_option,
)
"""The options of ``rotate-key``; the old key is that of ``signing``."""
