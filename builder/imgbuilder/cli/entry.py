"""The program ``pybuilder``: lists and help take a shortcut, all else goes to ``cli.main``.

Loading click and the declarations of all options takes longer than listing a
local source. So a command line that only lists, in unabbreviated words, is read
here; anything else, including mistakes, is left to click, which reads these
words in the same way (``tests/unit/imgbuilder/cli/test_entry.py``).

A lone ``--version`` or ``--help`` is answered here for all programs. The text of
``--help`` is in a file that ``scripts/manual`` writes with click.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgbuilder.services import Services, Settings
    from imgbuilder.terminal.reporter import ConsoleReporter
    from imgindex.model import Entry

_STARTED = time.monotonic()
_FLAGS = frozenset({"-l", "--list", "--long", "-q", "--quiet", "--no-check-signature"})
_OPTIONS = frozenset({"--list-format", "--source", "--fingerprint"})
_VERSION = ("-V", "--version")
_HELP = ("-h", "--help")
_HELP_WIDTH = 80
"""Columns for which the files with the help are written; click writes no wider help."""
STYLES = ("short", "long", "json", "full")
"""Values of ``--list-format``."""


class TemplateQuery(NamedTuple):
    """The templates to list, and how."""

    name: str | None
    """The only template, or a shell pattern; None for all."""
    arch: str
    """The architecture of ``name``."""
    style: str
    """One of ``STYLES``."""
    word: str | None = None
    """A word that the templates must have somewhere; None for all."""


class PlainList(NamedTuple):
    """A command line that only lists all templates."""

    settings: Settings
    request: TemplateQuery
    quiet: bool


def plain_list(arguments: list[str]) -> PlainList | None:
    """Read a command line if it only lists all templates, in plain words; else None, also if it is wrong."""
    from imgbuilder.host.arch import host_arch  # late, as all that follows: see main
    from imgbuilder.services import Settings

    flags: set[str] = set()
    verb = False
    values: dict[str, list[str]] = {option: [] for option in _OPTIONS}
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word in _FLAGS:
            flags.add(word)
        elif word == "list" and not verb:
            verb = True
        elif name in _OPTIONS:
            values[name].append(value if equals else next(words, "-"))
        else:
            return None
    styles = values["--list-format"]
    if verb == bool(flags & {"-l", "--list"}) and (verb or "--long" not in flags):
        return None  # neither the verb nor the option, or both
    if any(style not in STYLES for style in styles):
        return None
    if any(value.startswith("-") for given in values.values() for value in given):
        return None
    style = styles[-1] if styles else "long" if "--long" in flags else "short"
    settings = Settings(
        sources=tuple(values["--source"]),
        fingerprints=tuple(values["--fingerprint"]),
        check_signature="--no-check-signature" not in flags,
    )
    return PlainList(settings, TemplateQuery(None, host_arch(), style), bool(flags & {"-q", "--quiet"}))


def list_templates(services: Services, reporter: ConsoleReporter, request: TemplateQuery) -> None:
    """Print the templates."""
    from imgbuilder.catalog import listing  # late, as all that is imported here: see main
    from imgbuilder.errors import PybuilderError, UsageError
    from imgbuilder.terminal.reporter import show

    name = request.name
    if name is not None and not listing.is_pattern(name):
        catalog = services.catalog(reporter, until=(name, request.arch))
        entries: tuple[Entry, ...] = (catalog.select(name, request.arch, only_shown=True).entry,)
    else:
        catalog = services.catalog(reporter)
        # Only there can be seen which is which.
        offers = catalog.every_offer if request.style == "full" else catalog.offers
        entries = tuple(offer.entry for offer in offers)
        if name is not None:
            entries = listing.matching(entries, name)
        elif request.word is not None:
            entries = listing.search(entries, request.word)
        if not entries and (name, request.word) != (None, None):
            problem = PybuilderError if request.word is not None else UsageError  # a search ends as grep's
            raise problem(
                f"no template matches {name or request.word!r}", hint="to see all templates: pybuilder list"
            )
    # As in virt-builder, what was chosen is listed without its source.
    sources = catalog.sources if (name, request.word) == (None, None) else ()
    reporter.close()
    match request.style:
        case "full":
            text = listing.full_list(catalog, entries, services.clock())
        case "json":
            text = listing.json_list(sources, entries)
        case "long":
            text = listing.long_list(sources, entries, listing.preferred_languages(message_locale()))
        case _:
            text = listing.short_list(entries)
    show(text)


def message_locale() -> str:
    """Return the locale for messages; as in virt-builder, a locale that is missing here counts as C."""
    import locale  # late: only notes have languages

    try:
        return locale.setlocale(locale.LC_MESSAGES, "")
    except locale.Error:
        return "C"
    finally:
        locale.setlocale(locale.LC_MESSAGES, "C")  # our own messages, and the system's in them, are English


def main() -> None:
    """Run the command and exit.

    Python's search for reference cycles, while modules are loaded and once more at the exit, would take a
    tenth of a list's time and find nothing. It is off until something longer than a list begins, and what
    is there at the end is left to the system.
    """
    gc.disable()
    code = run_quietly(run)
    gc.freeze()
    sys.exit(code)


def customize() -> None:
    """Run ``pybuilder-customize`` and exit."""

    def run_late(arguments: list[str]) -> int:
        code = answer_at_once("pybuilder-customize", arguments, __file__)
        if code is not None:
            return code
        from imgbuilder.cli import customize_main  # late: Ctrl-C meanwhile is for run_quietly

        return customize_main.run(arguments)

    sys.exit(run_quietly(run_late))


def answer_at_once(program: str, arguments: list[str], module: str) -> int | None:
    """Answer a lone ``--version`` or ``--help``; None for any other command line.

    Args:
        program: The name of the program.
        arguments: Its command line.
        module: A file in the folder of the program's help, PROGRAM.txt.

    Returns:
        The exit code.
    """
    if len(arguments) != 1:
        return None
    if arguments[0] in _VERSION:
        from imgindex import __version__  # late: this module is loaded for lists as well

        text = f"{program} {__version__}\n"
    elif arguments[0] in _HELP and _columns() >= _HELP_WIDTH:
        from pathlib import Path  # late, as above

        text = Path(module).with_name(f"{program}.txt").read_text(encoding="utf-8")
    else:
        return None
    from imgbuilder.terminal.boundary import run_command
    from imgbuilder.terminal.reporter import ConsoleReporter, show

    return run_command(lambda: show(text), ConsoleReporter(program), verbose=False)


def _columns() -> int:
    """Return the width for which click would write the help."""
    import shutil  # late: it takes a tenth of a list's time

    return shutil.get_terminal_size().columns


def run_quietly(program: Callable[[list[str]], int]) -> int:
    """Return a program's exit code, also when Ctrl-C comes while Python still loads its modules."""
    try:
        return program(sys.argv[1:])
    except KeyboardInterrupt:
        return 128 + 2  # SIGINT


def run(arguments: list[str]) -> int:
    """Run the command and return its exit code, see ``imgbuilder.terminal.boundary``."""
    code = answer_at_once("pybuilder", arguments, __file__)
    if code is not None:
        return code
    plain = plain_list(arguments)
    if plain is None:
        from imgbuilder.cli import main as full  # late: that is the point of this module

        gc.enable()
        return full.run(arguments)
    from imgbuilder.services import Services
    from imgbuilder.terminal.boundary import run_command
    from imgbuilder.terminal.reporter import ConsoleReporter

    console = ConsoleReporter("pybuilder", quiet=plain.quiet, started=_STARTED)
    return run_command(
        lambda: list_templates(Services(plain.settings), console, plain.request), console, verbose=False
    )
