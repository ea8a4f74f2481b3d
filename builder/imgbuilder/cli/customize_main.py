"""The command ``pybuilder-customize``: virt-customize's command line on existing images."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from imgbuilder.appliance import Attachment
from imgbuilder.building.customize_image import customize_disks, find_identity
from imgbuilder.building.request import CustomizeRequest, HostsideMode
from imgbuilder.cli import options as declared
from imgbuilder.cli.customizing import (
    SectionedCommand,
    customization_options,
    given_operations,
    given_options,
    refuse_operations,
    shell_with,
)
from imgbuilder.cli.getopt import OTHER, VIRT_CUSTOMIZE, Option, standard, version_option
from imgbuilder.cli.options import APPLIANCE, BUILD, Operands
from imgbuilder.cli.program import Tools, run_program
from imgbuilder.cli.requests import appliance_options
from imgbuilder.customize.failure import OnError
from imgbuilder.customize.sysprep import task_list
from imgbuilder.disk.diskimage import DiskFormat, parse_format
from imgbuilder.errors import UsageError
from imgbuilder.guests.unlocking import ALL, DiskKey, parse_key
from imgbuilder.host.text import printable
from imgbuilder.services import Services, Settings
from imgbuilder.terminal.reporter import ConsoleReporter
from imgindex import __version__

_STARTED = time.monotonic()
_EPILOG = """\b
Customizations are carried out in the order of the command line.

\b
  pybuilder-customize -a disk.img --install nginx --hostname web.example.org
  pybuilder-customize -a disk.img --work-on-copy --run setup.sh
  pybuilder-customize --sysprep list
  pybuilder-customize -a disk.img --sysprep all
  pybuilder-customize -a disk.img --check

The manual page pybuilder-customize(1) explains the options, and pybuilder(1)
the customizations."""
_MOST_USED = (
    "add", "work_on_copy", "dry_run", "check", "hostname", "root_password", "ssh_inject", "install", "run",
    "sysprep",
)  # fmt: skip

_OPTIONS = (
    Option(
        BUILD, "-a", "--add", "add", multiple=True, metavar="FILE",
        help="A disk of the guest; repeat it for more.",
    ),
    Option(
        BUILD, "--format", "format_", multiple=True, metavar="raw|qcow2|auto",
        help="Format of the disks after this option [default: by their headers].",
    ),
    Option(
        BUILD, "--attach", multiple=True, metavar="FILE",
        help="A disk or ISO image that commands in the guest may read.",
    ),
    Option(
        BUILD, "--attach-format", multiple=True, metavar="raw|qcow2|auto",
        help="Format of the --attach disks after it.",
    ),
    Option(
        BUILD, "--backing", multiple=True, metavar="FILE",
        help="An image that a disk is an overlay of, trusted and only read; name the whole chain.",
    ),
    Option(
        BUILD, "-n", "--dry-run", "--dryrun", "dry_run", is_flag=True,
        help="Start the appliance and do everything in it, but change no disk.",
    ),
    Option(
        BUILD, "--work-on-copy", is_flag=True, help="Replace the disks only when everything has succeeded."
    ),
    Option(
        BUILD, "--check", is_flag=True,
        help="Show what identifies this one machine, see --sysprep; change nothing.",
    ),
    declared.KEY,
    Option(
        BUILD, "--keys-from-stdin", is_flag=True,
        help="Read more keys from standard input, one a line, for all devices.",
    ),
    Option(
        BUILD, "--on-error", type=click.Choice([choice.value for choice in OnError]), default="abort",
        help="When a customization fails: end, or open a shell in the guest first [default: abort].",
    ),
    *declared.LAUNCHING,
    declared.COMMAND_TIMEOUT,
    Option(
        APPLIANCE, "--hostside", type=click.Choice([mode.value for mode in HostsideMode]), default="never",
        help="Customize a copy without an appliance: where possible, never, or fail [default: never].",
    ),
    Option(
        APPLIANCE, "--network/--no-network", default=True,
        help="Let commands in the guest reach the network [default].",
    ),
    declared.APPLIANCE_FOLDER,
    Option(OTHER, "-d", "--domain", metavar="NAME", help="Not supported: give its disks with -a."),
    Option(OTHER, "-c", "--connect", metavar="URI", help="Not supported: see --domain."),
    *declared.MESSAGES[:3],
    Option(
        OTHER, "--echo-keys", is_flag=True, expose_value=False,
        help="Accepted; keys are never asked for at a terminal.",
    ),
)  # fmt: skip


@click.pass_context
def _start(ctx: click.Context, /, **options: Any) -> None:
    """Read the command line and do it."""
    if ("sysprep", "list") in given_options(ctx, "sysprep"):
        click.echo(task_list(), nl=False)
        return
    tools: Tools = ctx.obj
    reporter = tools.reporter
    reporter.quiet, reporter.verbose = options["quiet"], options["verbose"] or options["trace"]
    reporter.colour, reporter.wrap = options["colour"], options["wrap"]
    ctx.call_on_close(reporter.close)
    request = _request(ctx, options)
    settings = Settings(cache=None if options["cache"] is None else Path(options["cache"]))
    services = tools.make_services(settings, guest_shell=shell_with(reporter))
    if options["check"]:
        refuse_operations(ctx, "--check")
        ctx.exit(_check(request, services, reporter))
    customize_disks(request, services, reporter)


pybuilder_customize = SectionedCommand(
    "pybuilder-customize",
    theirs=VIRT_CUSTOMIZE,
    help="Customize the guest on existing disk images, in place, without root.",
    epilog=_EPILOG,
    callback=_start,
    most_used=_MOST_USED,
    params=[Operands(""), *_OPTIONS, *customization_options(), *standard(), version_option(__version__)],
)


def _request(ctx: click.Context, options: dict[str, Any]) -> CustomizeRequest:
    if options["domain"] is not None or options["connect"] is not None:
        raise UsageError("domains of libvirt are not supported", hint="give the disks: -a FILE")
    if options["names"]:
        word = options["names"][0]
        raise UsageError(
            f"{word!r} is not an option",
            hint=f"to customize a disk: pybuilder-customize -a {shlex.quote(word)}",
        )
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
        attachments=_disks(given_options(ctx, "attach", "attach-format"), "attach-format"),
        backing=tuple(Path(name) for name in options["backing"]),
        operations=given_operations(ctx),
        keys=_keys(options),
        appliance=appliance_options(options),
        command_timeout=options["command_timeout"],
        network=options["network"],
        dry_run=options["dry_run"],
        on_copy=options["work_on_copy"],
        on_error=on_error,
        hostside=HostsideMode(options["hostside"]),
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


def run(arguments: Sequence[str], make_services: Callable[..., Services] = Services) -> int:
    """Run the command and return its exit code, see ``imgbuilder.terminal.boundary``."""
    console = ConsoleReporter("pybuilder-customize", started=_STARTED)
    return run_program(pybuilder_customize, arguments, console, Tools(console, make_services))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
