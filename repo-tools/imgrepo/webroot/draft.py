"""Unsigned indexes: written by hand, or left unsigned by virt-builder's own tool.

Nothing in them is trusted: facts about files come from the files. They give
names, notes, aliases, and the architecture of images without a system. An entry
needs at least ``[NAME]`` and ``file=``, as in virt-builder-repository(1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.host.arch import normalise
from imgbuilder.host.hashing import hash_file
from imgindex.clearsign import unverified_text
from imgindex.files import open_file
from imgindex.lexer import parse_document
from imgindex.model import Entry, Index
from imgindex.parse import parse_index
from imgindex.trust import UnverifiedText
from imgrepo.images.scan import SourceImage
from imgrepo.webroot.entries import UNKNOWN_ARCH

_DEFAULTS = (("arch", UNKNOWN_ARCH), ("size", "512"), ("revision", "0"))
_LARGEST = 5_000_000
_PIECE = 1 << 20


def read_draft(path: Path) -> Index | None:
    """Read an unsigned index; None when there is none.

    Args:
        path: The file.

    Returns:
        Its entries. A digest that differs from that of its file is left out.

    Raises:
        UsageError: It cannot be read.
        IndexSyntaxError: It breaks the format.
    """
    try:
        with open_file(path) as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise UsageError(f"{path} is larger than any client reads")
    text = unverified_text(data, where=str(path)).text
    index = parse_index(UnverifiedText(_completed(text, str(path))), where=str(path))
    checked = []
    for entry in index.entries:
        true = entry.sha512 is not None and _sha512(path.parent / entry.file) == entry.sha512
        checked.append(entry if true else dataclasses.replace(entry, sha512=None))
    return dataclasses.replace(index, entries=tuple(checked))


def _completed(text: str, where: str) -> str:
    """Add to each section the fields that are not known before its image is examined."""
    lines = text.split("\n")
    for section in reversed(parse_document(text, where=where).sections):
        given = {(item.key, item.subkey) for item in section.fields}
        missing = [f"{key}={value}" for key, value in _DEFAULTS if (key, None) not in given]
        lines[section.line : section.line] = missing
    return "\n".join(lines)


def _sha512(path: Path) -> str | None:
    try:
        return hash_file(path)
    except OSError:
        return None


SUFFIX = ".entry"
"""Ending of the file next to an image with its entry; it is read before its template is first published."""


def sidecar_of(image: Path) -> Path:
    """Return the path of the entry of an image."""
    return image.with_name(f"{image.stem}{SUFFIX}")


def sidecar_entries(images: Iterable[SourceImage], index: Index) -> tuple[Entry, ...]:
    """Read the entries next to images, for templates that are not in an index yet.

    Args:
        images: The images.
        index: The published index.
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
