"""The folders of a library: its entries, their files, and loose images.

    LIBRARY/NAME/entry.toml          its description
    LIBRARY/NAME/NAME.qcow2          the image (or NAME.img, NAME.raw)
    LIBRARY/NAME/screenshot.png      a picture, by the contributor or the boot check
    LIBRARY/NAME/sources/            source packages, and a record of them
    LIBRARY/NAME/contents/           packages of the image
    LIBRARY/NAME/boot/               the boot check's record
    LIBRARY/NAME/check/              results of checks that take long
    LIBRARY/NAME/run                 starts the image with QEMU
    LIBRARY/NAME/approval.asc        a reviewer's signature

LIBRARY is the folder that ``publish`` is given; images without an entry may be in it as well.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from imgbuilder.errors import PybuilderError, RepositoryError, UsageError
from imgindex.fields import settle_comments
from imgindex.model import Entry, Note
from imgindex.write import tidy_note
from imgrepo.images.scan import FORMATS, Skipped, SourceImage, is_stem, scan
from imgrepo.library.description import DESCRIPTION_NAME, Description, read_with_digest

_LONGEST_LINE = 2000
"""Characters; an index has lines of at most 8192 bytes."""


@dataclass(frozen=True)
class EntryFolder:
    """An entry's folder, whose name is the entry's."""

    path: Path

    @property
    def name(self) -> str:
        """The entry's name, which is the template's."""
        return self.path.name

    @property
    def description(self) -> Path:
        """File of its description."""
        return self.path / DESCRIPTION_NAME

    @property
    def screenshot(self) -> Path:
        """A picture of it, in PNG."""
        return self.path / "screenshot.png"

    @property
    def run_script(self) -> Path:
        """A script that starts it."""
        return self.path / "run"

    @property
    def boot(self) -> Path:
        """Folder of the boot check's record."""
        return self.path / "boot"

    @property
    def check(self) -> Path:
        """Folder of the results of checks that take long."""
        return self.path / "check"

    @property
    def contents(self) -> Path:
        """Folder of the list of packages."""
        return self.path / "contents"

    @property
    def sources(self) -> Path:
        """Folder of the source packages."""
        return self.path / "sources"

    @property
    def approval(self) -> Path:
        """File that a reviewer signed."""
        return self.path / "approval.asc"

    def read(self) -> Description:
        """Read its description."""
        return read_with_digest(self.description)[0]

    def image(self) -> SourceImage:
        """Find the image."""
        images, skipped = scan(self.path)
        if len(images) == 1 and images[0].stem == self.name:
            return images[0]
        if not images:
            reasons = "".join(f"; {name}: {reason}" for name, reason in skipped)
            raise RepositoryError(
                f"no image is in {self.path}{reasons}",
                hint=f"put it there as {self.name}.qcow2 or {self.name}.img",
            )
        if len(images) > 1:
            names = ", ".join(image.name for image in images)
            raise RepositoryError(f"{self.path} has more than one image: {names}", hint="leave one there")
        raise RepositoryError(
            f"the image {images[0].name} in {self.path} has a different name from the entry",
            hint=f"rename it to {self.name}{images[0].path.suffix}",
        )


def find_entries(library: Path) -> tuple[EntryFolder, ...]:
    """Find the entries of a library, in the order of their names.

    Folders without an ``entry.toml`` are ignored, and so are hidden ones, symbolic links, and the folders
    that ``broken_folders`` returns.
    """
    return tuple(folder for folder, problem in _folders(library) if problem is None)


def broken_folders(library: Path) -> dict[str, RepositoryError]:
    """Return the errors of folders that cannot be entries, by their names: one must not stop the others."""
    return {folder.name: problem for folder, problem in _folders(library) if problem is not None}


