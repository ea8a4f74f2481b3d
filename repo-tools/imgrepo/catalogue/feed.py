"""The Atom feed (RFC 4287): each revision of a template is an entry, with an id that never changes."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from urllib.parse import quote
from xml.etree import ElementTree as ET

from imgrepo.catalogue.model import Page, Site
from imgrepo.catalogue.text import address, line

_ATOM = "http://www.w3.org/2005/Atom"
FEED_NAME = "atom.xml"


def write_feed(site: Site, site_url: str) -> str:
    """Write the feed.

    Args:
        site: The catalogue.
        site_url: URL of the site, with a slash at its end; empty when not known. Then links are relative
            to the feed's URL, as RFC 4287 allows (section 2).
    """
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
