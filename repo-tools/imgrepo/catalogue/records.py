"""What lies beside a published image: pictures and records, each only if it is of that very image."""

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
    """A picture to copy: where it is, and how large in pixels."""

    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class EntryParts:
    """What an entry has.

    Attributes:
        boot: What the boot check saw.
        contents: Packages.
        sources: Source packages.
        archive: The archive of those.
        screen: A screenshot.
        thumbnail: The same, small.
    """

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
        """Return what is copied for the pictures: path in the site, and where it comes from."""
        shots = ((f"{base}.png", self.screen), (f"{base}.small.png", self.thumbnail))
        return {name: shot.path for name, shot in shots if shot is not None}


def read_parts(folder: EntryFolder, published: Collection[str], tell: Callable[[str], None]) -> EntryParts:
    """Read what an entry has of the image that was published.

    Args:
        folder: The entry.
        published: SHA-512 of the image that was published, as the publisher remembers it.
        tell: Hears of what is not shown, and why.

    Raises:
        RepositoryError: A record cannot be read.
    """
    boot, contents, sources = (
        read_boot(folder.boot),
        read_contents(folder.contents),
        read_sources(folder.sources),
    )
    if boot is not None and boot.image.sha512 not in published:
        tell(f"{folder.name}: the boot check was of another image than the published one, and is not shown")
        boot = None
    if contents is not None and contents.image.sha512 not in published:
        tell(f"{folder.name}: the packages are of another image than the published one, and are not shown")
        contents = None
    if sources is not None and sources.image.sha512 not in published:
        tell(f"{folder.name}: the sources are of another image than the published one, and are not shown")
        sources = None
    own = _shot(folder.screenshot, folder, tell)
    seen = boot is not None and boot.pictures
    screen = own or (_shot(folder.boot / _SCREEN, folder, tell) if seen else None)
    small = _shot(folder.boot / _THUMBNAIL, folder, tell) if seen and own is None else None
    return EntryParts(boot, contents, sources, _archive(folder, sources, tell), screen, small)


def _shot(path: Path, folder: EntryFolder, tell: Callable[[str], None]) -> Shot | None:
    found = png_size(path)
    if isinstance(found, str):
        tell(f"{folder.name}: {path.name} is not shown: {found}")
        return None
    return None if found is None else Shot(path, *found)


def _archive(folder: EntryFolder, record: SourcesRecord | None, tell: Callable[[str], None]) -> Path | None:
    if record is None or not record.archive:
        return None
    path = folder.sources / record.archive
    # The record may come from a contributor: its name must not lead anywhere else.
    if segment(record.archive) != record.archive or path.is_symlink() or not path.is_file():
        tell(f"{folder.name}: the sources {record.archive!r} are missing, and are not linked")
        return None
    if path.stat().st_size != record.size:
        tell(f"{folder.name}: the sources have another size than their record says, and are not linked")
        return None
    return path
