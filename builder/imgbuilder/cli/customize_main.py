"""The command ``pybuilder-customize``: virt-customize's command line on existing images."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from imgbuilder.appliance import Attachment
from imgbuilder.building.customize_image import CustomizeRequest, customize_disks, find_identity
from imgbuilder.cli.customizing import (
    SectionedCommand,
    customization_options,
    given_operations,
    given_options,
    integer,
    refuse_operations,
)
from imgbuilder.cli.getopt import VIRT_CUSTOMIZE, standard_options
from imgbuilder.cli.requests import appliance_options
from imgbuilder.cli.rescue import shell_with
from imgbuilder.customize.failure import OnError
from imgbuilder.disk.diskimage import DiskFormat, parse_format
from imgbuilder.errors import UsageError
from imgbuilder.guests.unlocking import ALL, DiskKey, parse_key
from imgbuilder.host.text import printable
from imgbuilder.services import Services, Settings
from imgbuilder.terminal.boundary import run_command
from imgbuilder.terminal.configuration import apply_configuration
from imgbuilder.terminal.console import ConsoleReporter
from imgindex import __version__

_STARTED = time.monotonic()
_EPILOG = """\b
Customizations are carried out in the order of the command line.

\b
  pybuilder-customize -a disk.img --install nginx --hostname web.example.org
  pybuilder-customize -a disk.img --work-on-copy --run setup.sh
  pybuilder-customize -a disk.img --sysprep all
  pybuilder-customize -a disk.img --check

