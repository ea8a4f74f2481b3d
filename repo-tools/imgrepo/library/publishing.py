"""What ``publish`` finds in a library: images that lie loose, and those of entries."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from imgbuilder.errors import PybuilderError, RepositoryError
from imgindex.fields import settle_comments
from imgindex.model import Entry, Note
from imgindex.write import tidy_note
from imgrepo.images.scan import FORMATS, Skipped, SourceImage, scan
from imgrepo.library.description import Description, read_with_digest
from imgrepo.library.folder import EntryFolder, broken_folders, find_entries

_LONGEST_LINE = 2000
"""Characters; an index has lines of at most 8192 bytes."""


@dataclass(frozen=True)
class FoundEntry:
    """An entry with an image.

    Attributes:
        folder: Its folder.
        description: What its contributor says.
        metadata_digest: SHA-512 of its ``entry.toml`` as it was read.
    """

    folder: EntryFolder
    description: Description
    metadata_digest: str

    def held_until(self, now: datetime) -> datetime | None:
        """Return until when it is not to be published; None when it may be."""
        day = self.description.not_before
        return day if day is not None and day > now else None


@dataclass(frozen=True)
class Found:
    """What a library holds.

    Attributes:
        images: All images, loose ones and those of entries; no two have one name.
        skipped: What looks like an image by its name, and is none.
        entries: The entry of each image that has one, by the image's name.
        broken: What is wrong with an entry, by its name; no image of its name is among the images.
        empty: Names of entries without an image.
    """

    images: tuple[SourceImage, ...]
    skipped: tuple[Skipped, ...]
    entries: dict[str, FoundEntry] = field(default_factory=dict)
    broken: dict[str, PybuilderError] = field(default_factory=dict)
    empty: tuple[str, ...] = ()


def find_images(library: Path) -> Found:
    """Find the images of a folder: loose ones, and one for each entry.

    Raises:
        UsageError: The folder cannot be read.
    """
    images, skipped = scan(library)
    all_images = {image.name: image for image in images}
    entries: dict[str, FoundEntry] = {}
    broken: dict[str, PybuilderError] = dict(broken_folders(library))
    empty = []
    for folder in find_entries(library):
        try:
            if scan(folder.path) == ((), ()):
                empty.append(folder.name)
                continue
            image, (description, digest) = folder.image(), read_with_digest(folder.description)
        except PybuilderError as error:
            broken[folder.name] = error
            continue
        if all_images.pop(image.name, None) is not None:
            # Which of them is meant, nobody knows; the others are published all the same (T24).
            broken[folder.name] = RepositoryError(
                f"{image.name} lies in {library} as well as in the entry {folder.name}",
                hint="remove one of them",
            )
            continue
        all_images[image.name] = image
        entries[image.name] = FoundEntry(folder, description, digest)
    ordered = tuple(all_images[name] for name in sorted(all_images))
    return Found(ordered, skipped, entries, broken, tuple(empty))


def image_path(library: Path, name: str) -> Path:
    """Return where an image of a name is: in its entry, or loose."""
    loose = library / name
    stem = loose.stem
    inside = EntryFolder(library / stem)
    is_entry = loose.suffix in FORMATS and inside.description.is_file() and not inside.path.is_symlink()
    return inside.path / name if is_entry and not loose.is_file() else loose


def described(entry: Entry, description: Description) -> Entry:
    """Let a template say what its contributor says of it: name and notes. A pure function.

    What the contributor leaves empty stays as it is, and so do notes in other languages.
    """
    title, notes = tidy_note(description.title), notes_of(description)
    others = tuple(note for note in entry.notes if note.language)
    new = dataclasses.replace(
        entry, name=title or entry.name, notes=(Note("", notes), *others) if notes else entry.notes
    )
    return entry if new == entry else settle_comments(new)


def notes_of(description: Description) -> str:
    """Return the notes of a template: description, then hints, in lines that an index can hold."""
    text = "\n\n".join(filter(None, (description.description, description.hints)))
    return tidy_note("\n".join(_short(line) for line in text.split("\n")))


def _short(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    return "\n".join(textwrap.wrap(line, _LONGEST_LINE))
