"""What ``sbom`` and ``sources`` are given: an entry of the library, or an image alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import UsageError
from imgrepo.images.scan import SourceImage
from imgrepo.library.folder import entry_at, image_at

_TAKEN = "give the folder of an entry, or an image"


@dataclass(frozen=True)
class Target:
    """An image, and where what is found out about it goes.

    Attributes:
        name: Its name without the ending.
        image: The image.
        contents: Folder of what it holds.
        sources: Folder of its source packages.
        offer: Where people ask for sources, by the entry; empty when nobody says.
    """

    name: str
    image: SourceImage
    contents: Path
    sources: Path
    offer: str = ""


def find_target(path: Path, output: Path | None = None) -> Target:
    """Find what a command was given.

    Args:
        path: An entry's folder, or an image.
        output: Where the results go, in a folder of the target's name; None for the entry's own folders, or
            ``NAME.contents`` and ``NAME.sources`` beside an image.

    Raises:
        UsageError: There is no such entry or image.
        RepositoryError: The entry has no image, or its description is wrong.
        WorkspaceError: The folder cannot be read.
    """
    if path.is_dir():
        entry = entry_at(path, hint=_TAKEN)
        image, offer = entry.image(), entry.read().source_offer
        beside = (entry.contents, entry.sources)
    else:
        image, offer = image_at(path, hint=_TAKEN), ""
        folder = path.absolute().parent
        beside = (folder / f"{image.stem}.contents", folder / f"{image.stem}.sources")
    if output is not None:
        beside = (output / image.stem / "contents", output / image.stem / "sources")
    return Target(image.stem, image, *beside, offer)


def find_targets(paths: tuple[Path, ...], output: Path | None = None) -> tuple[Target, ...]:
    """Find all that a command was given; see ``find_target``.

    Raises:
        UsageError: Two of them would be written to one place.
    """
    found = tuple(find_target(path, output) for path in paths)
    for number, target in enumerate(found):
        if target.contents in [other.contents for other in found[:number]]:
            raise UsageError(
                f"{target.image.path} and another one would both be written to {target.contents}",
                hint="give one of them at a time, with different --output",
            )
    return found
