"""Renders the pages with jinja2, which escapes everything it is given, and the Atom feed (RFC 4287).

The pages are in ``templates/``; what they do in a browser, such as the search, is in ``static/``.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from datetime import UTC, date, datetime
from importlib import resources
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from imgrepo.catalogue import text
from imgrepo.catalogue.model import Downloads, Page, Site
from imgrepo.catalogue.text import address, line

_STATIC = ("style.css", "catalogue.js", "icon.svg")
START = "index.html"
PACKAGES_NAME, LIST_NAME = "packages.json", "list.json"
ROWS_PER_PAGE = 100
"""More make the first page slow; the script loads the others from ``list.json``."""


def _fit(value: object) -> object:
    """Return the value of an expression without misleading characters."""
    if isinstance(value, Markup):
        return Markup(text.fit(value))  # noqa: S704 - it was markup before
    return text.fit(value) if isinstance(value, str) else value


def render(site: Site, site_url: str = "") -> dict[str, bytes]:
    """Return the files of the site by path, except files that are copied."""
    environment = _environment()
    static = resources.files("imgrepo.catalogue") / "static"
    made = {name: (static / name).read_bytes() for name in _STATIC}

    def page(path: str, template: str, **values: object) -> None:
        root = "../" * path.count("/")
        html = environment.get_template(template).render(site=site, root=root, here=path, **values)
        made[path] = html.encode()

    for one in site.pages:
        page(one.path, "template.html", page=one)
    if site.years is not None:
        for year, days in site.years:
            page(f"calendar/{year}.html", "calendar.html", year=year, days=days)
            if year == site.year:
                page("calendar/index.html", "calendar.html", year=year, days=days)
        if not site.years:
            page("calendar/index.html", "calendar.html", year=None, days=())
    made[PACKAGES_NAME] = _packages(site)
    made[FEED_NAME] = write_feed(site, site_url).encode()
    page("signature.html", "signature.html")
    rows = [_row(environment, site, one) for one in site.pages]
    parts = [rows[at : at + ROWS_PER_PAGE] for at in range(0, len(rows), ROWS_PER_PAGE)] or [[]]
    choices = _choices(site)
    for number, part in enumerate(parts, 1):
        name = START if number == 1 else f"list-{number}.html"
        first = (number - 1) * ROWS_PER_PAGE
        page(name, "index.html", rows=part, number=number, first=first, last=len(parts), choices=choices)
    if len(parts) > 1:
        listed = [{**values, "html": html} for html, values in rows]
        made[LIST_NAME] = json.dumps(listed, separators=(",", ":")).encode()
    return made


def _row(environment: Environment, site: Site, page: Page) -> tuple[Markup, dict[str, str]]:
    """Return a template's row in the list, and the values by which it is found and sorted."""
    macros: Any = environment.get_template("macros.html").module
    words = (
        page.name, page.title, page.arch, page.system, page.family, page.licence, page.contributor,
        *page.tags, *page.aliases, page.notice, *page.summary,
    )  # fmt: skip
    values = {
        "text": line(" ".join(filter(None, words)), 1000).lower(),
        "name": page.title.lower(),
        "published": page.published.isoformat(),
        "downloads": str(page.downloads.number if page.downloads else 0),
        "arch": page.arch,
        "system": page.family,
        "state": "\n".join(page.states),
        "licence": page.licence,
        "tag": "\n".join(page.tags),
    }
    values = {name: text.fit(value) for name, value in values.items()}
    html: Markup = macros.row(page, site).strip()
    return html, values


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("imgrepo.catalogue"),
        autoescape=True,
        finalize=_fit,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "address": text.address,
        "size": text.size,
        "moment": lambda moment: f"{moment:%Y-%m-%d %H:%M} UTC",
        "day": lambda day: f"{day.day} {_month(day)}",
        "monthname": _month,
        "chart": _chart,
        "link": text.link,
        "line": text.line,
    }
    return environment


def render_start(site: Site, folder: str) -> bytes:
    """Return a page for the top of the served folder, which leads to the site in ``folder``."""
    return _environment().get_template("start.html").render(site=site, folder=folder).encode()


