"""The command ``pybuilder``: virt-builder's command line, and ours, all as options."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from imgbuilder import arch
from imgbuilder.boundary import run_command
from imgbuilder.cli import modes
from imgbuilder.cli.customizing import SectionedCommand, refuse_operations
from imgbuilder.cli.list_mode import ListRequest, list_templates, show
from imgbuilder.cli.options import with_customizations, with_options
from imgbuilder.cli.recipes import check_template, with_recipe, write_recipe
from imgbuilder.configuration import apply_configuration
from imgbuilder.console import ConsoleReporter
from imgbuilder.errors import UsageError
from imgbuilder.events import warn
from imgbuilder.machinereadable import CAPABILITIES, json_lines, open_stream
from imgbuilder.services import Settings
from imgbuilder.sizes import parse_size
from imgindex import __version__

_STARTED = time.monotonic()
_MACHINE_MODES = ("run_script", "libvirt_xml", "virt_install")
_CACHE_MODES = ("cache_all_templates", "cache_add", "cache_gc", "cache_verify")
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
    if options["machine_readable"] is not None:
        if not options["names"]:
            show("\n".join([*CAPABILITIES, ""]))
            return
        tell = json_lines(open_stream(options["machine_readable"]))
        for told in filter(None, (reporter, outer)):
            told.machine = tell
    ctx.obj = reporter
    options = with_recipe(ctx, options)
    settings = _settings(options)
    if options["curl"] is not None:
        warn(reporter, "--curl has no effect: pybuilder downloads by itself")
    if options["gpgkey"] is not None and options["add_source"] is None:
        raise UsageError("--gpgkey goes with --add-source", hint="for --source, give --fingerprint")
    if options["doctor"]:
        _names(options, 0, "--doctor")
        ctx.exit(modes.doctor(settings, reporter))
    elif options["firstboot_log"] is not None:
        _names(options, 0, "--firstboot-log")
        ctx.exit(modes.firstboot_log(settings, reporter, Path(options["firstboot_log"]), options["format_"]))
    elif options["delete_cache"]:
        _names(options, 0, "--delete-cache")
        modes.delete_cache(settings, reporter)
    elif options["list_sources"] or options["forget_source"] is not None or options["add_source"] is not None:
        ctx.exit(_source_mode(settings, reporter, options))
    elif options["print_cache"]:
        _names(options, 0, "--print-cache")
        modes.print_cache(settings, reporter, verbose=options["verbose"])
    elif options["export_bundle"] is not None or any(options[name] for name in _CACHE_MODES):
        ctx.exit(_cache_mode(settings, reporter, options))
    elif options["list_"] or options["long"] or options["search"] is not None:
        list_templates(settings, reporter, _list_request(options))
    elif options["get_kernel"] is not None:
        _names(options, 0, "--get-kernel IMAGE")
        refuse_operations(ctx, "--get-kernel")
        from imgbuilder.cli.requests import kernel_request  # late: --list stays quick

        modes.copy_kernel(settings, reporter, kernel_request(options))
    elif any(options[name] is not None for name in _MACHINE_MODES):
        from imgbuilder.cli import machine_modes

        _names(options, 0, "describing a machine")
        refuse_operations(ctx, "a description of a machine")
        mode = next(name for name in _MACHINE_MODES if options[name] is not None)
        machine_modes.describe_machine(reporter, options, mode)
    elif options["notes"]:
        modes.print_notes(settings, reporter, _names(options, 1, "--notes")[0], _arch(options))
    else:
        from imgbuilder.cli.requests import build_request

        check_template(ctx, options)
        request = build_request(ctx, _names(options, 1, "building")[0], _arch(options), options)
        if options["write_recipe"] is not None and write_recipe(ctx, options):
            return
        modes.build_image(settings, reporter, request, dry_run=options["dry_run"], quiet=options["quiet"])


def _cache_mode(settings: Settings, reporter: ConsoleReporter, options: dict[str, Any]) -> int:
    from imgbuilder.cli import cache_modes  # late: --list stays quick

    if options["export_bundle"] is not None:
        wanted = options["export_bundle"], options["names"], _arch(options)
        cache_modes.export_bundle(settings, reporter, Path(wanted[0]), *wanted[1:])
        return 0
    if options["cache_add"]:
        cache_modes.cache_add(settings, reporter, options["names"])
        return 0
    mode = next(name for name in _CACHE_MODES if options[name])
    _names(options, 0, f"--{mode.replace('_', '-')}")
    if mode == "cache_gc":
        cache_modes.cache_gc(settings, reporter)
        return 0
    run_mode = cache_modes.cache_all if mode == "cache_all_templates" else cache_modes.cache_verify
    return run_mode(settings, reporter)


def _source_mode(settings: Settings, reporter: ConsoleReporter, options: dict[str, Any]) -> int:
    from imgbuilder.cli import source_modes  # late: --list stays quick

    if options["add_source"] is not None:
        if len(options["names"]) != 1:
            raise UsageError(
                "--add-source needs a name and an address",
                hint="pybuilder --add-source NAME URL --gpgkey FILE",
            )
        source_modes.add_source(
            settings, reporter, options["add_source"], options["names"][0], options["gpgkey"]
        )
    elif options["list_sources"]:
        _names(options, 0, "--list-sources")
        return source_modes.list_sources(settings, reporter, ask=options["long"])
    else:
        _names(options, 0, "--forget-source")
        source_modes.forget_source(settings, reporter, options["forget_source"])
    return 0


def _settings(options: dict[str, Any]) -> Settings:
    return Settings(
        sources=options["sources"],
        fingerprints=options["fingerprints"],
        check_signature=options["check_signature"],
        cache=None if options["cache"] is None else Path(options["cache"]),
        use_cache=not options["no_cache"],
        cache_size=None if options["cache_size"] is None else parse_size(options["cache_size"]),
        offline=options["offline"],
        instant=not options["no_instant"],
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
        The exit code, see ``imgbuilder.boundary``.
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
