"""The command ``pybuilder``: virt-builder's command line, and verbs for what is ours (``docs/adr/0040``)."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from imgbuilder.cli import options as declared
from imgbuilder.cli.customizing import NAMES, SectionedCommand, customization_options
from imgbuilder.cli.getopt import OTHER, VIRT_BUILDER, GetoptGroup, Option, standard, version_option
from imgbuilder.cli.options import BUILD_OPTIONS, CACHE_OPTIONS, MESSAGES, SOURCE_OPTIONS, Operands
from imgbuilder.cli.program import Tools, run_program
from imgbuilder.cli.recipes import with_recipe
from imgbuilder.cli.requests import Call, settings_of
from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.events import warn
from imgbuilder.host.text import printable
from imgbuilder.services import Services
from imgbuilder.terminal.reporter import CAPABILITIES, ConsoleReporter, json_lines, open_stream
from imgindex import __version__

_STARTED = time.monotonic()
_EPILOG = """Customizations are carried out in the order of the command line.

pybuilder help shows the manual page, pybuilder help VERB explains a verb."""
_FIRST_STEPS = """\
pybuilder builds bootable disk images from signed templates. To begin:

  pybuilder list                                  which templates there are
  pybuilder notes debian-12                       what the publisher says about one
  pybuilder plan debian-12 --install nginx        what a build would do
  pybuilder run debian-12 --install nginx         build it, and run it in this terminal
  pybuilder debian-12 --size 20G --install nginx  build debian-12.img
  pybuilder machine script debian-12.img -o run   write a script that boots it
  pybuilder doctor                                check what a build needs
  pybuilder --help                                all verbs and options
"""

_HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]*")

Mode = Callable[[Call], int | None]


def _names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Propose the names of templates in the last accepted indexes, and the verbs."""
    found = []
    if isinstance(ctx.command, click.Group) and not ctx.params.get("names"):
        found = [CompletionItem(str(verb.name), help=verb.get_short_help_str()) for verb in VERBS]
    with contextlib.suppress(PybuilderError):  # completion shows no messages; what was asked for will
        from imgbuilder.cli.meant import known_templates  # late: start-up stays quick

        settings = settings_of({**ctx.find_root().params, **ctx.params})
        for name, title in known_templates(settings).items():
            if _HARMLESS.fullmatch(name):  # other characters of an alias could mean something to a shell
                found.append(CompletionItem(name, help=printable(title)))
    return [item for item in found if item.value.startswith(incomplete)]


