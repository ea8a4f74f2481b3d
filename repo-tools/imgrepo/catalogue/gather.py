"""Gathers the content of the catalogue: the signed index decides what is shown, entries add details."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from imgbuilder.events import Reporter
from imgrepo.catalogue import memory, text
from imgrepo.catalogue.entries import Library
from imgrepo.catalogue.model import CalendarDay, CatalogueRequest, Copied, Downloads, Page, Site
from imgrepo.catalogue.pages import Maker, page_base
from imgrepo.catalogue.revisions import Past
from imgrepo.services import Services
from imgrepo.stats import Statistics, bar_chart
from imgrepo.webroot.revisions import history
from imgrepo.webroot.signing import read_served

Years = tuple[tuple[int, tuple[CalendarDay, ...]], ...]
_SPACE = uuid.UUID("8f0d3f4e-6f55-5b0e-9a5c-3d0c1c2b7a11")
"""Namespace of the identifiers of feeds (RFC 9562, section 5.5)."""


@dataclass(frozen=True)
class Gathered:
    """The content of the pages, the files to copy by path in the site, and the memory for the next run."""

    site: Site
    files: Mapping[str, Copied]
    remembered: memory.Memory


def gather(
    request: CatalogueRequest, services: Services, on_event: Reporter, statistics: Statistics | None = None
) -> Gathered:
    """Read the index, the entries, and the memory of the last run."""
    now = services.clock()
    published, signed = read_served(request.webroot, services)
    before = memory.read_memory(request.output)
    identity = f"urn:uuid:{uuid.uuid5(_SPACE, signed.primary_fingerprint)}"
    if before is not None:
        identity = before.identity  # even if the key changed: feed readers must not see every entry as new
    library = Library(request, services, on_event)
    past = Past(history(request.webroot, services).lines)
    maker = Maker(request.base_url, signed, statistics, before, past)
    for entry in published.index.entries:
        found = None if entry.hidden else library.find(entry, now)
        if found is not None:
            maker.add(entry, found, library.parts(found, page_base(entry)))
    years = calendar(library.days(), maker.pages, now) if request.calendar else None
    site = Site(
        title=text.line(request.title) or "Disk images",
        identity=identity,
        base_url=request.base_url,
        home="../" if request.output.absolute().parent == request.webroot.absolute() else "",
        signer=signed.primary_fingerprint,
        signed_at=signed.signed_at,
        pages=tuple(maker.pages),
        years=years,
        year=_current(years, now.year),
        downloads=None if statistics is None else _all_downloads(statistics),
    )
    return Gathered(site, maker.files, memory.Memory(identity, maker.shown))


def calendar(days: list[datetime], pages: list[Page], now: datetime) -> Years:
    """Lay out the calendar: years, newest first, with their days in order; days after ``now`` are closed."""
    by_day: dict[date, list[Page]] = {moment.date(): [] for moment in days}
    # Of a day whose entries wait for different hours, those that are due are shown.
    for page in pages:
        if page.day is not None:
            by_day.setdefault(page.day, []).append(page)
    open_days = {moment.date() for moment in days if moment <= now}
    made: dict[int, list[CalendarDay]] = {}
    for day in sorted(by_day):
        made.setdefault(day.year, []).append(CalendarDay(day, tuple(by_day[day]) if day in open_days else ()))
    return tuple((year, tuple(made[year])) for year in sorted(made, reverse=True))


def _current(years: Years | None, this: int) -> int | None:
    """Return the newest year that has begun; else the next one."""
    known = [year for year, _days in years or ()]
    return max((year for year in known if year <= this), default=min(known, default=None))


def _all_downloads(found: Statistics) -> Downloads | None:
    if found.first is None or found.last is None:
        return None
    days: Counter[date] = sum((count.days for count in found.counts if count.is_known), Counter())
    chart = bar_chart("Downloads of all templates", days, found.first, found.last)
    known = sum(count.downloads for count in found.counts if count.is_known)
    return Downloads(known, found.clients, found.first, found.last, chart)
