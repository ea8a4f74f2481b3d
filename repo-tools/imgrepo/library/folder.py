"""Where the things of an entry are.

    LIBRARY/NAME/entry.toml          what its contributor says
    LIBRARY/NAME/NAME.qcow2          the image (or NAME.img, NAME.raw)
    LIBRARY/NAME/screenshot.png      a picture, of the contributor or of the boot check
    LIBRARY/NAME/sources/            source packages, and what was found of them
    LIBRARY/NAME/contents/           packages of the image
    LIBRARY/NAME/boot/               what the boot check saw
    LIBRARY/NAME/check/              what a check found out that takes long
    LIBRARY/NAME/run                 starts the image with QEMU
    LIBRARY/NAME/approval.asc        a reviewer's signature

LIBRARY is the folder that ``publish`` is given; images without a folder of
their own may lie beside.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import RepositoryError, UsageError
from imgrepo.images.scan import FORMATS, SourceImage, is_stem, scan
from imgrepo.library.description import DESCRIPTION_NAME, Description, read_description


@dataclass(frozen=True)
class EntryFolder:
    """An entry's folder.

    Attributes:
        path: The folder; its name is the entry's.
    """

    path: Path

    @property
    def name(self) -> str:
        """The entry's name, which is the template's."""
        return self.path.name

    @property
    def description(self) -> Path:
        """What its contributor says."""
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
        """Folder of what the boot check saw."""
        return self.path / "boot"

    @property
    def check(self) -> Path:
        """Folder of what a check found out that takes long."""
        return self.path / "check"

    @property
    def contents(self) -> Path:
        """Folder of what the image holds."""
        return self.path / "contents"

    @property
    def sources(self) -> Path:
        """Folder of the source packages."""
        return self.path / "sources"

    @property
    def approval(self) -> Path:
        """What a reviewer signed."""
        return self.path / "approval.asc"

    def read(self) -> Description:
        """Read what its contributor says.

        Raises:
            RepositoryError: It cannot be read, or is wrong.
        """
        return read_description(self.description)

    def image(self) -> SourceImage:
        """Find the image.

        Raises:
            RepositoryError: There is none, or more than one.
        """
        images, skipped = scan(self.path)
        if len(images) == 1 and images[0].stem == self.name:
            return images[0]
        if not images:
            reasons = "".join(f"; {name}: {reason}" for name, reason in skipped)
            raise RepositoryError(
                f"there is no image in {self.path}{reasons}",
                hint=f"put it there as {self.name}.qcow2 or {self.name}.img",
            )
        if len(images) > 1:
            names = ", ".join(image.name for image in images)
            raise RepositoryError(f"{self.path} has more than one image: {names}", hint="leave one there")
        raise RepositoryError(
            f"the image {images[0].name} in {self.path} has another name than the entry",
            hint=f"rename it to {self.name}{images[0].path.suffix}",
        )


def find_entries(library: Path) -> tuple[EntryFolder, ...]:
    """Find the entries of a library, in the order of their names.

    Folders without an ``entry.toml`` are none, and hidden ones and symbolic links are not looked at.
    Those that ``broken_folders`` tells of are left out.

    Raises:
        UsageError: The folder cannot be read.
    """
    return tuple(folder for folder, problem in _folders(library) if problem is None)


def broken_folders(library: Path) -> dict[str, RepositoryError]:
    """Return what keeps folders from being entries, by their names: one of many must not stop all (T24).

    Raises:
        UsageError: The library cannot be read.
    """
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
            if is_stem(name):  # it may well be one; "lost+found" is not
                yield folder, RepositoryError(f"cannot look into {folder.path}: {error.strerror}")
            continue
        if is_entry and is_stem(name):
            yield folder, None
        elif is_entry:
            yield (
                folder,
                RepositoryError(
                    f"{folder.path} cannot be an entry by its name",
                    hint="letters, digits, '.', '_' and '-' make a name, 80 at most; rename it",
                ),
            )


def entry_at(path: Path, *, hint: str) -> EntryFolder:
    """Return the entry whose folder a command was given.

    Args:
        path: The folder, which exists.
        hint: What the command takes.

    Raises:
        UsageError: It is no entry.
    """
    folder = EntryFolder(path.absolute())
    if not is_stem(folder.name) or not folder.description.is_file():
        raise UsageError(f"{path} is no entry: it has no {DESCRIPTION_NAME}", hint=hint)
    return folder


def image_at(path: Path, *, hint: str) -> SourceImage:
    """Return the image that a command was given.

    Args:
        path: The image.
        hint: What the command takes.

    Raises:
        UsageError: There is none, or by its name it is none.
        RepositoryError: It is no regular file, or cannot be published by its name.
    """
    if not path.exists():
        raise UsageError(f"there is no image {path}", hint=hint)
    if path.suffix not in FORMATS:
        endings = ", ".join(FORMATS)
        raise UsageError(f"{path} is no image by its name", hint=f"the endings of images are {endings}")
    images, skipped = scan(path.parent)
    for image in images:
        if image.name == path.name:
            return image
    reason = next((reason for name, reason in skipped if name == path.name), "it is a hidden file")
    raise RepositoryError(f"{path} is not taken for an image: {reason}")


def find_entry(library: Path, name: str) -> EntryFolder:
    """Return the entry of a name; a slash at its end, as shells complete it, does not matter.

    Raises:
        UsageError: There is none.
    """
    name = name.rstrip("/")
    folder = EntryFolder(library / name)
    if not is_stem(name) or not folder.description.is_file():
        known = ", ".join(entry.name for entry in find_entries(library)) or "none"
        hint = f"there are: {known}; a new one is made by: pybuilder-repo entry new {name}"
        given = Path(name).absolute()
        if (given / DESCRIPTION_NAME).is_file():
            hint = f"give its name, and the folder that it is in: {given.name} --library {given.parent}"
        raise UsageError(f"there is no entry {name} in {library}", hint=hint)
    return folder


def chosen_entries(library: Path, names: Collection[str]) -> dict[str, EntryFolder | RepositoryError]:
    """Return the entries of these names, or all, in their order; what is wrong with a folder stands for it.

    Args:
        library: The folder of the entries.
        names: Their names; none for all.

    Raises:
        UsageError: The folder cannot be read, or there is no entry of a name.
    """
    found: dict[str, EntryFolder | RepositoryError] = {one.name: one for one in find_entries(library)}
    found |= broken_folders(library)
    if names:
        # A link to a folder is no entry of a library, but whoever names it means it.
        found = {name.rstrip("/"): found.get(name) or find_entry(library, name) for name in names}
    return dict(sorted(found.items()))
