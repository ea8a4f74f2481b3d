"""The content of the catalogue: frozen data, already cleaned for a page."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from imgrepo.library.approval import Approval
from imgrepo.library.records import BootRecord, Package, SourceGap, Verdict
from imgrepo.recordfile import Many


@dataclass(frozen=True)
class CatalogueRequest:
    """The catalogue to make.

    Attributes:
        base_url: Address under which ``webroot`` is served; empty when not known.
        reviewers: File of the public keys whose approvals are shown; None to show none.
    """

    library: Path
    webroot: Path
    output: Path
    title: str = "Disk images"
    base_url: str = ""
    calendar: bool = False
    reviewers: Path | None = None


@dataclass(frozen=True)
class Copied:
    """A file that is copied as it is; ``sha512`` is the digest that it must have, None for any."""

    path: Path
    sha512: str | None = None


@dataclass(frozen=True)
class Picture:
    """A picture of the site: its path there, and its size in pixels."""

    path: str
    width: int
    height: int


class Change(NamedTuple):
    """A package that changed between two revisions.

    Attributes:
        name: Its name, with its architecture where there are several.
        before: Its version then; empty when it is new.
        after: Its version now; empty when it is gone.
    """

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Changes:
    """The packages that changed since a revision, by name."""

    revision: int
    packages: Many[Change]

    @property
    def summary(self) -> str:
        """The numbers of changed packages: ``12 updated, 1 added``."""
        kinds = Counter(
            "added" if not one.before else "removed" if not one.after else "updated" for one in self.packages
        )
        found = [f"{kinds[kind]} {kind}" for kind in ("updated", "added", "removed") if kinds[kind]]
        return ", ".join(found) or "the same packages"


@dataclass(frozen=True)
class Revision:
    """A revision of a template; what is not known is None.

    Attributes:
        published: When it was published, in UTC.
        size: Bytes of the disk.
        compressed_size: Bytes of the file.
        changes: The packages that changed since the revision before.
    """

    number: int
    published: datetime | None = None
    size: int | None = None
    compressed_size: int | None = None
    changes: Changes | None = None


class Snippet(NamedTuple):
    """The lines that build an image with a tool, and a name for it."""

    tool: str
    text: str


@dataclass(frozen=True)
class Sources:
    """The source packages of a template.

    Attributes:
        path: Path of the archive in the site; empty when there is none.
        covered: Number of source packages in it.
    """

    path: str
    size: int
    sha512: str
    covered: int
    gaps: tuple[SourceGap, ...]


@dataclass(frozen=True)
class Downloads:
    """The downloads of a template, or of all; ``chart`` is SVG that ``imgrepo.stats`` drew."""

    number: int
    clients: int
    first: date
    last: date
    chart: str


@dataclass(frozen=True)
class Page:
    """A template.

    Attributes:
        name: Its name in the index.
        path: Path of its page in the site.
        size: Bytes of the disk.
        compressed_size: Bytes of the file; None when the index does not contain it.
        file: Address of the file, relative to the site.
        published: When this revision was first shown, in UTC.
        command: The command that builds it, for those who have the library as a source.
        snippets: The same for others, and for other tools.
        notes: Language and paragraphs; of the default one, the language is empty.
        notice: The deprecation notice; empty without one.
        replaced_by: The template to use instead; empty without one.
        day: The day that it was held back for, or None.
        system: The system's own name for itself.
        family: The one name that this catalogue has for the system.
        changes: None when there is no older revision, or packages are not known.
        former: The revisions before this one, newest first.
        review: The approval of what is shown; None without one, or without reviewers.
    """

    name: str
    arch: str
    path: str
    title: str
    size: int
    compressed_size: int | None
    sha512: str | None
    revision: int
    file: str
    published: datetime
    command: str
    snippets: tuple[Snippet, ...] = ()
    description: tuple[str, ...] = ()
    notes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    hints: tuple[str, ...] = ()
    licence: str = ""
    contributor: str = ""
    homepage: str | None = None
    offer: str = ""
    tags: tuple[str, ...] = ()
    system: str = ""
    family: str = ""
    aliases: tuple[str, ...] = ()
    notice: str = ""
    replaced_by: str = ""
    day: date | None = None
    picture: Picture | None = None
    thumbnail: Picture | None = None
    packages: tuple[Package, ...] | None = None
    changes: Changes | None = None
    former: tuple[Revision, ...] = ()
    boot: BootRecord | None = None
    sources: Sources | None = None
    review: Approval | None = None
    downloads: Downloads | None = None

    @property
    def summary(self) -> tuple[str, ...]:
        """Paragraphs that say what it is: the description, else the notes."""
        return self.description or (self.notes[0][1] if self.notes else ())

    @property
    def states(self) -> tuple[str, ...]:
        """The words of its badges, by which it can be found; ``new`` only holds for some days."""
        booted = self.boot is not None and self.boot.verdict is Verdict.BOOTED
        found = {
            "booted": booted,
            "did not boot": self.boot is not None and not booted,
            "signed": self.review is not None,
            "deprecated": bool(self.notice),
            "new": not self.former and self.changes is None,
        }
        return tuple(word for word, is_so in found.items() if is_so)


@dataclass(frozen=True)
class CalendarDay:
    """A day of the calendar, with its entries; none while it is closed."""

    day: date
    pages: tuple[Page, ...] = ()


@dataclass(frozen=True)
class Site:
    """The whole catalogue.

    Attributes:
        identity: Identifier of its feed, an IRI that never changes.
        base_url: Address of the served folder, with a slash at its end; empty when not known.
        home: Path from the site to the served folder, such as ``../``; empty when it is elsewhere.
        signer: Fingerprint of the key that signed the index.
        years: Days by year, newest year first; None without a calendar.
        year: The year that the calendar opens with; None without one.
    """

    title: str
    identity: str
    base_url: str
    home: str
    signer: str
    signed_at: datetime
    pages: tuple[Page, ...]
    years: tuple[tuple[int, tuple[CalendarDay, ...]], ...] | None = None
    year: int | None = None
    downloads: Downloads | None = None

    def successor(self, page: Page) -> Page | None:
        """Return the template that replaces a deprecated one, best of its architecture."""
        wanted = page.replaced_by
        found = [one for one in self.pages if wanted and (one.name == wanted or wanted in one.aliases)]
        return min(found, key=lambda one: one.arch != page.arch, default=None)

    @property
    def source_name(self) -> str:
        """A name for this library among the sources of a user: that of its host."""
        return re.sub(r"[^A-Za-z0-9-]+", "-", urlsplit(self.base_url).hostname or "").strip("-") or "library"

    @property
    def in_rows(self) -> bool:
        """True if the list has rows instead of cards at first, as most templates have no picture."""
        return sum(page.thumbnail is not None for page in self.pages) * 2 < len(self.pages)
