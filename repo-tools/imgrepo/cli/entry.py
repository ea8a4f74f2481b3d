"""``pybuilder-repo entry``: entries of a library, from a skeleton to what is published."""

from __future__ import annotations

from pathlib import Path

import click

from imgbuilder.events import info, warn
from imgbuilder.host.text import printable
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.cli.options import gpg_option, library_option, signing
from imgrepo.library.approval import approve
from imgrepo.library.folder import find_entry
from imgrepo.library.new import NewEntry, make_entry
from imgrepo.library.running import Form, machine_text, write_run_script
from imgrepo.review.check import problems_before_signing
from imgrepo.services import Services

_PROGRAM = "pybuilder-repo"


@click.group(
    "entry",
    short_help="Make, check and run entries of a library.",
    help="Entries of a library: an image in a folder of its own, with all that people need to know of it.\n\n"
    "The folder NAME in the library has a file entry.toml, and the image NAME.qcow2 or NAME.img.",
)
def entry_group() -> None:
    """Choose the command."""


@entry_group.command(
    "new",
    short_help="Make the folder of a new entry.",
    help="Make the folder NAME, with an entry.toml to fill in.",
)
@click.argument("name")
@library_option
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Copy this image into it; space is shared where the filesystem can.",
)
@click.option("--move", is_flag=True, help="Move the image, in place of copying it.")
@click.option("--title", default="", metavar="TEXT", help="One line: what it is.")
@click.option("--licence", default="", metavar="SPDX", help='Of the whole: "GPL-2.0-or-later AND MIT".')
def new_command(
    *, name: str, library: Path, image: Path | None, move: bool, title: str, licence: str
) -> None:
    """Read the options and make it."""
    reporter = ConsoleReporter(_PROGRAM)
    try:
        folder = make_entry(NewEntry(library, name, image, move, title, licence), reporter)
        info(reporter, printable(f"{folder.path} is ready: fill in {folder.description}"))
    finally:
        reporter.close()


@entry_group.command(
    "run-script",
    short_help="Write a script that runs an entry.",
    help="Write the script run into the folder of the entry NAME: it starts the image with QEMU, from "
    "wherever the folder is, and forgets what the guest writes.",
)
@click.argument("name")
@library_option
@click.option(
    "--form",
    type=click.Choice([form.value for form in Form]),
    help="Print what libvirt takes instead: a domain in XML, or a command line of virt-install.",
)
def run_script_command(*, name: str, library: Path, form: str | None) -> None:
    """Read the options and write it."""
    folder = find_entry(library, name)
    reporter = ConsoleReporter(_PROGRAM)
    if form is None:
        path = write_run_script(folder, reporter)
        info(reporter, printable(f"written: {path}"))
    else:
        click.echo(machine_text(folder, Form(form), reporter), nl=False)
    reporter.close()


@entry_group.command(
    "sign",
    short_help="Approve an entry, as a reviewer.",
    help="Sign what the entry NAME is now: its image, entry.toml, screenshot and sources. The signature goes "
    "into approval.asc in its folder; it does not hold any more when one of them changes.\n\n"
    "It counts for publish --require signed, if your key is among those of its --reviewers.",
)
@click.argument("name")
@library_option
@click.option("-K", "--gpg-key", "key", required=True, metavar="KEY", help="Sign with this key.")
@click.option("--note", default="", metavar="TEXT", help="What you looked at, one line; it is signed, too.")
@gpg_option
@click.pass_obj
def sign_command(services: Services, *, name: str, library: Path, key: str, note: str, gpg: str) -> None:
    """Read the options and sign."""
    folder = find_entry(library, name)
    reporter = ConsoleReporter(_PROGRAM)
    try:
        for problem in problems_before_signing(folder, reporter):
            warn(reporter, printable(f"{problem.message}" + (f" ({problem.hint})" if problem.hint else "")))
        manifest = approve(folder, signing((key,), None, gpg), note, services, reporter)
        for path, digest in sorted(manifest.files.items()):
            click.echo(printable(f"{digest[:16]}...  {path}"))
        info(reporter, printable(f"approved: {folder.approval}"))
    finally:
        reporter.close()
