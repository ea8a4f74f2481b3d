"""The content of the catalogue: frozen data, already cleaned for a page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from imgrepo.library.approval import Approval
from imgrepo.library.records import BootRecord, Package, SourceGap
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
    """A package that changed since the last revision.

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
        whole_command: The same for others.
        notes: Language and paragraphs; of the default one, the language is empty.
        notice: The deprecation notice; empty without one.
        replaced_by: The template to use instead; empty without one.
        day: The day that it was held back for, or None.
        changes: None when there is no older revision, or packages are not known.
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
    whole_command: str
    description: tuple[str, ...] = ()
    notes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    hints: tuple[str, ...] = ()
    licence: str = ""
    contributor: str = ""
    homepage: str | None = None
    offer: str = ""
    tags: tuple[str, ...] = ()
    system: str = ""
    aliases: tuple[str, ...] = ()
    notice: str = ""
    replaced_by: str = ""
    day: date | None = None
    picture: Picture | None = None
    thumbnail: Picture | None = None
    packages: tuple[Package, ...] | None = None
    changes: Changes | None = None
    boot: BootRecord | None = None
    sources: Sources | None = None
    review: Approval | None = None
    downloads: Downloads | None = None

    @property
    def summary(self) -> tuple[str, ...]:
        """Paragraphs that say what it is: the description, else the notes."""
        return self.description or (self.notes[0][1] if self.notes else ())


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

    @property
    def source_name(self) -> str:
        """A name for this library among the sources of a user: that of its host."""
        return re.sub(r"[^A-Za-z0-9-]+", "-", urlsplit(self.base_url).hostname or "").strip("-") or "library"

    @property
    def in_rows(self) -> bool:
        """True if the list has rows instead of cards at first, as most templates have no picture."""
        return sum(page.thumbnail is not None for page in self.pages) * 2 < len(self.pages)
