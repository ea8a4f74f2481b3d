"""The command ``pybuilder``: virt-builder's command line, and ours, all as options."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from imgbuilder.cli import modes
from imgbuilder.cli.customizing import NAMES, SectionedCommand, refuse_operations
from imgbuilder.cli.getopt import VIRT_BUILDER
from imgbuilder.cli.list_mode import ListRequest, list_templates
from imgbuilder.cli.options import with_customizations, with_options
from imgbuilder.cli.recipes import check_template, with_recipe, write_recipe
from imgbuilder.cli.requests import Values, appliance_options, read_values
from imgbuilder.errors import UsageError
from imgbuilder.events import warn
from imgbuilder.host import arch
from imgbuilder.services import Settings
from imgbuilder.sizes import parse_size
from imgbuilder.terminal.boundary import run_command
from imgbuilder.terminal.configuration import apply_configuration
from imgbuilder.terminal.console import CAPABILITIES, ConsoleReporter, json_lines, open_stream
from imgindex import __version__

_STARTED = time.monotonic()
_EPILOG = """\b
Customizations are carried out in the order of the command line.

\b
  pybuilder --list                                what there is
  pybuilder --notes debian-12                     what the publisher says about it
  pybuilder debian-12 --size 20G --install nginx  build debian-12.img
  pybuilder --doctor                              find out why something does not work

