"""Commands that change a published folder: ``refresh``, ``withdraw``, ``prune`` and so on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import click

from imgbuilder.errors import UsageError
from imgbuilder.events import info
from imgbuilder.sizes import counted, human_size
from imgindex.fields import Deprecation
from imgindex.model import Index
from imgrepo.cli import options, places
from imgrepo.cli.options import PATH, DayType, NumberType
from imgrepo.cli.publisher import Publisher, examples, iso, pass_publisher
from imgrepo.cli.share import endpoint_option, send
from imgrepo.services import Signing
from imgrepo.sharing.upload import UploadRequest, read_place
from imgrepo.webroot import edit, retired
from imgrepo.webroot.journal import Action
from imgrepo.webroot.signing import read_served
from imgrepo.webroot.transaction import open_session

_NAME = click.argument("name")
_ARCH = click.option("--arch", metavar="ARCH", help="Only the template for this architecture.")


def _edit(
    publisher: Publisher,
    webroot: Path,
    signing: Signing,
    action: Action,
    change: Callable[[Index], Index],
) -> None:
    """Change the index, and show the differences."""
    edited = edit.edit(webroot, signing, publisher.services, change, publisher.reporter, action=action)
    publisher.emit_edit(edited.before, edited.after)


@click.command(
    "refresh",
    short_help="Sign the index again before it expires.",
    help="Sign the index in WEBROOT again, so that its signature does not expire.",
    epilog=examples("pybuilder-repo refresh web --gpg-key you@example.org --within 10"),
)
@places.webroot_argument
@options.signing_options
@options.days_option("--within", "Only if the signature expires within so many days: for a daily timer.")
@options.json_option
@pass_publisher
def refresh_command(publisher: Publisher, *, webroot: Path, signing: Signing, within: int | None) -> None:
    """Sign again."""
    period = None if within is None else timedelta(days=within)
    signed = edit.refresh(webroot, signing, publisher.services, publisher.reporter, within=period)
    publisher.emit({"version": 1, "signed": signed})


@click.command(
    "withdraw",
    short_help="Take templates out of the index.",
    help="Take the templates NAME out of the index in WEBROOT; publish does not bring them back.\n\n"
    "Their files stay until they are pruned; until then --undo puts them back at once. After a leak, --now "
    "deletes them, here and at each TARGET.",
    epilog=examples("pybuilder-repo withdraw web debian-11 --gpg-key you@example.org"),
)
@places.webroot_argument
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_ARCH
@click.option("--undo", is_flag=True, help="Put them back as they were.")
@click.option("--now", is_flag=True, help="Delete their files at once, and upload what is left.")
@click.option(
    "--to", "targets", multiple=True, metavar="TARGET", help="With --now: upload there; see upload."
)
@endpoint_option
@options.signing_options
@options.json_option
@pass_publisher
def withdraw_command(
    publisher: Publisher,
    *,
    webroot: Path,
    names: tuple[str, ...],
    arch: str | None,
    undo: bool,
    now: bool,
    targets: tuple[str, ...],
    endpoint_url: str | None,
    signing: Signing,
) -> None:
    """Withdraw the templates, or put them back."""
    if undo and now:
        raise UsageError("--undo and --now cannot be used together")
    uploads = [read_place(target) for target in targets] if now else []
    services, reporter = publisher.services, publisher.reporter
    if undo:
        edited = edit.undo_withdrawal(webroot, signing, services, names, arch, reporter)
    else:
        edited = edit.withdraw(webroot, signing, services, names, arch, reporter, now=now)
    files = edit.withdrawn_files(webroot, names, arch)
    sent = [send(publisher, UploadRequest(webroot, place, delete=files), endpoint_url) for place in uploads]
    publisher.emit_edit(edited.before, edited.after, uploads=sent)


def _read_values(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    values = {}
    for text in given:
        field, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} has no '=': write it as name=Our Debian")
        values[field] = value
    return values


@click.command(
    "edit",
    short_help="Change the notes and other fields of a template.",
    help="Change what people write about the template NAME in WEBROOT: title (name), notes, notes[de] and so "
    "on. Without --set and --notes-file, the editor of VISUAL or EDITOR opens.\n\n"
    "The index is checked, signed and put in place only when it is right. Where an entry.toml describes the "
    "template, change that instead: publish takes title and notes from there.",
    epilog=examples(
        "pybuilder-repo edit web debian-12 --set name='Our Debian' \\\n"
        "    --notes-file notes.txt --gpg-key you@example.org"
    ),
)
@places.webroot_argument
@_NAME
@_ARCH
@click.option(
    "--set",
    "values",
    multiple=True,
    metavar="FIELD=TEXT",
    callback=_read_values,
    help="Set a field; an empty text removes it. Repeatable.",
)
@click.option("--notes-file", type=PATH, metavar="FILE", help="Take the notes from this file.")
@options.signing_options
@options.json_option
@pass_publisher
def edit_command(
    publisher: Publisher,
    *,
    webroot: Path,
    name: str,
    arch: str | None,
    values: dict[str, str],
    notes_file: Path | None,
    signing: Signing,
) -> None:
    """Change the template."""
    if notes_file is not None:
        try:
            values = {**values, "notes": notes_file.read_text()}
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {notes_file}: {error}", hint="give a text file") from error
    if values:
        _edit(
            publisher, webroot, signing, Action.EDIT, lambda index: edit.describe(index, name, arch, values)
        )
        return
    # Nothing is locked while the editor is open.
    text = edit.as_text(read_served(webroot, publisher.services)[0].index, name, arch)
    new = click.edit(text, extension=".entry")
    if new is None:
        info(publisher.reporter, "nothing to change")
        return
    edited = new

    def change(index: Index) -> Index:
        if edit.as_text(index, name, arch) != text:
            raise UsageError(f"the template {name} was changed meanwhile", hint="edit it again")
        return edit.rewrite(index, name, arch, edited)

    _edit(publisher, webroot, signing, Action.EDIT, change)


@click.command(
    "deprecate",
    short_help="Warn users of a template that is to go.",
    help="Warn users of the template NAME in WEBROOT that they should no longer use it.",
    epilog=examples(
        "pybuilder-repo deprecate web debian-11 --until 2027-01-31 \\\n"
        "    --use debian-12 --gpg-key you@example.org"
    ),
)
@places.webroot_argument
@_NAME
@_ARCH
@click.option(
    "--until",
    type=DayType(),
    metavar="DATE",
    help="The day after which it may be withdrawn, such as 2027-01-31.",
)
@click.option("--use", "replaced_by", metavar="NAME", help="The template to use instead.")
@click.option("--undo", is_flag=True, help="Remove the warning.")
@options.signing_options
@options.json_option
@pass_publisher
def deprecate_command(
    publisher: Publisher,
    *,
    webroot: Path,
    name: str,
    arch: str | None,
    until: datetime | None,
    replaced_by: str | None,
    undo: bool,
    signing: Signing,
) -> None:
    """Deprecate the template."""
    end = None if undo else Deprecation(until.date() if until else None, replaced_by)
    _edit(publisher, webroot, signing, Action.DEPRECATE, lambda index: edit.deprecate(index, name, arch, end))


@click.command(
    "alias",
    short_help="Give a template more names.",
    help="Give the template NAME in WEBROOT more names; other templates lose them.",
    epilog=examples("pybuilder-repo alias web debian-12 stable --gpg-key you@example.org"),
)
@places.webroot_argument
@_NAME
@click.argument("aliases", nargs=-1, required=True, metavar="ALIAS...")
@_ARCH
@click.option("--remove", is_flag=True, help="Remove these names from it.")
@options.signing_options
@options.json_option
@pass_publisher
def alias_command(
    publisher: Publisher,
    *,
    webroot: Path,
    name: str,
    aliases: tuple[str, ...],
    arch: str | None,
    remove: bool,
    signing: Signing,
) -> None:
    """Change the aliases."""
    change = edit.remove_aliases if remove else edit.add_aliases
    _edit(publisher, webroot, signing, Action.ALIAS, lambda index: change(index, name, arch, aliases))


@click.command(
    "hide",
    short_help="Leave a template out of listings.",
    help="Leave the template NAME in WEBROOT out of listings; it can still be built.",
)
@places.webroot_argument
@_NAME
@_ARCH
@click.option("--show", is_flag=True, help="Show it again.")
@options.signing_options
@options.json_option
@pass_publisher
def hide_command(
    publisher: Publisher, *, webroot: Path, name: str, arch: str | None, show: bool, signing: Signing
) -> None:
    """Hide or show the template."""
    _edit(
        publisher, webroot, signing, Action.HIDE, lambda index: edit.hide(index, name, arch, hidden=not show)
    )


@click.command(
    "prune",
    short_help="Delete old files that the index no longer names.",
    help="Delete files in WEBROOT that were published once and that the index no longer names.",
    epilog=examples("pybuilder-repo prune web --dry-run"),
)
@places.webroot_argument
@click.option(
    "--keep",
    type=NumberType(0, 1000),
    default=0,
    show_default=True,
    metavar="N",
    help="Keep the newest N old files of each image, whatever their age.",
)
@options.grace_option(
    "Keep files that the index named less than so many days ago: clients may still ask for them."
)
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@options.json_option
@pass_publisher
def prune_command(publisher: Publisher, *, webroot: Path, keep: int, grace: int, dry_run: bool) -> None:
    """Delete old files."""
    services = publisher.services
    published, _signed = read_served(webroot, services)
    with open_session(webroot):
        now = services.clock()
        files = retired.served_files(webroot, publisher.reporter)
        found = retired.find_retired(files, published.index, published.index, now=now)
        chosen = retired.choose(found, now=now, grace=timedelta(days=grace), keep=keep)
        if not dry_run:
            deleted = retired.delete(files, found, chosen)
            chosen = tuple(item for item in chosen if item.name in deleted)
    publisher.emit(
        {
            "version": 1,
            "dry_run": dry_run,
            "deleted": [{"name": item.name, "size": item.size, "since": iso(item.since)} for item in chosen],
            "kept": len(found) - len(chosen),
        },
        (
            f"{item.name}  {human_size(item.size)}  not named since {item.since:%Y-%m-%d %H:%M} UTC"
            for item in chosen
        ),
    )
    total = human_size(sum(item.size for item in chosen))
    what = "would be deleted" if dry_run else "deleted"
    info(
        publisher.reporter,
        f"{counted(len(chosen), 'old file')}, {total}, {what}; kept: {len(found) - len(chosen)}",
    )


@click.command(
    "rotate-key",
    short_help="Move from one signing key to the next.",
    help="Move WEBROOT from the signing key OLD to NEW: both sign, until clients know the new one.\n\n"
    "From then on give both keys to publish and refresh (-K OLD -K NEW). When all clients have the new key "
    "file (index.gpg), end the move with --finish, and use -K NEW alone.",
    epilog=examples(
        "pybuilder-repo rotate-key web --from OLD --to NEW",
        "pybuilder-repo rotate-key web --from OLD --to NEW --finish",
    ),
)
@places.webroot_argument
@options.rotation_options
@options.json_option
@pass_publisher
def rotate_key_command(
    publisher: Publisher, *, webroot: Path, signing: Signing, new: str, finish: bool
) -> None:
    """Sign with both keys, or with the new one."""
    edit.rotate(webroot, signing.key, new, signing, publisher.services, publisher.reporter, finish=finish)
    publisher.emit({"version": 1, "signed": True})


COMMANDS = (
    refresh_command,
    edit_command,
    withdraw_command,
    deprecate_command,
    alias_command,
    hide_command,
    prune_command,
    rotate_key_command,
)
