"""Reads what a library says about its images: the entries, and the records of the tools."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TypeVar

from imgbuilder.errors import PybuilderError, RepositoryError
from imgbuilder.events import Reporter, warn
from imgindex.model import Entry
from imgrepo.catalogue.model import CatalogueRequest, Picture
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
from imgrepo.recordfile import RecordFile
from imgrepo.services import Services
from imgrepo.webroot.state import Published, read_state

_SCREEN, _THUMBNAIL = "screen.png", "thumbnail.png"
_Record = TypeVar("_Record", BootRecord, ContentsRecord, SourcesRecord)


@dataclass(frozen=True)
class Found:
    """All that the library has of a template, as far as it may be shown.

    Attributes:
        images: SHA-512 of the published images, by the publisher's record.
        stem: Name of its image without the ending; None if it is not known.
        folder: Its entry.
    """

    images: frozenset[str]
    stem: str | None = None
    folder: EntryFolder | None = None
    described: Description | None = None
    review: Approval | None = None


@dataclass(frozen=True)
class Parts:
    """The records and pictures that are shown; ``archive`` is that of the sources.

    ``files`` are the pictures to copy, by their paths in the site.
    """

    boot: BootRecord | None = None
    contents: ContentsRecord | None = None
    sources: SourcesRecord | None = None
    archive: Path | None = None
    picture: Picture | None = None
    thumbnail: Picture | None = None
    files: Mapping[str, Path] = field(default_factory=dict)


class Library:
    """The entries of the library; one that cannot be read does not stop the others (T24).

    Its template is then shown without its folder, because its day may not have come yet.
    """

    def __init__(self, request: CatalogueRequest, services: Services, on_event: Reporter) -> None:
        self._folder, self._report = request.library, on_event
        self._state: defaultdict[tuple[str, str], dict[str, Published]] = defaultdict(dict)
        for name, item in read_state(request.webroot, request.library).items():
            self._state[item.entry, item.arch][name] = item
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

    def find(self, entry: Entry, now: datetime) -> Found | None:
        """Find what there is of a template; None for one whose day has not come."""
        known = self._state.get((entry.os_version, entry.arch), {})
        images = frozenset(item.sha512 for item in known.values() if item.file == entry.file)
        # A template may have a different name from its image; the publisher's state knows.
        stems = [PurePosixPath(name).stem for name in known]
        name = next((name for name in (entry.os_version, *stems) if name in self._entries), None)
        stem = next(iter(stems), None)
        if name is None:
            return Found(images, stem)
        folder, described, digest = self._entries[name]
        if described.not_before is not None and described.not_before > now:
            return None
        if self._reviewers is None:
            return Found(images, stem, folder, described)
        try:
            review = approval_of(
                folder, self._reviewers, self._report, metadata_digest=digest, published=images
            )
        except PybuilderError as error:
            warn(self._report, f"{name} is shown without its folder, only as in the index: {error.message}")
            return Found(images)
        return Found(images, stem, folder, described, review)

    def parts(self, found: Found, base: str) -> Parts:
        """Read the parts that belong to a published image; ``base`` is its page's path without the ending."""
        if found.folder is None and found.stem is None:
            return Parts()
        reader = _Reader(self._folder, found, base, self._report)
        sources = reader.record(SOURCES_FILE, "sources", "the sources are")
        boot = reader.record(BOOT_FILE, "boot", "the boot check is")
        contents = reader.record(CONTENTS_FILE, "contents", "the packages are")
        shot = None if found.folder is None else reader.picture(found.folder.screenshot, ".png")
        small = None
        if shot is None and boot is not None and boot[0].pictures:
            shot = reader.picture(boot[1] / _SCREEN, ".png")
            small = reader.picture(boot[1] / _THUMBNAIL, ".small.png")
        return Parts(
            boot[0] if boot else None,
            contents[0] if contents else None,
            sources[0] if sources else None,
            reader.archive(*sources) if sources else None,
            shot,
            small,
            reader.files,
        )


class _Reader:
    """Reads the parts of one template, in its entry or next to its image; ``files`` are pictures to copy."""

    def __init__(self, library: Path, found: Found, base: str, on_event: Reporter) -> None:
        self._library, self._found, self._base, self._report = library, found, base, on_event
        self.files: dict[str, Path] = {}
        self.name = found.folder.name if found.folder else str(found.stem)

    def record(self, file: RecordFile[_Record], kind: str, what: str) -> tuple[_Record, Path] | None:
        """Return a record of a published image with its folder."""
        others = False
        for folder in self._places(kind):
            record = file.read(folder)
            if record is not None and record.image.sha512 in self._found.images:
                return record, folder
            others |= record is not None
        if others:
            verb = what.rpartition(" ")[2]
            self._say(f"{what} of a different image from the published one, and {verb} not shown")
        return None

    def _places(self, kind: str) -> Iterator[Path]:
        if self._found.folder is not None:
            yield self._found.folder.path / kind
        if self._found.stem is not None:
            yield self._library / f"{self._found.stem}.{kind}"

    def picture(self, path: Path, ending: str) -> Picture | None:
        """Have a picture copied."""
        found = png_size(path)
        if isinstance(found, str):
            self._say(f"{path.name} is not shown: {found}")
        if found is None or isinstance(found, str):
            return None
        self.files[f"{self._base}{ending}"] = path
        return Picture(f"{self._base}{ending}", *found)

    def archive(self, record: SourcesRecord, folder: Path) -> Path | None:
        """Return the archive of the sources, if it is there."""
        if not record.archive:
            return None
        path = folder / record.archive
        # The record may come from a contributor: its name must not lead out of the folder.
        if segment(record.archive) != record.archive or path.is_symlink() or not path.is_file():
            self._say(f"the sources {record.archive!r} are missing, and are not linked")
            return None
        if path.stat().st_size != record.size:
            self._say("the sources have a different size from their record, and are not linked")
            return None
        return path

    def _say(self, words: str) -> None:
        warn(self._report, f"{self.name}: {words}")
