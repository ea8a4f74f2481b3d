"""The command group ``pybuilder-repo``."""

from __future__ import annotations

import sys

import click

from imgbuilder.cli.program import run_program
from imgbuilder.errors import UsageError
from imgbuilder.terminal.reporter import ConsoleReporter
from imgindex import __version__
from imgrepo.cli import (
    boot_check,
    contents,
    entry,
    maintain,
    make,
    publish,
    revisions,
    share,
    show,
    stats,
    templates,
    update,
)
from imgrepo.cli.publisher import PROGRAM, Publisher
from imgrepo.services import Services

_SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Make": (
        make.make_template_command,
        make.import_command,
        entry.entry_group,
        boot_check.boot_check_command,
        contents.sbom_group,
        contents.sources_command,
    ),
    "Publish": (
        publish.init_command,
        update.update_command,
        publish.publish_command,
        show.catalogue_command,
    ),
    "Keep": (*maintain.COMMANDS, *revisions.COMMANDS),
    "Share": (share.serve_command, share.upload_command, share.mirror_command),
    "Show": (
        templates.list_command,
        templates.show_command,
        revisions.history_command,
        show.status_command,
        update.outdated_command,
        show.validate_command,
        stats.stats_command,
    ),
}
_FIRST = """\
Publish disk images as signed templates, for pybuilder and virt-builder:

  pybuilder-repo init library --new-key 'Images <you@example.org>'
  pybuilder-repo make-template debian-12 library/debian-12.img
  pybuilder-repo publish library
  pybuilder-repo status library
  pybuilder-repo serve library

All commands: pybuilder-repo --help. One of them: pybuilder-repo publish --help
"""


class _Group(click.Group):
    """A group that lists its commands in sections, and without arguments says what to type first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(_FIRST, nl=False, err=True)
            ctx.exit(UsageError.exit_code)
        return super().parse_args(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{one.name:<{width}}", one.get_short_help_str(60)) for one in commands])


@click.group(
    PROGRAM,
    cls=_Group,
    context_settings={"help_option_names": ["--help"], "max_content_width": 80},
    help="Make disk images, publish them as signed templates, and keep, share and check them.\n\n"
    "pybuilder and virt-builder read what this program publishes.",
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM, message="%(prog)s %(version)s")
def group() -> None:
    """Choose the command."""


for _commands in _SECTIONS.values():
    for _command in _commands:
        group.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments, Services()))


def run(arguments: list[str], services: Services) -> int:
    """Run a command and return its exit code, see ``imgbuilder.terminal.boundary``."""
    reporter = ConsoleReporter(PROGRAM)
    try:
        return run_program(group, arguments, reporter, Publisher(services, reporter))
    finally:
        reporter.close()


if __name__ == "__main__":
    main()
