"""Commands that change a published folder: ``refresh``, ``withdraw``, ``prune`` and so on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import click

from imgbuilder.events import info
from imgbuilder.host.text import printable
from imgbuilder.sizes import human_size
from imgbuilder.terminal.console import ConsoleReporter
from imgindex.lifecycle import Deprecation
from imgindex.model import Index
from imgrepo.cli.options import grace_option, key_options, signing, signing_options, webroot_argument
from imgrepo.services import Services
from imgrepo.webroot import edit, retired
from imgrepo.webroot.entries import differences
from imgrepo.webroot.signing import read_served
from imgrepo.webroot.transaction import open_session

_PROGRAM = "pybuilder-repo"
_NAME = click.argument("name")
_ARCH = click.option("--arch", metavar="ARCH", help="Only the template for this architecture.")


def _edit(
    services: Services,
    webroot: Path,
    keys: tuple[str, ...],
    expire: int | None,
    gpg: str,
    change: Callable[[Index], Index],
) -> None:
    """Change the index, and show what is different."""
    reporter = ConsoleReporter(_PROGRAM)
    edited = edit.edit(webroot, signing(keys, expire, gpg), services, change, reporter)
    for line in differences(edited.before, edited.after):
        click.echo(printable(line))


@click.command(
    "refresh",
    short_help="Sign the index again before it expires.",
    help="Sign the index in WEBROOT again, so that its signature does not expire.",
)
@webroot_argument
@key_options
@click.option(
    "--within",
    type=click.IntRange(0, 3650),
    metavar="DAYS",
    help="Only if the signature expires within so many days: for a daily timer.",
)
@click.pass_obj
def refresh_command(
    services: Services,
    *,
    webroot: Path,
    keys: tuple[str, ...],
    expire: int | None,
    gpg: str,
    within: int | None,
) -> None:
    """Read the options and sign again."""
    period = None if within is None else timedelta(days=within)
    edit.refresh(webroot, signing(keys, expire, gpg), services, ConsoleReporter(_PROGRAM), within=period)


@click.command(
    "withdraw",
    short_help="Take templates out of the index.",
    help="Take the templates NAME out of the index in WEBROOT; publish does not bring them back.\n\n"
    "Their files stay until they are pruned.",
)
@webroot_argument
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_ARCH
@click.option("--undo", is_flag=True, help="Let the next run of publish bring them back.")
@key_options
@click.pass_obj
def withdraw_command(
    services: Services,
    *,
    webroot: Path,
    names: tuple[str, ...],
    arch: str | None,
    undo: bool,
    keys: tuple[str, ...],
    expire: int | None,
    gpg: str,
) -> None:
    """Read the options and withdraw."""
    reporter = ConsoleReporter(_PROGRAM)
    edit.withdraw(webroot, signing(keys, expire, gpg), services, names, arch, reporter, undo=undo)


@click.command(
    "deprecate",
    short_help="Tell users not to use a template any more.",
    help="Tell users of the template NAME in WEBROOT that they should not use it any more.",
)
@webroot_argument
@_NAME
@_ARCH
@click.option(
    "--until",
    type=click.DateTime(formats=["%Y-%m-%d"]),
    metavar="DATE",
    help="The day after which it may be withdrawn, such as 2027-01-31.",
)
@click.option("--use", "replaced_by", metavar="NAME", help="The template to use instead.")
@click.option("--undo", is_flag=True, help="Take it back.")
@key_options
@click.pass_obj
def deprecate_command(
    services: Services,
    *,
    webroot: Path,
    name: str,
    arch: str | None,
    until: datetime | None,
    replaced_by: str | None,
    undo: bool,
    keys: tuple[str, ...],
    expire: int | None,
    gpg: str,
) -> None:
    """Read the options and deprecate."""
    end = None if undo else Deprecation(until.date() if until else None, replaced_by)
    _edit(services, webroot, keys, expire, gpg, lambda index: edit.deprecate(index, name, arch, end))


@click.command(
    "alias",
    short_help="Give a template further names.",
    help="Give the template NAME in WEBROOT further names; they leave other templates.",
)
@webroot_argument
@_NAME
@click.argument("aliases", nargs=-1, required=True, metavar="ALIAS...")
@_ARCH
@click.option("--remove", is_flag=True, help="Take these names from it.")
@key_options
@click.pass_obj
def alias_command(
    services: Services,
    *,
    webroot: Path,
    name: str,
    aliases: tuple[str, ...],
    arch: str | None,
    remove: bool,
    keys: tuple[str, ...],
    expire: int | None,
    gpg: str,
) -> None:
    """Read the options and change the aliases."""
    change = edit.remove_aliases if remove else edit.add_aliases
    _edit(services, webroot, keys, expire, gpg, lambda index: change(index, name, arch, aliases))


@click.command(
    "hide",
    short_help="Leave a template out of listings.",
    help="Leave the template NAME in WEBROOT out of listings; builds go on.",
)
@webroot_argument
@_NAME
@_ARCH
@click.option("--show", is_flag=True, help="Show it again.")
@key_options
@click.pass_obj
def hide_command(
    services: Services,
    *,
    webroot: Path,
    name: str,
    arch: str | None,
    show: bool,
    keys: tuple[str, ...],
    expire: int | None,
    gpg: str,
) -> None:
    """Read the options and hide or show."""
    _edit(services, webroot, keys, expire, gpg, lambda index: edit.hide(index, name, arch, hidden=not show))


@click.command(
    "prune",
    short_help="Delete old files that nothing names.",
    help="Delete files in WEBROOT that were published once and that the index does not name any more.",
)
@webroot_argument
@click.option(
    "--keep",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    metavar="N",
    help="Keep the newest N old files of each image, whatever their age.",
)
@grace_option("Keep all that were named less than so many days ago: clients may still ask for them.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@click.pass_obj
def prune_command(services: Services, *, webroot: Path, keep: int, grace: int, dry_run: bool) -> None:
    """Read the options and delete."""
    reporter = ConsoleReporter(_PROGRAM)
    published, _signed = read_served(webroot, services)
    with open_session(webroot):
        now = services.clock()
        files = retired.served_files(webroot, reporter)
        found = retired.find_retired(files, published.index, published.index, now=now)
        chosen = retired.choose(found, now=now, grace=timedelta(days=grace), keep=keep)
        for item in chosen:
            click.echo(
                f"{item.name}  {human_size(item.size)}  not named since {item.since:%Y-%m-%d %H:%M} UTC"
            )
        if not dry_run:
            deleted = retired.delete(files, found, chosen)
            chosen = tuple(item for item in chosen if item.name in deleted)
    total = human_size(sum(item.size for item in chosen))
    what = "would be deleted" if dry_run else "deleted"
    info(reporter, f"{len(chosen)} files, {total}, {what}; {len(found) - len(chosen)} old files stay")


@click.command(
    "rotate-key",
    short_help="Move from one signing key to the next.",
    help="Move WEBROOT from the signing key OLD to NEW: let both sign, until clients know the new one.\n\n"
    "From then on give both keys to publish and refresh (-K OLD -K NEW). When all clients have the new key "
    "file (index.gpg), end it with --finish, and use -K NEW alone.",
)
@webroot_argument
@click.option("--from", "old", required=True, metavar="OLD", help="The key that clients know.")
@click.option("--to", "new", required=True, metavar="NEW", help="The key that they shall know.")
@click.option("--finish", is_flag=True, help="From now on only the new key signs.")
@signing_options
@click.pass_obj
def rotate_key_command(
    services: Services, *, webroot: Path, old: str, new: str, finish: bool, expire: int | None, gpg: str
) -> None:
    """Read the options and sign with both keys, or with the new one."""
    reporter = ConsoleReporter(_PROGRAM)
    edit.rotate(webroot, old, new, signing((old,), expire, gpg), services, reporter, finish=finish)


COMMANDS = (
    refresh_command,
    withdraw_command,
    deprecate_command,
    alias_command,
    hide_command,
    prune_command,
    rotate_key_command,
)
