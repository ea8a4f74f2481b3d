"""Reads the pictures and records of a published image, each only if it is of that image."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from imgrepo.catalogue.model import Picture
from imgrepo.catalogue.text import segment
from imgrepo.images.pictures import png_size
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import (
    BootRecord,
    ContentsRecord,
    SourcesRecord,
    read_boot,
    read_contents,
    read_sources,
)

_SCREEN, _THUMBNAIL = "screen.png", "thumbnail.png"


@dataclass(frozen=True)
class Shot:
    """A picture to copy, and its size in pixels."""

    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class EntryParts:
    """The parts of an entry that are shown, and the archive of its sources."""

    boot: BootRecord | None = None
    contents: ContentsRecord | None = None
    sources: SourcesRecord | None = None
    archive: Path | None = None
    screen: Shot | None = None
    thumbnail: Shot | None = None

    def pictures(self, base: str) -> tuple[Picture | None, Picture | None]:
        """Return screenshot and thumbnail of a page; ``base`` is the page's path without its ending."""
        screen, small = self.screen, self.thumbnail
        return (
            None if screen is None else Picture(f"{base}.png", screen.width, screen.height),
            None if small is None else Picture(f"{base}.small.png", small.width, small.height),
        )

    def files(self, base: str) -> dict[str, Path]:
        """Return the pictures to copy: path in the site, and the file."""
        shots = ((f"{base}.png", self.screen), (f"{base}.small.png", self.thumbnail))
        return {name: shot.path for name, shot in shots if shot is not None}


def read_parts(folder: EntryFolder, published: Collection[str], report: Callable[[str], None]) -> EntryParts:
    """Read the parts of an entry that belong to one of the published images, which are given by SHA-512."""
    boot, contents, sources = (
        read_boot(folder.boot),
        read_contents(folder.contents),
        read_sources(folder.sources),
    )
    if boot is not None and boot.image.sha512 not in published:
        report(
            f"{folder.name}: the boot check is of a different image from the published one, and is not shown"
        )
        boot = None
    if contents is not None and contents.image.sha512 not in published:
        report(
            f"{folder.name}: the packages are of a different image from the published one, and are not shown"
        )
        contents = None
    if sources is not None and sources.image.sha512 not in published:
        report(
            f"{folder.name}: the sources are of a different image from the published one, and are not shown"
        )
        sources = None
    own = _shot(folder.screenshot, folder, report)
    seen = boot is not None and boot.pictures
    screen = own or (_shot(folder.boot / _SCREEN, folder, report) if seen else None)
    small = _shot(folder.boot / _THUMBNAIL, folder, report) if seen and own is None else None
    return EntryParts(boot, contents, sources, _archive(folder, sources, report), screen, small)


def _shot(path: Path, folder: EntryFolder, report: Callable[[str], None]) -> Shot | None:
    found = png_size(path)
    if isinstance(found, str):
        report(f"{folder.name}: {path.name} is not shown: {found}")
        return None
    return None if found is None else Shot(path, *found)


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
