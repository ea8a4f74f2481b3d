"""Gathers the content of the catalogue: the signed index decides what is shown, entries add details."""

from __future__ import annotations

import dataclasses
import shlex
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path, PurePosixPath
from typing import TypeVar

from imgbuilder.errors import PybuilderError, RepositoryError
from imgbuilder.events import Reporter, warn
from imgindex.fields import deprecation, deprecation_notice
from imgindex.model import Entry
from imgindex.trust import VerifiedText
from imgrepo.catalogue import memory, text
from imgrepo.catalogue.model import (
    CalendarDay,
    CatalogueRequest,
    Change,
    Changes,
    Copied,
    Downloads,
    Page,
    Picture,
    Site,
    Sources,
)
from imgrepo.catalogue.text import segment
from imgrepo.images.pictures import png_size
from imgrepo.library.approval import Approval, approval_of, read_reviewers
from imgrepo.library.description import Description, read_with_digest
from imgrepo.library.folder import EntryFolder, find_entries
from imgrepo.library.records import (
    BOOT_FILE,
    CONTENTS_FILE,
    SOURCES_FILE,
    BootRecord,
    ContentsRecord,
    SourcesRecord,
)
from imgrepo.services import Services
from imgrepo.stats import Statistics, bar_chart
from imgrepo.webroot.signing import SIGNED_INDEX, read_served
from imgrepo.webroot.state import read_state

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
    library = _Library(request, services, on_event)
    maker = _Maker(request, signed, on_event, statistics, before)
    for entry in published.index.entries:
        found = None if entry.hidden else library.find(entry, now)
        if found is not None:
            maker.add(entry, found)
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


@dataclass(frozen=True)
class _Found:
    """The folder of a template in the library, if it has one that may be shown.

    Attributes:
        images: SHA-512 of the published images, by the publisher's record.
    """

    images: frozenset[str]
    folder: EntryFolder | None = None
    described: Description | None = None
    review: Approval | None = None


class _Library:
    """The entries of the library; one that cannot be read does not stop the others (T24).

    Its template is then shown without its folder, because its day may not have come yet.
    """

    def __init__(self, request: CatalogueRequest, services: Services, on_event: Reporter) -> None:
        self._report = on_event
        self._state = read_state(request.webroot, request.library)
        path = request.reviewers
        self._reviewers = None if path is None else read_reviewers(path, services)
        self._entries: dict[str, tuple[EntryFolder, Description, str]] = {}
        for folder in find_entries(request.library):
            try:
                self._entries[folder.name] = (folder, *read_with_digest(folder.description))
            except RepositoryError as error:
                warn(on_event, f"the entry {folder.name} is left out: {error.message}")

    def days(self) -> list[datetime]:
        """Return the days of all entries that have one."""
        days = (described.not_before for _folder, described, _digest in self._entries.values())
        return [day for day in days if day is not None]

    def find(self, entry: Entry, now: datetime) -> _Found | None:
        """Find the folder of a template; None for one whose day has not come."""
        key = (entry.os_version, entry.arch)
        known = {name: item for name, item in self._state.items() if (item.entry, item.arch) == key}
        images = frozenset(item.sha512 for item in known.values() if item.file == entry.file)
        # A template may have a different name from its image; the publisher's state knows.
        names = [entry.os_version, *(PurePosixPath(name).stem for name in known)]
        name = next((name for name in names if name in self._entries), None)
        if name is None:
            return _Found(images)
        folder, described, digest = self._entries[name]
        if described.not_before is not None and described.not_before > now:
            return None
        if self._reviewers is None:
            return _Found(images, folder, described)
        try:
            review = approval_of(
                folder, self._reviewers, self._report, metadata_digest=digest, published=images
            )
        except PybuilderError as error:
            warn(self._report, f"{name} is shown without its folder, only as in the index: {error.message}")
            return _Found(images)
        return _Found(images, folder, described, review)


