"""What ``pybuilder`` can do, a function each; the results go to standard output."""

from __future__ import annotations

import locale
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from imgbuilder import paths
from imgbuilder.catalog import listing
from imgbuilder.catalog.fulllist import full_list
from imgbuilder.console import printable
from imgbuilder.errors import UsageError
from imgbuilder.events import Step
from imgbuilder.services import Services, Settings

if TYPE_CHECKING:
    from imgbuilder.console import ConsoleReporter
    from imgbuilder.request import BuildRequest
    from imgindex.model import Entry


@dataclass(frozen=True)
class ListRequest:
    """What to list.

    Attributes:
        name: Only this template, or those that fit this shell pattern; None for all.
        arch: The architecture of ``name``.
        style: ``short``, ``long``, ``json`` or ``full``.
        word: Only templates that have it somewhere; None for all.
    """

    name: str | None
    arch: str
    style: str
    word: str | None = None


def list_templates(settings: Settings, report: ConsoleReporter, request: ListRequest) -> None:
    """Print the templates."""
    services = Services(settings)
    name = request.name
    if name is not None and not listing.is_pattern(name):
        catalog = services.catalog(report, until=(name, request.arch))
        entries: tuple[Entry, ...] = (catalog.select(name, request.arch).entry,)
    else:
        catalog = services.catalog(report)
        # Only there can be seen which is which.
        offers = catalog.every_offer if request.style == "full" else catalog.offers
        entries = tuple(offer.entry for offer in offers)
        if name is not None:
            entries = listing.matching(entries, name)
        elif request.word is not None:
            entries = listing.search(entries, request.word)
        if not entries and (name, request.word) != (None, None):
            raise UsageError(f"no template fits {name or request.word!r}", hint="--list shows all templates")
    # As in virt-builder, what was chosen is listed without its source.
    sources = catalog.sources if (name, request.word) == (None, None) else ()
    report.close()
    match request.style:
        case "full":
            text = full_list(catalog, entries, services.clock())
        case "json":
            text = listing.json_list(sources, entries)
        case "long":
            text = listing.long_list(sources, entries, listing.preferred_languages(_message_locale()))
        case _:
            text = listing.short_list(entries)
    show(text)


def print_notes(settings: Settings, report: ConsoleReporter, name: str, arch: str) -> None:
    """Print a template's notes in the user's language."""
    chosen = Services(settings).select(name, arch, report)
    text = listing.notes_text(chosen.entry, listing.preferred_languages(_message_locale()))
    report.close()
    show(f"There are no notes for {chosen.entry.os_version}\n" if text is None else f"{text}\n")


def print_cache(settings: Settings, report: ConsoleReporter) -> None:
    """Print which templates are in the cache."""
    from imgbuilder.cache.store import TemplateCache  # late: --list stays quick

    folder = settings.cache_folder()
    if folder is None:
        show("no cache directory\n")
        return
    catalog = Services(settings).catalog(report)
    cache = TemplateCache(folder, shared=paths.shared_caches())
    lines = [f"cache directory: {folder}"]
    for entry in catalog.entries:
        if not entry.hidden:
            state = "cached" if cache.is_cached(entry) else "no"
            lines.append(f"{entry.os_version:<24} {entry.arch:<10} {state}")
    report.close()
    show("\n".join(lines) + "\n")


def delete_cache(settings: Settings, report: ConsoleReporter) -> None:
    """Delete the cache, without asking any source."""
    from imgbuilder.cache.store import TemplateCache

    folder = settings.cache_folder()
    if folder is None:
        raise UsageError("--delete-cache and --no-cache together leave nothing to delete")
    report(Step(f"Deleting: {folder}"))
    TemplateCache(folder).delete(report)


def build_image(
    settings: Settings, report: ConsoleReporter, request: BuildRequest, *, dry_run: bool, quiet: bool
) -> None:
    """Build an image, or show how it would be built."""
    from imgbuilder.build import build, prepare, summary  # late: --list stays quick

    services = Services(settings)
    if dry_run:
        plan = prepare(request, services, report).plan
        report.close()
        show(plan.describe() + "\n")
        return
    result = build(request, services, report)
    report.close()
    if not quiet:
        show(summary(result) + "\n")


def doctor(settings: Settings, report: ConsoleReporter) -> int:
    """Print what was found about this machine; return 1 when a build would not work."""
    from imgbuilder.doctor import Health, examine

    healthy = True
    try:
        folder = settings.cache_folder()
    except UsageError:
        folder = None
    sources = [source.uri for source in settings.configured_sources(report)]
    for finding in examine(sources, folder, Services(settings).open_appliance, report):
        healthy = healthy and finding.health is not Health.BAD
        report.close()
        click.echo(printable(str(finding)))
    return 0 if healthy else 1


def _message_locale() -> str:
    """Return the locale for messages; one that this machine does not have counts as C, as in virt-builder."""
    try:
        return locale.setlocale(locale.LC_MESSAGES, "")
    except locale.Error:
        return "C"
    finally:
        locale.setlocale(locale.LC_MESSAGES, "C")  # our own messages, and the system's in them, are English


def show(text: str) -> None:
    """Print a result. Line by line printable: names and notes come from publishers (T15, P16)."""
    click.echo("\n".join(printable(line) for line in text.split("\n")), nl=False)