The manual page pybuilder-customize(1) explains the options, and pybuilder(1) the customizations."""


def _option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    return click.option(*names, **attributes)


@click.command(
    cls=SectionedCommand,
    theirs=VIRT_CUSTOMIZE,
    context_settings={"help_option_names": ["--help"], "max_content_width": 110},
    epilog=_EPILOG,
    help="Customize the guest on existing disk images, in place, without root.",
)
@_option("-a", "--add", "add", multiple=True, metavar="FILE", help="A disk of the guest; repeat it for more.")
@_option(
    "--format", "format_", multiple=True, metavar="raw|qcow2", help="Format of the disks after this option."
)
@_option(
    "--attach", multiple=True, metavar="FILE", help="A disk or ISO image that commands in the guest may read."
)
@_option("--attach-format", multiple=True, metavar="raw|qcow2", help="Format of the --attach disks after it.")
@_option(
    "--backing",
    multiple=True,
    metavar="FILE",
    help="An image that a disk lies over, which is trusted and only read; name the whole chain.",
)
@_option("-d", "--domain", metavar="NAME", help="Not supported: give its disks with -a.")
@_option("-c", "--connect", metavar="URI", help="Not supported: see --domain.")
@_option("-n", "--dry-run", "--dryrun", "dry_run", is_flag=True, help="Do everything, and change nothing.")
@_option("--work-on-copy", is_flag=True, help="Replace the disks only when everything has succeeded.")
@_option(
    "--check", is_flag=True, help="Show what identifies this one machine, see --sysprep; change nothing."
)
@_option(
    "--on-error",
    type=click.Choice([choice.value for choice in OnError]),
    default="abort",
    help="When a customization fails: end, or open a shell in the guest first [default: abort].",
)
@_option(
    "--command-timeout",
    metavar="SECONDS",
    callback=integer,
    help="Stop a command in the guest, and fail, when it takes longer [default: no limit].",
)
@_option("-m", "--memsize", metavar="MB", callback=integer, help="Memory of the appliance in MiB.")
@_option("--smp", metavar="N", callback=integer, help="Processors of the appliance.")
@_option(
    "--launch-timeout",
    metavar="SECONDS",
    callback=integer,
    help="Give the appliance up when it is silent for so long at its start [default: 30; emulated: 600].",
)
@_option(
    "--key",
    "keys",
    multiple=True,
    metavar="SELECTOR",
    help="Key of an encrypted device: ID:file:FILE or ID:key:TEXT; ID may be all.",
)
@_option(
    "--keys-from-stdin", is_flag=True, help="Read further keys from the standard input, one a line, for all."
)
@_option("--no-instant", is_flag=True, help="Boot the appliance, instead of resuming a saved one.")
@_option("--cache", metavar="DIR", help="Keep saved appliances in this cache.")
@_option(
    "--network/--no-network", default=True, help="Let commands in the guest reach the network [default]."
)
@_option("-q", "--quiet", is_flag=True, help="Show no progress.")
@_option("-v", "--verbose", is_flag=True, help="Show the output of commands, and the appliance's console.")
@_option("-x", "trace", is_flag=True, help="Show every libguestfs call.")
@_option(
    "--echo-keys", is_flag=True, expose_value=False, help="Accepted; no key is ever asked for at a terminal."
)
@standard_options
@click.version_option(
    __version__, "-V", "--version", prog_name="pybuilder-customize", message="%(prog)s %(version)s"
)
@click.pass_context
def pybuilder_customize(ctx: click.Context, /, **options: Any) -> None:
    """Read the command line and do it."""
    reporter = ConsoleReporter(
        "pybuilder-customize",
        quiet=options["quiet"],
        verbose=options["verbose"] or options["trace"],
        started=_STARTED,
    )
    ctx.call_on_close(reporter.close)
    for console in filter(None, (reporter, ctx.obj)):
        console.colour, console.wrap = options["colour"], options["wrap"]
    request = _request(ctx, options)
    settings = Settings(cache=None if options["cache"] is None else Path(options["cache"]))
    services = Services(settings, guest_shell=shell_with(reporter))
    if options["check"]:
        refuse_operations(ctx, "--check")
        ctx.exit(_check(request, services, reporter))
    customize_disks(request, services, reporter)


pybuilder_customize.params.extend(customization_options())


def _request(ctx: click.Context, options: dict[str, Any]) -> CustomizeRequest:
    if options["domain"] is not None or options["connect"] is not None:
        raise UsageError("domains of libvirt are not supported", hint="give the disks: -a FILE")
    disks = _disks(given_options(ctx, "add", "format"), "format")
    if not disks:
        raise UsageError(
            "no disk was given", hint="pybuilder-customize -a disk.img --hostname web.example.org"
        )
    on_error = OnError(options["on_error"])
    if options["work_on_copy"] and options["dry_run"]:
        raise UsageError("--work-on-copy and --dry-run contradict each other")
    if options["work_on_copy"] and on_error is OnError.KEEP:
        raise UsageError("--work-on-copy and --on-error=keep contradict each other")
    return CustomizeRequest(
        disks=disks,
        attached=_disks(given_options(ctx, "attach", "attach-format"), "attach-format"),
        backing=tuple(Path(name) for name in options["backing"]),
        operations=given_operations(ctx),
        keys=_keys(options),
        appliance=appliance_options(options),
        command_timeout=options["command_timeout"],
        network=options["network"],
        dry_run=options["dry_run"],
        on_copy=options["work_on_copy"],
        on_error=on_error,
    )


def _keys(options: dict[str, Any]) -> tuple[DiskKey, ...]:
    """Return the keys of ``--key``, then those of the standard input."""
    keys = [parse_key(text) for text in options["keys"]]
    if options["keys_from_stdin"]:
        lines = [line.removesuffix("\n") for line in sys.stdin]
        if not any(lines):
            raise UsageError("--keys-from-stdin: no key came from the standard input")
        keys += [DiskKey(ALL, line) for line in lines if line]
    return tuple(keys)


def _disks(given: list[tuple[str, str]], format_name: str) -> tuple[Attachment, ...]:
    """Pair disks with the format given before them."""
    current: DiskFormat | None = None
    used = True
    disks = []
    for name, value in given:
        if name == format_name:
            current, used = None if value == "auto" else parse_format(value), False
            continue
        used = True
        if "://" in value and not value.startswith("file://"):
            raise UsageError(
                f"{value!r} is not a local file", hint="only files and block devices can be opened"
            )
        disks.append(Attachment(Path(value.removeprefix("file://")), current))
    if not used:
        raise UsageError(f"--{format_name} must come before the disk it is for")
    return tuple(disks)


def _check(request: CustomizeRequest, services: Services, reporter: ConsoleReporter) -> int:
    found = find_identity(request, services, reporter)
    reporter.close()
    for finding in found:
        click.echo(printable(f"{finding.task}: {finding.path}"))
    return 1 if found else 0


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit code, see ``imgbuilder.terminal.boundary``.
    """
    console = ConsoleReporter("pybuilder-customize")

    def body() -> object:
        apply_configuration(os.environ)
        try:
            return pybuilder_customize.main(
                arguments, prog_name="pybuilder-customize", standalone_mode=False, obj=console
            )
        except click.ClickException as error:
            raise UsageError(error.format_message(), hint="see: pybuilder-customize --help") from error

    verbose = bool({"-v", "--verbose", "-x"} & set(arguments))
    return run_command(body, console, verbose=verbose)


if __name__ == "__main__":
    main()
