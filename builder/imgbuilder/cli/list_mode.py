"""``pybuilder list``; it loads little, since it is over in less time than click takes to load."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from imgbuilder.catalog import listing
from imgbuilder.errors import UsageError
from imgbuilder.host.text import printable

if TYPE_CHECKING:
    from imgbuilder.services import Services
    from imgbuilder.terminal.console import ConsoleReporter
    from imgindex.model import Entry

STYLES = ("short", "long", "json", "full")
"""Values of ``--list-format``."""


class ListRequest(NamedTuple):
    """A request for a list.

    Attributes:
        name: The only template, or a shell pattern; None for all.
        arch: The architecture of ``name``.
        style: One of ``STYLES``.
        word: A word that the templates must have somewhere; None for all.
    """

    name: str | None
    arch: str
    style: str
    word: str | None = None


def list_templates(services: Services, reporter: ConsoleReporter, request: ListRequest) -> None:
    """Print the templates."""
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
            raise UsageError(
                f"no template fits {name or request.word!r}", hint="to see all templates: pybuilder list"
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


def show(text: str) -> None:
    """Print a result line by line, made printable: names and notes come from publishers."""
    sys.stdout.write("\n".join(printable(line) for line in text.split("\n")))
