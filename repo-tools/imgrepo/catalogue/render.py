"""Renders the pages with jinja2, which escapes everything it is given."""

from __future__ import annotations

from datetime import date, datetime
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from imgrepo.catalogue import text
from imgrepo.catalogue.feed import FEED_NAME, write_feed
from imgrepo.catalogue.model import Downloads, Site

_STATIC = ("style.css", "catalogue.js", "icon.svg")
START = "index.html"


def _fit(value: object) -> object:
    """Return the value of an expression without misleading characters."""
    if isinstance(value, Markup):
        return Markup(text.fit(value))  # noqa: S704 - it was markup before
    return text.fit(value) if isinstance(value, str) else value


def render(site: Site, site_url: str = "") -> dict[str, bytes]:
    """Return the files of the site by path, except files that are copied.

    Args:
        site: The content.
        site_url: Address of the site, with a slash at its end; empty when not known.
    """
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
        "moment": _moment,
        "day": _day,
        "monthname": _month,
        "chart": _chart,
        "link": text.link,
        "line": text.line,
    }
    made = {name: _static(name) for name in _STATIC}

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
    made[FEED_NAME] = write_feed(site, site_url).encode()
    page(START, "index.html", choices=_choices(site))
    return made


def _static(name: str) -> bytes:
    return (resources.files("imgrepo.catalogue") / "static" / name).read_bytes()


def _choices(site: Site) -> dict[str, list[str]]:
    """Return the choices of each filter of the list."""
    return {
        "arch": sorted({page.arch for page in site.pages}),
        "tag": sorted({tag for page in site.pages for tag in page.tags}),
        "licence": sorted({page.licence for page in site.pages if page.licence}),
        "system": sorted({page.system for page in site.pages if page.system}),
    }


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _day(day: date) -> str:
    return f"{day.day} {_month(day)}"


def _month(day: date) -> str:
    return _MONTHS[day.month - 1]


_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September", "October"),
    *("November", "December"),
)


def _chart(downloads: Downloads) -> Markup:
    """Return the chart as markup: ``imgrepo.stats.plot`` made it with an XML writer, which has escaped it."""
    return Markup(downloads.chart)  # noqa: S704
