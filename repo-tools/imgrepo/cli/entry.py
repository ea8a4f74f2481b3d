"""``pybuilder-repo entry``: entries of a library, from a skeleton to an image that is published."""

from __future__ import annotations

from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.cli.program import VerbGroup
from imgbuilder.errors import PybuilderError, RepositoryError, UsageError
from imgbuilder.events import info, warn
from imgbuilder.host.text import printable
from imgbuilder.sizes import counted
from imgrepo.cli import options, places
from imgrepo.cli.options import PATH
from imgrepo.cli.publisher import Publisher, each, examples, pass_publisher, show
from imgrepo.library.approval import approve
from imgrepo.library.description import DESCRIPTION_NAME
from imgrepo.library.folder import EntryFolder, chosen_entries, find_entry
from imgrepo.library.new import NewEntry, make_entry
from imgrepo.library.running import Form, machine_text, write_run_script
from imgrepo.review.check import CheckedEntry, check_entry, problems_before_signing
from imgrepo.review.listing import EntryListRequest, Row, list_entries
from imgrepo.review.results import CheckResult, Issue, Requirement, Status
from imgrepo.services import Signing

_BROKEN = "broken"


@click.group(
    "entry",
    cls=VerbGroup,
    short_help="Make, check, sign and list entries of a library.",
    help="Entries of a library: each is a folder with an image and its description.\n\n"
    "The folder NAME in the library holds the file entry.toml, and the image NAME.qcow2 or NAME.img.",
    epilog=examples(
        "pybuilder-repo entry new guess --library library --image guess.qcow2",
        "pybuilder-repo entry check guess --library library",
        "pybuilder-repo entry list --library library --long",
    ),
)
def entry_group() -> None:
    """Choose the command."""


@entry_group.command(
    "new",
    short_help="Make the folder of a new entry.",
    help="Make the folder NAME with an entry.toml to fill in.",
)
@click.argument("name")
@places.library_option()
@click.option(
    "--image",
    type=PATH,
    metavar="FILE",
    help="Copy this image into it, sharing space where the filesystem can.",
)
@click.option("--move", is_flag=True, help="Move the image instead of copying it.")
@click.option("--title", default="", metavar="TEXT", help="What it is, in one line.")
@click.option(
    "--licence", default="", metavar="SPDX", help='Licence of the whole, as in "GPL-2.0-or-later AND MIT".'
)
@options.json_option
@pass_publisher
def new_command(
    publisher: Publisher,
    *,
    name: str,
    library: Path,
    image: Path | None,
    move: bool,
    title: str,
    licence: str,
) -> None:
    """Make the folder."""
    folder = make_entry(NewEntry(library, name, image, move, title, licence), publisher.reporter)
    info(publisher.reporter, printable(f"{folder.path} is ready: fill in {folder.description}"))
    publisher.emit({"version": 1, "folder": str(folder.path)})


@entry_group.command(
    "run-script",
    short_help="Write a script that runs an entry.",
    help="Write the script run into the folder of the entry NAME: it starts the image with QEMU, wherever "
    "the folder is, and discards what the guest writes.",
)
@click.argument("name")
@places.library_option()
@options.enum_option(
    Form, "--form", text="Print a domain for libvirt in XML, or a command line of virt-install, instead."
)
@options.json_option
@pass_publisher
def run_script_command(publisher: Publisher, *, name: str, library: Path, form: Form | None) -> None:
    """Write the script."""
    folder = find_entry(library, name)
    if form is None:
        path = write_run_script(folder, publisher.reporter)
        info(publisher.reporter, printable(f"written: {path}"))
        publisher.emit({"version": 1, "script": str(path)})
    else:
        text = machine_text(folder, form, publisher.reporter)
        if publisher.as_json:
            publisher.emit({"version": 1, "form": form.value, "text": text})
        else:
            click.echo(text, nl=False)


@entry_group.command(
    "sign",
    short_help="Approve an entry, as a reviewer.",
    help="Sign the entry NAME as it is now: its image, entry.toml, screenshot and sources. The signature is "
    "the file approval.asc in its folder; it becomes invalid when one of them changes.\n\n"
    "It counts for publish --require signed if your key is among those of its --reviewers.",
    epilog=examples(
        'pybuilder-repo entry sign guess -K alice@example.org \\\n    --note "read the recipe, booted it"'
    ),
)
@click.argument("name")
@places.library_option()
@options.reviewer_options
@click.option(
    "--note", default="", metavar="TEXT", help="What you looked at, in one line; it is signed as well."
)
@options.json_option
@pass_publisher
def sign_command(publisher: Publisher, *, name: str, library: Path, signing: Signing, note: str) -> None:
    """Sign the entry."""
    folder, reporter = find_entry(library, name), publisher.reporter
    publisher.services.make_keys(signing).check_key(signing.key)  # now, not after the checks
    for problem in problems_before_signing(folder, reporter):
        warn(reporter, printable(problem.in_one_line))
    manifest = approve(folder, signing, note, publisher.services, reporter)
    publisher.emit(
        {"version": 1, "approval": str(folder.approval), "files": dict(manifest.files)},
        (f"{digest[:16]}...  {path}" for path, digest in sorted(manifest.files.items())),
    )
    info(reporter, printable(f"approved: {folder.approval}"))