class _Maker:
    """Makes pages one by one, and collects the files that they need."""

    def __init__(
        self,
        request: CatalogueRequest,
        signed: VerifiedText,
        on_event: Reporter,
        statistics: Statistics | None,
        before: memory.Memory | None,
    ) -> None:
        self._request, self._signed, self._report = request, signed, on_event
        self._statistics = statistics
        self._before: Mapping[tuple[str, str], memory.Shown] = before.shown if before else {}
        self.pages: list[Page] = []
        self.files: dict[str, Copied] = {}
        self.shown: dict[tuple[str, str], memory.Shown] = {}

    def add(self, entry: Entry, found: _Found) -> None:
        """Make the page of a template."""
        base = f"templates/{text.segment(entry.os_version)}/{text.segment(entry.arch)}"
        parts = EntryParts()
        if found.folder is not None:
            parts = read_parts(found.folder, found.images, base, lambda message: warn(self._report, message))
        key = (entry.os_version, entry.arch)
        packages = None if parts.contents is None else parts.contents.packages
        versions = None if packages is None else memory.versions_of(packages)
        shown = memory.next_shown(
            self._before.get(key), entry.revision, entry.sha512 or "", self._signed.signed_at, versions
        )
        self.shown[key] = shown
        self.files |= {name: Copied(path) for name, path in parts.files.items()}
        end = deprecation(entry)
        page = Page(
            name=entry.os_version,
            arch=text.line(entry.arch, 40),
            path=f"{base}.html",
            title=text.line(entry.name) or text.line(entry.os_version),
            size=entry.size,
            compressed_size=entry.compressed_size,
            sha512=entry.sha512,
            revision=entry.revision,
            file=entry.file,
            published=shown.published,
            command=_command(entry),
            whole_command=self._whole_command(entry),
            notes=tuple((text.line(note.language, 20), text.paragraphs(note.text)) for note in entry.notes),
            aliases=tuple(text.line(alias, 80) for alias in entry.aliases),
            notice=text.line(deprecation_notice(entry)),
            replaced_by=(end.replaced_by or "") if end else "",
            changes=_fit(shown.changes),
            downloads=self._downloads(entry),
            picture=parts.picture,
            thumbnail=parts.thumbnail or parts.picture,
            system=text.line(parts.contents.system if parts.contents else entry.osinfo, 80),
            packages=packages,
            boot=parts.boot,
            sources=self._sources(parts),
            review=found.review,
        )
        self.pages.append(page if found.described is None else _described(page, found.described))

    def _whole_command(self, entry: Entry) -> str:
        lines = [f"pybuilder {shlex.quote(entry.os_version)} --arch {shlex.quote(entry.arch)}"]
        if self._request.base_url:
            lines.append(f"--source {shlex.quote(self._request.base_url + SIGNED_INDEX)}")
            lines.append(f"--fingerprint {self._signed.primary_fingerprint}")
        return " \\\n    ".join(text.line(one, 2000) for one in lines)

    def _sources(self, parts: EntryParts) -> Sources | None:
        if parts.sources is None:
            return None
        record, path = parts.sources, parts.archive
        name = ""
        if path is not None:
            name = f"sources/{record.sha512[:16]}-{text.segment(record.archive)}"
            self.files[name] = Copied(path, record.sha512)
        return Sources(name, record.size, record.sha512, len(record.covered), record.gaps)

    def _downloads(self, entry: Entry) -> Downloads | None:
        found = self._statistics
        if found is None or found.first is None or found.last is None:
            return None
        label = f"{entry.os_version} ({entry.arch})"
        for count in found.counts:
            if count.is_known and count.name == label:
                chart = bar_chart(f"Downloads of {text.line(label)}", count.days, found.first, found.last)
                return Downloads(count.downloads, count.clients, found.first, found.last, chart)
        return Downloads(0, 0, found.first, found.last, "")


def _command(entry: Entry) -> str:
    arch = "" if entry.arch == "x86_64" else f" --arch {shlex.quote(entry.arch)}"
    return text.line(f"pybuilder {shlex.quote(entry.os_version)}{arch}", 2000)


