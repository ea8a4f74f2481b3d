"""``rollback``, ``channel``, ``protect`` and ``history``: the revisions of templates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from imgbuilder.events import warn
from imgrepo.cli import options, places
from imgrepo.cli.options import NumberType
from imgrepo.cli.publisher import Publisher, change_data, examples, iso, pass_publisher
from imgrepo.services import Signing
from imgrepo.webroot import revisions
from imgrepo.webroot.journal import Change, Journal, Line

_ARCH = click.option("--arch", metavar="ARCH", help="Only the template for this architecture.")


@click.command(
    "rollback",
    short_help="Publish a template's former image again.",
    help="Publish the image that the template NAME in WEBROOT had before, under a new, higher revision: "
    "clients would refuse a lower one. Title and notes come back with it.\n\n"
    "The file must still be there; prune deletes it after its grace time. publish leaves the image that was "
    "taken away out until it changes. A second rollback brings it back.",
    epilog=examples("pybuilder-repo rollback web debian-12 --gpg-key you@example.org"),
)
@places.webroot_argument
@click.argument("name")
@_ARCH
@click.option(
    "--to", "revision", type=NumberType(0, None), metavar="N", help="The image of revision N; see history."
)
@options.json_option
@options.signing_options
@pass_publisher
def rollback_command(
    publisher: Publisher,
    *,
    webroot: Path,
    name: str,
    arch: str | None,
    revision: int | None,
    signing: Signing,
) -> None:
    """Bring the former image back."""
    edited = revisions.rollback(
        webroot, signing, publisher.services, name, arch, publisher.reporter, revision=revision
    )
    publisher.emit_edit(edited.before, edited.after)


@click.command(
    "channel",
    short_help="Give a template the image of another one.",
    help="Give the template TO in WEBROOT the image of the template FROM, as its next revision: from testing "
    "to stable, say. If TO is not published, it is made.\n\n"
    "Nothing is packed or copied. FROM stays; names, deprecation and so on of TO stay as well. history shows "
    "what TO had when, and rollback takes it back.",
    epilog=examples(
        "pybuilder-repo channel web debian-12-testing debian-12 \\\n    --gpg-key you@example.org"
    ),
)
@places.webroot_argument
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@_ARCH
@options.json_option
@options.signing_options
@pass_publisher
def channel_command(
    publisher: Publisher, *, webroot: Path, source: str, target: str, arch: str | None, signing: Signing
) -> None:
    """Promote the image."""
    edited = revisions.move_channel(
        webroot, signing, publisher.services, source, target, arch, publisher.reporter
    )
    publisher.emit_edit(edited.before, edited.after)


@click.command(
    "protect",
    short_help="Keep the image of a template as it is.",
    help="Protect the templates NAME in WEBROOT: until --undo, no command replaces their images or takes "
    "them out of the index. Notes, other names and so on can still be changed.",
    epilog=examples("pybuilder-repo protect web debian-12"),
)
@places.webroot_argument
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_ARCH
@click.option("--undo", is_flag=True, help="Protect them no longer.")
@options.json_option
@pass_publisher
def protect_command(
    publisher: Publisher, *, webroot: Path, names: tuple[str, ...], arch: str | None, undo: bool
) -> None:
    """Protect the templates."""
    found = revisions.protect(webroot, publisher.services, names, arch, undo=undo)
    lines = [f"protected: {name} ({arch})" for name, arch in found] or ["no template is protected"]
    protected = [{"name": name, "arch": arch} for name, arch in found]
    publisher.emit({"version": 1, "protected": protected}, lines)


@click.command(
    "history",
    short_help="Show who published and signed what, and when.",
    help="Show the journal of WEBROOT, oldest first: when, which command, by whom, and which templates "
    "changed; with NAME only what concerns these templates.\n\n"
    "Each command that signs adds a line, which is signed as well and holds the digest of the line before. "
    "The exit code is 1 when lines were changed or removed.",
    epilog=examples("pybuilder-repo history web", "pybuilder-repo history web debian-12 --json"),
)
@places.webroot_argument
@click.argument("names", nargs=-1, metavar="[NAME...]")
@options.json_option
@pass_publisher
def history_command(publisher: Publisher, *, webroot: Path, names: tuple[str, ...]) -> int:
    """Show the journal; return 1 when it is not whole."""
    journal = revisions.history(webroot, publisher.services)
    chosen = [
        (line, [change for change in line.changes if not names or change.name in names])
        for line in journal.lines
    ]
    if names:
        chosen = [(line, changes) for line, changes in chosen if changes]
    publisher.emit(_data(journal, chosen), _lines(chosen))
    if journal.problem is not None:
        warn(publisher.reporter, journal.problem)
        return 1
    return 0


def _lines(chosen: list[tuple[Line, list[Change]]]) -> Iterator[str]:
    for line, changes in chosen:
        yield f"{line.when:%Y-%m-%d %H:%M} UTC  {line.action.value}  by {line.who}, key {line.signer}"
        for change in changes:
            yield f"    {change.name} ({change.arch}): {_step(change)}"
    if not chosen:
        yield "nothing is recorded"


def _step(change: Change) -> str:
    if change.after is None:
        return f"revision {change.before}, now gone"
    if change.before is None:
        return f"revision {change.after}, new"
    if change.before == change.after:
        return f"revision {change.after}, described again"
    return f"revision {change.before}, now {change.after}"


def _data(journal: Journal, chosen: list[tuple[Line, list[Change]]]) -> dict[str, Any]:
    return {
        "version": 1,
        "problem": journal.problem,
        "lines": [
            {
                "when": iso(line.when),
                "who": line.who,
                "action": line.action.value,
                "signer": line.signer,
                "changed": [change_data(change) for change in changes],
            }
            for line, changes in chosen
        ],
    }


COMMANDS = (rollback_command, channel_command, protect_command)