@entry_group.command(
    "check",
    short_help="Find what is missing or wrong in entries.",
    help="Check the entries NAME, or all of the library, point by point: texts, licence, packed size, "
    "screenshot, packages and their sources, what is left of a machine's identity and of secrets, and "
    "whether the script run works from another folder and only reads the image.\n\n"
    "The exit code is 1 when something is missing or wrong. What could not be found out here is unknown.",
)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@places.library_option()
@click.option(
    "--quick",
    is_flag=True,
    help="Do not look into images, pack them or start QEMU; use what is known about the same image.",
)
@options.json_option
@options.appliance_options
@options.quiet_option()
@options.verbose_option()
@pass_publisher
def check_command(
    publisher: Publisher, *, names: tuple[str, ...], library: Path, quick: bool, appliance: ApplianceOptions
) -> int:
    """Check entries; return 1 when something is missing or wrong."""
    publisher.keep_output_clean()
    chosen = chosen_entries(library, names)

    def check(item: tuple[str, EntryFolder | RepositoryError]) -> CheckedEntry:
        if isinstance(item[1], RepositoryError):
            raise item[1]
        return reported(check_entry(item[1], publisher.services, appliance, publisher.reporter, quick=quick))

    def failed(item: tuple[str, object], error: PybuilderError) -> CheckedEntry:
        return reported(CheckedEntry(item[0], (CheckResult.of("entry", Issue.of(error)),)))

    def reported(checked: CheckedEntry) -> CheckedEntry:
        if not publisher.as_json:
            show(_check_lines(checked))
        return checked

    results = each(tuple(chosen.items()), check, failed)
    publisher.emit({"version": 1, "entries": [_check_data(one) for one in results]})
    if not results and not publisher.as_json:
        if (library / DESCRIPTION_NAME).exists():
            given = library.absolute()
            raise UsageError(
                f"{library} is an entry, not a folder of entries",
                hint=f"give its name, and the folder that it is in: {given.name} --library {given.parent}",
            )
        _report_empty(publisher, library)
    return 1 if any(one.fails for one in results) else 0


def _report_empty(publisher: Publisher, library: Path) -> None:
    info(publisher.reporter, f"no entries in {library}; make one with: pybuilder-repo entry new NAME")


def _check_lines(checked: CheckedEntry) -> list[str]:
    bad = sum(item.fails for item in checked.results)
    unknown = sum(item.status is Status.UNKNOWN for item in checked.results)
    counts = [f"{counted(bad, 'point')} missing or wrong"] if bad else []
    counts += [f"{unknown} not known"] if unknown else []
    lines = [f"{checked.name}: {', '.join(counts) or 'checked'}"]
    width = max(len(item.key) for item in checked.results)
    for item in checked.results:
        lines.append(f"  {item.status.value:<7}  {item.key:<{width}}  {_one_line(item.detail)}")
        lines += [f"{'':{width + 13}}note: {_one_line(note)}" for note in item.notes]
        if item.hint and item.status is not Status.OK:
            lines.append(f"{'':{width + 13}}{_one_line(item.hint)}")
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _check_data(checked: CheckedEntry) -> dict[str, Any]:
    return {
        "name": checked.name,
        "checked": checked.checked,
        "items": [
            {
                "key": item.key,
                "state": item.status.value,
                "detail": item.detail,
                "hint": item.hint,
                "notes": list(item.notes),
            }
            for item in checked.results
        ],
    }


@entry_group.command(
    "list",
    short_help="List entries and the state of each.",
    help="List the entries of the library, or those that are named: state, day and title.\n\n"
    "The states are draft, checked, booted, signed (the furthest proof of an entry), scheduled (checked, "
    "with all that is required, and waiting for its day), live (the signed index has this image) and "
    "withdrawn. They are worked out on each run. The exit code is 1 when an entry is broken.",
)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@places.library_option(settings=True)
@click.option(
    "--webroot",
    type=PATH,
    metavar="DIR",
    help="The folder that publish writes; without it, no entry is known to be live or withdrawn.",
)
@options.require_option("What publish requires")
@options.reviewers_option
@click.option(
    "-l", "--long", is_flag=True, help="Also show what is missing and the next command for each entry."
)
@options.json_option
@pass_publisher
def list_command(
    publisher: Publisher,
    *,
    names: tuple[str, ...],
    library: Path,
    webroot: Path | None,
    required: tuple[Requirement, ...],
    reviewers: Path | None,
    long: bool,
) -> int:
    """List entries; return 1 when one is broken."""
    request = EntryListRequest(library, names, webroot, frozenset(required), reviewers)
    rows = list_entries(request, publisher.services, publisher.reporter)
    record = {"version": 1, "entries": [_row_data(row) for row in rows]}
    publisher.emit(record, _row_lines(rows, long=long))
    if not rows and not publisher.as_json:
        _report_empty(publisher, library)
    return 1 if any(row.problem for row in rows) else 0


def _state(row: Row) -> str:
    return _BROKEN if row.judgement is None else row.judgement.state.value


def _row_lines(rows: tuple[Row, ...], *, long: bool) -> list[str]:
    if not rows:
        return []
    table = [
        (row.name, _state(row), _day(row.not_before), _one_line(row.problem or row.title)) for row in rows
    ]
    widths = [max(len(cells[column]) for cells in table) for column in range(3)]
    lines = []
    for row, cells in zip(rows, table, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
        lines.append("  ".join([*padded, cells[3]]).rstrip())
        if long and row.judgement is not None:
            lines += [f"    {remark}" for remark in row.judgement.remarks]
        if long and row.hint:
            lines.append(f"    next: {row.hint}")
    return lines


def _day(moment: datetime | None) -> str:
    if moment is None:
        return "-"
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%d}" if moment.time() == time() else f"{moment:%Y-%m-%d %H:%M}"


def _row_data(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "state": _state(row),
        "title": row.title,
        "not_before": None if row.not_before is None else row.not_before.astimezone(UTC).isoformat(),
        "remarks": [] if row.judgement is None else list(row.judgement.remarks),
        "next": row.hint,
        "problem": row.problem,
    }