def _described(page: Page, described: Description) -> Page:
    """Add what the description of an entry says."""
    notes = page.notes
    if described.description or described.hints:  # publish makes the default notes from these two
        notes = tuple(note for note in notes if note[0])
    return dataclasses.replace(
        page,
        title=text.line(described.title) or page.title,
        notes=notes,
        description=text.paragraphs(described.description),
        hints=text.paragraphs(described.hints),
        licence=text.line(described.licence),
        contributor=text.line(described.contributor),
        homepage=text.link(described.homepage),
        offer=text.line(described.source_offer),
        tags=tuple(dict.fromkeys(text.line(tag, 40) for tag in described.tags if text.line(tag))),
        day=described.not_before.date() if described.not_before else None,
    )


def _fit(changes: Changes | None) -> Changes | None:
    """Clean the text of an old catalogue, which may be older than our rules."""
    if changes is None:
        return None
    return Changes(
        changes.revision,
        tuple(
            Change(text.line(one.name), text.line(one.before), text.line(one.after))
            for one in changes.packages
        ),
    )


def _all_downloads(found: Statistics) -> Downloads | None:
    if found.first is None or found.last is None:
        return None
    days: Counter[date] = sum((count.days for count in found.counts if count.is_known), Counter())
    chart = bar_chart("Downloads of all templates", days, found.first, found.last)
    known = sum(count.downloads for count in found.counts if count.is_known)
    return Downloads(known, found.clients, found.first, found.last, chart)


_SCREEN, _THUMBNAIL = "screen.png", "thumbnail.png"
_Record = TypeVar("_Record", BootRecord, ContentsRecord, SourcesRecord)


@dataclass(frozen=True)
class EntryParts:
    """The parts of an entry that are shown, the archive of its sources, and the pictures to copy."""

    boot: BootRecord | None = None
    contents: ContentsRecord | None = None
    sources: SourcesRecord | None = None
    archive: Path | None = None
    picture: Picture | None = None
    thumbnail: Picture | None = None
    files: Mapping[str, Path] = field(default_factory=dict)


def read_parts(
    folder: EntryFolder, published: Collection[str], base: str, report: Callable[[str], None]
) -> EntryParts:
    """Read the parts of an entry that belong to one of the published images, which are given by SHA-512.

    ``base`` is the path of the page without its ending.
    """

    def current(record: _Record | None, what: str, verb: str) -> _Record | None:
        if record is None or record.image.sha512 in published:
            return record
        report(
            f"{folder.name}: the {what} {verb} of a different image from the published one, "
            f"and {verb} not shown"
        )
        return None

    def picture(path: Path, ending: str) -> Picture | None:
        found = png_size(path)
        if isinstance(found, str):
            report(f"{folder.name}: {path.name} is not shown: {found}")
        if found is None or isinstance(found, str):
            return None
        files[f"{base}{ending}"] = path
        return Picture(f"{base}{ending}", *found)

    files: dict[str, Path] = {}
    boot = current(BOOT_FILE.read(folder.boot), "boot check", "is")
    contents = current(CONTENTS_FILE.read(folder.contents), "packages", "are")
    sources = current(SOURCES_FILE.read(folder.sources), "sources", "are")
    whole, small = picture(folder.screenshot, ".png"), None
    if whole is None and boot is not None and boot.pictures:
        whole = picture(folder.boot / _SCREEN, ".png")
        small = picture(folder.boot / _THUMBNAIL, ".small.png")
    return EntryParts(boot, contents, sources, _archive(folder, sources, report), whole, small, files)


def _archive(folder: EntryFolder, record: SourcesRecord | None, report: Callable[[str], None]) -> Path | None:
    if record is None or not record.archive:
        return None
    path = folder.sources / record.archive
    # The record may come from a contributor: its name must not lead out of the folder.
    if segment(record.archive) != record.archive or path.is_symlink() or not path.is_file():
        report(f"{folder.name}: the sources {record.archive!r} are missing, and are not linked")
        return None
    if path.stat().st_size != record.size:
        report(f"{folder.name}: the sources have a different size from their record, and are not linked")
        return None
    return path