def _packages(site: Site) -> bytes:
    """Return the packages of all templates, for the search: name, version, and the rows that have it.

    The rows are ranges: the number of the first row, how many there are, and so on.
    """
    rows: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for number, page in enumerate(site.pages):
        for one in page.packages or ():
            ranges = rows[one.name, one.version]
            end = ranges[-2] + ranges[-1] if ranges else None
            if end == number:
                ranges[-1] += 1
            elif end != number + 1:  # else the row is there already
                ranges += [number, 1]
    found: dict[str, dict[str, list[int]]] = {}
    for (name, version), ranges in rows.items():
        found.setdefault(line(name), {}).setdefault(line(version), []).extend(ranges)
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode()


def _choices(site: Site) -> dict[str, list[str]]:
    """Return the choices of each filter of the list."""
    return {
        "arch": sorted({page.arch for page in site.pages}),
        "tag": sorted({tag for page in site.pages for tag in page.tags}),
        "licence": sorted({page.licence for page in site.pages if page.licence}),
        "system": sorted({page.family for page in site.pages if page.family}),
        "state": [word for word in _STATES if any(word in page.states for page in site.pages)],
    }


_STATES = ("new", "booted", "did not boot", "signed", "deprecated")


def _month(day: date) -> str:
    return _MONTHS[day.month - 1]


_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September", "October"),
    *("November", "December"),
)


def _chart(downloads: Downloads) -> Markup:
    """Return the chart as markup: ``imgrepo.stats`` made it with an XML writer, which has escaped it."""
    return Markup(downloads.chart)  # noqa: S704


_ATOM = "http://www.w3.org/2005/Atom"
FEED_NAME = "atom.xml"


def write_feed(site: Site, site_url: str) -> str:
    """Write the feed; without ``site_url``, its links are relative, as RFC 4287 allows (section 2)."""
    feed = ET.Element("feed", xmlns=_ATOM)
    _add(feed, "id", site.identity)
    _add(feed, "title", site.title)
    _add(feed, "updated", _time(max((page.published for page in site.pages), default=site.signed_at)))
    _add(_add(feed, "author"), "name", site.title)
    _add(feed, "generator", "pybuilder-repo")
    _add(feed, "link", rel="self", type="application/atom+xml", href=f"{site_url}{FEED_NAME}")
    _add(feed, "link", rel="alternate", type="text/html", href=site_url or "index.html")
    newest_first = sorted(site.pages, key=lambda page: (page.published, page.name, page.arch), reverse=True)
    for page in newest_first:
        _entry(feed, page, site, site_url)
    ET.indent(feed)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(feed, encoding="unicode") + "\n"


def _entry(feed: ET.Element, page: Page, site: Site, site_url: str) -> None:
    entry = _add(feed, "entry")
    name = f"{page.name}\n{page.arch}\n{page.revision}\n{page.sha512 or ''}"
    _add(entry, "id", f"urn:uuid:{uuid.uuid5(uuid.UUID(site.identity.removeprefix('urn:uuid:')), name)}")
    _add(entry, "title", f"{page.title}, revision {page.revision}")
    _add(entry, "updated", _time(page.published))
    _add(entry, "published", _time(page.published))
    if page.contributor:
        _add(_add(entry, "author"), "name", page.contributor)
    _add(entry, "link", rel="alternate", type="text/html", href=f"{site_url}{address(page.path)}")
    for tag in page.tags:
        _add(entry, "category", term=tag)
    paragraphs = page.description or next((part for language, part in page.notes if not language), ())
    words = " ".join(paragraphs) or page.title
    if page.changes is not None:
        words += f" Packages changed since revision {page.changes.revision}: {len(page.changes.packages)}."
    _add(entry, "summary", line(words, 2000), type="text")
    if page.sha512 and site_url and site.home:
        size = {"length": str(page.compressed_size)} if page.compressed_size else {}
        _add(
            entry, "link", rel="enclosure", type="application/octet-stream",
            href=f"{site.base_url}{quote(page.file)}", **size,
        )  # fmt: skip


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    made = ET.SubElement(parent, tag, attributes)
    made.text = text
    return made


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