def _known(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Propose the names of public libraries."""
    from imgbuilder.catalog.known import known_sources  # late: few command lines need them

    known = [] if ctx.params.get("names") else known_sources().values()
    return [CompletionItem(item.name, help=item.title) for item in known if item.name.startswith(incomplete)]


def _late(place: str) -> Mode:
    """Return a function of a module that is loaded when it is called: lists stay quick."""

    def run(call: Call) -> int | None:
        module, _, name = place.partition(":")
        code: int | None = getattr(import_module(f"imgbuilder.cli.{module}"), name)(call)
        return code

    return run


MODES: dict[str, Mode] = {
    "list_": _late("modes:list_or_search"),
    "notes": _late("modes:print_notes"),
    "print_cache": _late("cache_modes:print_cache"),
    "delete_cache": _late("cache_modes:delete_cache"),
    "cache_all_templates": _late("cache_modes:cache_all"),
    "get_kernel": _late("modes:copy_kernel"),
}
"""virt-builder's modes, by the names of the options' values."""


class _Program(GetoptGroup, SectionedCommand):
    """``pybuilder`` itself: a build, one of virt-builder's modes, or a verb."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return what follows the program's name in the help."""
        return ["OS-VERSION | VERB | --list", "[OPTION]..."]


@click.pass_context
def _start(ctx: click.Context, /, **values: Any) -> None:
    """Choose a mode of ``pybuilder`` without a verb, and run it."""
    if ctx.invoked_subcommand is not None:
        return
    # As in virt-builder, the last of several wins: `--delete-cache --list` deletes nothing.
    given = ctx.meta[NAMES]
    chosen = next((name for name in reversed(given) if name in MODES), "list_" if values["long"] else None)
    if not given and not values["names"]:
        click.echo(_FIRST_STEPS, nl=False, err=True)
        ctx.exit(UsageError.exit_code)
    if chosen is None:
        ctx.exit(_run(ctx, values, _late("modes:build_image"), "building"))
    label = "--list" if chosen == "list_" else f"--{chosen.replace('_', '-')}"
    ctx.exit(_run(ctx, values, MODES[chosen], label))


def _run(ctx: click.Context, values: dict[str, Any], mode: Mode, label: str) -> int:
    """Read the values of a command line and run what they ask for."""
    reporter = ctx.obj.reporter
    reporter.quiet, reporter.verbose = values["quiet"], values["verbose"] or values["trace"]
    reporter.colour, reporter.wrap = values["colour"], values["wrap"]
    ctx.call_on_close(reporter.close)
    machine = None if values["machine_readable"] is None else open_stream(values["machine_readable"])
    only_capabilities = machine is not None and ctx.parent is None and not values["names"]
    if machine is not None and not only_capabilities:
        reporter.machine = json_lines(machine)
    # A verb has the values of its own options, and the defaults of all others.
    call = Call(ctx, {**ctx.find_root().params, **with_recipe(ctx, values)}, label)
    if only_capabilities:
        assert machine is not None
        machine.write("\n".join([*CAPABILITIES, ""]))
        machine.flush()
        return 0
    if call.options["curl"] is not None:
        warn(reporter, "--curl has no effect: pybuilder downloads by itself")
    return mode(call) or 0


def _verb(
    name: str,
    help_text: str,
    mode: str,
    operands: str = "",
    *,
    options: Sequence[click.Parameter] = (),
    builds: bool = False,
    complete: declared.Completer | None = None,
) -> click.Command:
    """Make the command of a verb."""

    @click.pass_context
    def start(ctx: click.Context, /, **values: Any) -> None:
        ctx.exit(_run(ctx, values, _late(mode), ctx.command_path.removeprefix("pybuilder ")))

    return SectionedCommand(
        name,
        theirs=VIRT_BUILDER,
        help=help_text,
        callback=start,
        most_used=declared.MOST_USED if builds else (),
        params=[
            Operands(operands, _names if "OS-VERSION" in operands else complete),
            *options,
            *(customization_options() if builds else ()),
            *MESSAGES,
            *standard(),
        ],
    )


def _group(name: str, help_text: str, *commands: click.Command) -> click.Command:
    """Make the command of a group of verbs."""
    return GetoptGroup(
        name,
        theirs=VIRT_BUILDER,
        help=help_text,
        commands={str(command.name): command for command in commands},
        options_metavar="",
        subcommand_metavar="VERB [OPTION]...",
        context_settings={"help_option_names": ["--help"], "max_content_width": 80},
    )


_STORE = (*SOURCE_OPTIONS, *CACHE_OPTIONS)
_PLANNING = [option for option in BUILD_OPTIONS if option not in {declared.DRY_RUN, *MESSAGES}]
_IMAGE = (declared.DISK_FORMAT, declared.KEY, declared.APPLIANCE_FOLDER, declared.NO_CACHE)
_LISTING = (*declared.LISTING, declared.ARCH, *SOURCE_OPTIONS)

VERBS = (
    _verb(
        "build", "Build an image; the word build may be left out.", "modes:build_image", "OS-VERSION",
        options=[*_PLANNING, declared.DRY_RUN], builds=True,
    ),
    _verb(
        "plan", "Show what a build would do.", "modes:plan_image", "OS-VERSION", options=_PLANNING,
        builds=True,
    ),
    _verb(
        "list", "List the templates, or only OS-VERSION or 'debian*'.", "modes:list_or_search",
        "[OS-VERSION]", options=_LISTING,
    ),
    _verb(
        "search", "List the templates that mention WORD anywhere.", "modes:list_or_search",
        "WORD", options=_LISTING,
    ),
    _verb(
        "notes", "Show the publisher's notes about a template.", "modes:print_notes", "OS-VERSION",
        options=[declared.ARCH, *SOURCE_OPTIONS],
    ),
    _verb(
        "doctor", "Check everything that a build needs, and print what to fix.", "modes:doctor",
        options=_STORE,
    ),
    _group(
        "cache", "The templates that are kept on this machine.",
        _verb("list", "Show which templates are in the cache.", "cache_modes:print_cache", options=_STORE),
        _verb(
            "add", "Put local template files into the cache.", "cache_modes:cache_add", "FILE...",
            options=_STORE,
        ),
        _verb("all", "Download all templates into the cache.", "cache_modes:cache_all", options=_STORE),
        _verb(
            "gc", "Remove what is over the limit of the cache.", "cache_modes:cache_gc", options=CACHE_OPTIONS
        ),
        _verb(
            "verify", "Check all bytes of the cache; remove what is damaged.", "cache_modes:cache_verify",
            options=[declared.REPAIR, declared.REUSE, *_STORE],
        ),
        _verb(
            "export", "Pack templates into a FILE.pybundle, for offline machines.",
            "cache_modes:cache_export", "FILE OS-VERSION...", options=[declared.ARCH, *_STORE],
        ),
        _verb(
            "share", "Lend templates of the cache to neighbours, until Ctrl-C.", "cache_modes:cache_share",
            "ADDRESS:PORT", options=_STORE,
        ),
        _verb("delete", "Delete the cache.", "cache_modes:delete_cache", options=CACHE_OPTIONS),
    ),
    _group(
        "source", "Where templates come from.",
        _verb(
            "add", "Verify a source and add it to your configuration.", "source_modes:add_source",
            "NAME [URL]", options=[declared.GPGKEY, declared.ONLY_KEYS, *declared.FORGET_OPTIONS],
            complete=_known,
        ),
        _verb(
            "available", "List public libraries that can be added by name.", "source_modes:available_sources",
        ),
        _verb(
            "list", "List the sources: who signed each, and when.", "source_modes:list_sources",
            options=[declared.ASK, *SOURCE_OPTIONS],
        ),
        _verb(
            "forget", "Forget the newest index that was accepted of a source.",
            "source_modes:forget_source", "NAME|URL", options=declared.FORGET_OPTIONS,
        ),
    ),
    _group(
        "recipe", "Command lines that are kept in files.",
        _verb(
            "write", "Write the command line of a build as a recipe; - prints it.",
            "recipes:write_recipe", "FILE.toml|- OS-VERSION", options=_PLANNING, builds=True,
        ),
        _verb("schema", "Print the JSON Schema of recipes, for editors.", "recipes:print_schema"),
        _verb(
            "check", "Read recipes and all that they include, and check them.", "recipes:check_recipes",
            "FILE...",
            options=[Option(OTHER, "--set", "variables", multiple=True, metavar="NAME=VALUE",
                            help="Give a variable of the recipes a value.")],
        ),
    ),
    _group(
        "fleet", "Many machines from one file.",
        _verb(
            "plan", "Show the hosts of a fleet, or all its mistakes.",
            "fleets:plan_fleet", "FILE", options=[declared.JSON, *_STORE],
        ),
        _verb(
            "build", "Build the hosts that are not built, several at a time.",
            "fleets:build_fleet", "FILE", options=[*declared.FLEET, *_STORE, *declared.FLEET_BUILDS],
        ),
        _verb(
            "status", "Show which hosts are built, failed or outdated.",
            "fleets:fleet_status", "FILE", options=[declared.JSON, *_STORE],
        ),
        _verb(
            "export", "Print a job that builds a fleet on several machines.", "fleets:export_fleet", "FILE",
            options=declared.FLEET_EXPORT,
        ),
        _verb("schema", "Print the JSON Schema of fleets, for editors.", "fleets:print_schema"),
    ),
    _verb(
        "run", "Run a template or an image in this terminal; customizations as in a build.", "machines:run",
        "OS-VERSION|IMAGE", options=declared.RUN, builds=True,
    ),
    _group(
        "machine", "Ways to run an image that was built.",
        _verb(
            "script", "Write a shell script that runs an image with QEMU.", "machines:machine_script",
            "IMAGE", options=[*declared.RUNNING, declared.FORWARD, *declared.MACHINE],
        ),
        _verb(
            "libvirt", "Write a domain of libvirt that runs an image.", "machines:machine_libvirt", "IMAGE",
            options=[*declared.RUNNING, *declared.MACHINE],
        ),
        _verb(
            "virt-install", "Write the virt-install command for an image.", "machines:machine_virt_install",
            "IMAGE", options=[*declared.RUNNING, *declared.MACHINE],
        ),
    ),
    _verb(
        "unlink", "Make an image of --linked independent of the cache.", "cache_modes:unlink_image", "IMAGE",
        options=CACHE_OPTIONS,
    ),
    _verb(
        "firstboot-log", "Show how the first-boot scripts of an image fared.", "modes:firstboot_log", "IMAGE",
        options=[*_IMAGE, declared.NO_INSTANT],
    ),
    _verb(
        "get-kernel", "Copy the newest kernel of an image and its initrd.", "modes:copy_kernel", "IMAGE",
        options=[*declared.KERNEL, declared.FOLDER, *_IMAGE, *declared.LAUNCHING],
    ),
    _verb("help", "Show the manual page, or explain a verb.", "modes:show_help", "[VERB]..."),
)  # fmt: skip
"""Our verbs, in the order of the help."""

pybuilder = _Program(
    "pybuilder",
    theirs=VIRT_BUILDER,
    help="Build a bootable disk image from a template of a signed repository, without root.\n\n"
    "OS-VERSION is a name or an alias of a template, as 'pybuilder list' shows them.",
    epilog=_EPILOG,
    callback=_start,
    invoke_without_command=True,
    commands={str(verb.name): verb for verb in VERBS},
    most_used=declared.MOST_USED,
    params=[
        Operands("", _names),
        *declared.MODES,
        *declared.LISTING,
        *BUILD_OPTIONS,
        *customization_options(),
        *standard(),
        version_option(__version__),
    ],
)


def run(arguments: Sequence[str], make_services: Callable[..., Services] = Services) -> int:
    """Run the command and return its exit code, see ``imgbuilder.terminal.boundary``."""
    console = ConsoleReporter("pybuilder", started=_STARTED)
    return run_program(pybuilder, arguments, console, Tools(console, make_services))