The manual page pybuilder(1) explains every option."""


@with_customizations
@click.command(
    cls=SectionedCommand,
    theirs=VIRT_BUILDER,
    context_settings={"help_option_names": ["--help"], "max_content_width": 110},
    epilog=_EPILOG,
    help="Build a bootable disk image from a template of a signed repository, without root.\n\n"
    "OS-VERSION is a name or an alias of a template, as --list shows them.",
)
@click.argument("names", nargs=-1, metavar="[OS-VERSION]")
@with_options
@click.version_option(__version__, "-V", "--version", prog_name="pybuilder", message="%(prog)s %(version)s")
@click.pass_context
def pybuilder(ctx: click.Context, /, **options: Any) -> None:
    """Choose the mode and run it."""
    reporter = ConsoleReporter(
        "pybuilder", quiet=options["quiet"], verbose=options["verbose"] or options["trace"], started=_STARTED
    )
    ctx.call_on_close(reporter.close)
    outer: ConsoleReporter | None = ctx.obj
    machine = None if options["machine_readable"] is None else open_stream(options["machine_readable"])
    for console in filter(None, (reporter, outer)):
        console.colour, console.wrap = options["colour"], options["wrap"]
        if machine is not None and options["names"]:
            console.machine = json_lines(machine)
    ctx.obj = reporter
    only_capabilities = machine is not None and not options["names"]
    options = with_recipe(ctx, options)
    call = Call(ctx, _settings(options), reporter, options, read_values(ctx, options))
    if only_capabilities:
        assert machine is not None
        machine.write("\n".join([*CAPABILITIES, ""]))
        machine.flush()
        return
    if options["curl"] is not None:
        warn(reporter, "--curl has no effect: pybuilder downloads by itself")
    if options["gpgkey"] is not None and options["add_source"] is None:
        raise UsageError("--gpgkey goes with --add-source", hint="for --source, give --fingerprint")
    # As in virt-builder, the last of several wins: `--delete-cache --list` deletes nothing.
    modes_given = [name for name in ctx.meta[NAMES] if name in _MODES]
    chosen = modes_given[-1] if modes_given else "list_" if options["long"] else None
    ctx.exit(_MODES.get(chosen, _build)(call) or 0)


class Call(NamedTuple):
    """A command line that was read.

    Attributes:
        ctx: As click has it.
        settings: Where templates come from, and go to.
        reporter: Shows what happens.
        options: The options' values, as they are written.
        values: What those mean that must be read.
    """

    ctx: click.Context
    settings: Settings
    reporter: ConsoleReporter
    options: dict[str, Any]
    values: Values


def _doctor(call: Call) -> int:
    _names(call.options, 0, "--doctor")
    return modes.doctor(call.settings, call.reporter)


def _firstboot_log(call: Call) -> int:
    _names(call.options, 0, "--firstboot-log")
    image = Path(call.options["firstboot_log"])
    return modes.firstboot_log(
        call.settings, call.reporter, image, call.values.format, appliance_options(call.options)
    )


def _delete_cache(call: Call) -> None:
    _names(call.options, 0, "--delete-cache")
    modes.delete_cache(call.settings, call.reporter)


def _print_cache(call: Call) -> None:
    _names(call.options, 0, "--print-cache")
    modes.print_cache(call.settings, call.reporter, verbose=call.options["verbose"])


def _list(call: Call) -> None:
    list_templates(call.settings, call.reporter, _list_request(call.options))


def _get_kernel(call: Call) -> None:
    refuse_operations(call.ctx, "--get-kernel")
    from imgbuilder.cli.requests import kernel_request  # late: --list stays quick

    images = call.options["names"]
    if len(images) != 1:
        raise UsageError(
            "--get-kernel needs one disk image" + (f", but {len(images)} were given" if images else ""),
            hint="pybuilder --get-kernel IMAGE -o FOLDER",
        )
    request = kernel_request(images[0], call.options, call.values)
    modes.copy_kernel(call.settings, call.reporter, request, quiet=call.options["quiet"])


def _describe_machine(call: Call) -> None:
    from imgbuilder.cli import machine_modes

    _names(call.options, 0, "describing a machine")
    refuse_operations(call.ctx, "a description of a machine")
    mode = [name for name in call.ctx.meta[NAMES] if name in _MODES][-1]
    machine_modes.describe_machine(call.reporter, call.options, call.values, mode)


def _notes(call: Call) -> None:
    (name,) = _names(call.options, 1, "--notes")
    modes.print_notes(call.settings, call.reporter, name, _arch(call.options))


def _build(call: Call) -> None:
    from imgbuilder.cli.requests import build_request

    ctx, options = call.ctx, call.options
    check_template(ctx, options)
    request = build_request(_names(options, 1, "building")[0], _arch(options), options, call.values)
    if options["write_recipe"] is not None and write_recipe(ctx, options):
        return
    modes.build_image(
        call.settings, call.reporter, request, dry_run=options["dry_run"], quiet=options["quiet"]
    )


def _export_bundle(call: Call) -> None:
    from imgbuilder.cli import cache_modes  # late: --list stays quick

    options = call.options
    target = Path(options["export_bundle"])
    cache_modes.export_bundle(call.settings, call.reporter, target, options["names"], _arch(options))


def _cache_add(call: Call) -> None:
    from imgbuilder.cli import cache_modes

    cache_modes.cache_add(call.settings, call.reporter, call.options["names"])


def _cache_gc(call: Call) -> None:
    from imgbuilder.cli import cache_modes

    _names(call.options, 0, "--cache-gc")
    cache_modes.cache_gc(call.settings, call.reporter)


def _cache_all(call: Call) -> int:
    from imgbuilder.cli import cache_modes

    _names(call.options, 0, "--cache-all-templates")
    return cache_modes.cache_all(call.settings, call.reporter)


def _cache_verify(call: Call) -> int:
    from imgbuilder.cli import cache_modes

    _names(call.options, 0, "--cache-verify")
    return cache_modes.cache_verify(call.settings, call.reporter)


def _add_source(call: Call) -> None:
    from imgbuilder.cli import source_modes  # late: --list stays quick

    options = call.options
    if len(options["names"]) != 1:
        raise UsageError(
            "--add-source needs a name and an address",
            hint="pybuilder --add-source NAME URL --gpgkey FILE",
        )
    source_modes.add_source(
        call.settings, call.reporter, options["add_source"], options["names"][0], options["gpgkey"]
    )


def _list_sources(call: Call) -> int:
    from imgbuilder.cli import source_modes

    _names(call.options, 0, "--list-sources")
    return source_modes.list_sources(call.settings, call.reporter, ask=call.options["long"])


def _forget_source(call: Call) -> None:
    from imgbuilder.cli import source_modes

    _names(call.options, 0, "--forget-source")
    source_modes.forget_source(call.settings, call.reporter, call.options["forget_source"])


_MODES: dict[str | None, Callable[[Call], int | None]] = {
    "doctor": _doctor,
    "firstboot_log": _firstboot_log,
    "delete_cache": _delete_cache,
    "list_sources": _list_sources,
    "forget_source": _forget_source,
    "add_source": _add_source,
    "print_cache": _print_cache,
    "export_bundle": _export_bundle,
    "cache_all_templates": _cache_all,
    "cache_add": _cache_add,
    "cache_gc": _cache_gc,
    "cache_verify": _cache_verify,
    "list_": _list,
    "search": _list,
    "get_kernel": _get_kernel,
    "run_script": _describe_machine,
    "libvirt_xml": _describe_machine,
    "virt_install": _describe_machine,
    "notes": _notes,
}
"""What is done instead of building, by the names of the options' values."""