def _folders(library: Path) -> Iterator[tuple[EntryFolder, RepositoryError | None]]:
    try:
        with os.scandir(library) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError as error:
        raise UsageError(f"cannot read the folder {library}: {error.strerror}") from error
    for name in names:
        folder = EntryFolder(library / name)
        if name.startswith("."):
            continue
        try:
            is_entry = stat.S_ISREG(folder.description.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if is_stem(name):  # it may be one; "lost+found" is not
                yield folder, RepositoryError(f"cannot look into {folder.path}: {error.strerror}")
            continue
        if is_entry and is_stem(name):
            yield folder, None
        elif is_entry:
            yield (
                folder,
                RepositoryError(
                    f"{folder.path} has a name that an entry cannot have",
                    hint="letters, digits, '.', '_' and '-' make a name, 80 at most; rename it",
                ),
            )


def entry_at(path: Path, *, hint: str) -> EntryFolder:
    """Return the entry whose folder a command was given; ``hint`` has what the command accepts."""
    folder = EntryFolder(path.absolute())
    if not is_stem(folder.name) or not folder.description.is_file():
        raise UsageError(f"{path} is not an entry: it has no {DESCRIPTION_NAME}", hint=hint)
    return folder


def image_at(path: Path, *, hint: str) -> SourceImage:
    """Return the image that a command was given; ``hint`` has what the command accepts."""
    if not path.exists():
        raise UsageError(f"the image {path} does not exist", hint=hint)
    if path.suffix not in FORMATS:
        endings = ", ".join(FORMATS)
        raise UsageError(f"{path} does not have the name of an image", hint=f"images end in {endings}")
    images, skipped = scan(path.parent)
    for image in images:
        if image.name == path.name:
            return image
    reason = next((reason for name, reason in skipped if name == path.name), "it is a hidden file")
    raise RepositoryError(f"{path} cannot be used as an image: {reason}")


def find_entry(library: Path, name: str) -> EntryFolder:
    """Return the entry of a name; a slash at its end, as shells complete it, does not matter."""
    name = name.rstrip("/")
    folder = EntryFolder(library / name)
    if not is_stem(name) or not folder.description.is_file():
        known = ", ".join(entry.name for entry in find_entries(library))
        where = "" if library == Path() else f" --library {library}"
        hint = f"there are: {known}; make" if known else "there are no entries; make"
        hint += f" a new one: pybuilder-repo entry new {name}{where}"
        given = Path(name).absolute()
        if (given / DESCRIPTION_NAME).is_file():
            hint = f"give its name, and the folder that it is in: {given.name} --library {given.parent}"
        raise UsageError(f"the entry {name} does not exist in {library}", hint=hint)
    return folder


def chosen_entries(library: Path, names: Collection[str]) -> dict[str, EntryFolder | RepositoryError]:
    """Return the entries of these names, or all, in order; a broken one is represented by its error."""
    found: dict[str, EntryFolder | RepositoryError] = {one.name: one for one in find_entries(library)}
    found |= broken_folders(library)
    if names:
        # A link to a folder is not listed, but may be named.
        found = {name.rstrip("/"): found.get(name) or find_entry(library, name) for name in names}
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class FoundEntry:
    """An entry with an image, and the SHA-512 of its ``entry.toml`` as it was read."""

    folder: EntryFolder
    description: Description
    metadata_digest: str

    def held_until(self, now: datetime) -> datetime | None:
        """Return the time before which it must not be published; None when it may be."""
        day = self.description.not_before
        return day if day is not None and day > now else None


@dataclass(frozen=True)
class Found:
    """The images of a library.

    Attributes:
        images: All images, loose ones and those of entries; no two have the same name.
        entries: The entry of each image that has one, by the image's name.
        broken: The errors of entries, by their names; they have no image among the images.
    """

    images: tuple[SourceImage, ...]
    skipped: tuple[Skipped, ...]
    entries: dict[str, FoundEntry] = field(default_factory=dict)
    broken: dict[str, PybuilderError] = field(default_factory=dict)
    empty: tuple[str, ...] = ()


def find_images(library: Path) -> Found:
    """Find the images of a folder: loose ones, and one for each entry."""
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
            # Either could be meant; the others are published all the same.
            broken[folder.name] = RepositoryError(
                f"{image.name} is in {library} as well as in the entry {folder.name}",
                hint="remove one of them",
            )
            continue
        all_images[image.name] = image
        entries[image.name] = FoundEntry(folder, description, digest)
    ordered = tuple(all_images[name] for name in sorted(all_images))
    return Found(ordered, skipped, entries, broken, tuple(empty))


def image_path(library: Path, name: str) -> Path:
    """Return the path of an image of a name: in its entry, or loose."""
    loose = library / name
    stem = loose.stem
    inside = EntryFolder(library / stem)
    is_entry = loose.suffix in FORMATS and inside.description.is_file() and not inside.path.is_symlink()
    return inside.path / name if is_entry and not loose.is_file() else loose


def described(entry: Entry, description: Description) -> Entry:
    """Return a template with name and notes from its description. A pure function.

    Fields that the description leaves empty stay as they are, and so do notes in other languages.
    """
    title, notes = tidy_note(description.title), notes_of(description)
    others = tuple(note for note in entry.notes if note.language)
    new = dataclasses.replace(
        entry, name=title or entry.name, notes=(Note("", notes), *others) if notes else entry.notes
    )
    return entry if new == entry else settle_comments(new)


def notes_of(description: Description) -> str:
    """Return the notes of a template: description, then hints, in lines short enough for an index."""
    text = "\n\n".join(filter(None, (description.description, description.hints)))
    return tidy_note("\n".join(_short(line) for line in text.split("\n")))


def _short(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    return "\n".join(textwrap.wrap(line, _LONGEST_LINE))
