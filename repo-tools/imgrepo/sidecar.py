"""An image's entry in a file of its own beside it: ``NAME.entry`` for ``NAME.img``.

It says what cannot be found out from the image: another name, notes, aliases,
the architecture of an image without a system. It is read when the template is
published for the first time; from then on the published index is what counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgbuilder.arch import normalise
from imgbuilder.errors import RepositoryError
from imgrepo.draft import read_draft
from imgrepo.entries import UNKNOWN_ARCH

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from imgindex.model import Entry, Index
    from imgrepo.scan import SourceImage

SUFFIX = ".entry"


def sidecar_of(image: Path) -> Path:
    """Return where the entry of an image is, if it has one."""
    return image.with_name(f"{image.stem}{SUFFIX}")


def sidecar_entries(images: Iterable[SourceImage], index: Index) -> tuple[Entry, ...]:
    """Read the entries beside images, of templates that an index does not have yet.

    Args:
        images: The images.
        index: What is published.

    Raises:
        UsageError: A file cannot be read.
        RepositoryError: It breaks the format, or is not about its image alone.
    """
    found = []
    for image in images:
        path = image.path.with_name(f"{image.stem}{SUFFIX}")
        draft = read_draft(path)
        if draft is None:
            continue
        if len(draft.entries) != 1 or draft.entries[0].file != image.name:
            raise RepositoryError(
                f"{path} is not the entry of {image.name}",
                hint=f"it holds one section, with file={image.name}",
            )
        entry = draft.entries[0]
        if not any(_same(entry, old) for old in index.entries):
            found.append(entry)
    return tuple(found)


def _same(entry: Entry, old: Entry) -> bool:
    either = UNKNOWN_ARCH in (entry.arch, old.arch) or normalise(entry.arch) == normalise(old.arch)
    return entry.os_version == old.os_version and either