def _settings(options: dict[str, Any]) -> Settings:
    return Settings(
        sources=options["sources"],
        fingerprints=options["fingerprints"],
        check_signature=options["check_signature"],
        cache=None if options["cache"] is None else Path(options["cache"]),
        use_cache=not options["no_cache"],
        cache_size=None if options["cache_size"] is None else parse_size(options["cache_size"]),
        offline=options["offline"],
        gpg=_gpg(options["gpg"]),
    )


def _gpg(text: str | None) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split("gpg" if text is None else text))
    except ValueError as error:
        raise UsageError(f"--gpg {text!r}: {error}") from error
    if not words:
        raise UsageError("--gpg needs the name of a program", hint="such as gpg, or 'gpg --homedir DIR'")
    return words


def _arch(options: dict[str, Any]) -> str:
    return options["arch_"] or arch.host_arch()


def _names(options: dict[str, Any], count: int, mode: str) -> tuple[str, ...]:
    names: tuple[str, ...] = options["names"]
    if len(names) == count:
        return names
    if count == 0:
        raise UsageError(f"{mode} takes no OS-VERSION, but {names[0]!r} was given")
    raise UsageError(
        f"{mode} needs exactly one OS-VERSION"
        + (f", but {len(names)} were given: {' '.join(names)}" if names else ""),
        hint="see which there are: pybuilder --list",
    )


def _list_request(options: dict[str, Any]) -> ListRequest:
    names = options["names"]
    if len(names) > 1:
        raise UsageError(
            f"--list takes one OS-VERSION at most, but {len(names)} were given",
            hint="several are listed by a pattern, in quotes that keep the shell from it: --list 'debian*'",
        )
    if names and options["search"] is not None:
        raise UsageError("--search looks through all templates", hint="leave the OS-VERSION out")
    if options["format_"] is not None:
        raise UsageError("--format is the format of an image", hint="for the list, use --list-format")
    style = options["list_format"] or ("long" if options["long"] else "short")
    return ListRequest(names[0] if names else None, _arch(options), style, options["search"])


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
    console = ConsoleReporter("pybuilder")

    def body() -> object:
        apply_configuration(os.environ)
        try:
            return pybuilder.main(arguments, prog_name="pybuilder", standalone_mode=False, obj=console)
        except click.ClickException as error:
            raise UsageError(error.format_message(), hint="see: pybuilder --help") from error

    verbose = bool({"-v", "--verbose", "-x"} & set(arguments))
    return run_command(body, console, verbose=verbose)


if __name__ == "__main__":
    main()
