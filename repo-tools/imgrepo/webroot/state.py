"""The records between runs, which all lie in the served folder; no client reads them.

The record of images, one for each folder that is published there, shows what
changed. The record of packed files keeps an image from being packed twice,
also by another publisher. Both are conveniences: without them images are
compressed again and come out as the same files, and nothing in them is trusted
unless the signed index confirms it. The record of withdrawn templates keeps
``publish`` from publishing them again, and that of set-aside files from
undoing a rollback. The record of former entries gives a template that comes
back its notes, aliases and revision.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.host.hashing import Fingerprint
from imgindex.model import Entry, Index
from imgindex.parse import parse_index
from imgindex.trust import UnverifiedText
from imgindex.write import write_index
from imgrepo.recordfile import Many, Moment, RecordFile

PACKED_NAME = ".pybuilder-repo-packed.json"
WITHDRAWN_NAME = ".pybuilder-repo-withdrawn.json"
FORMER_NAME = ".pybuilder-repo-former.json"
PROTECTED_NAME = ".pybuilder-repo-protected.json"
SET_ASIDE_NAME = ".pybuilder-repo-set-aside.json"


@dataclass(frozen=True)
class Published:
    """An image that was published.

    Attributes:
        sha512: SHA-512 of the image.
        file: Name of the published file.
        entry: Name of its template in the index.
        system: Whether an operating system was found in it.
        gone_since: When the image was first missed, in UTC; None while it is there.
    """

    fingerprint: Fingerprint
    sha512: str
    file: str
    entry: str
    arch: str
    system: bool = True
    gone_since: Moment | None = None


@dataclass(frozen=True)
class Packed:
    """A packed file.

    Attributes:
        image: SHA-512 of the image that it was made of.
        how: Program and options.
        entry: Name of the template.
        system: Whether an operating system was found in the image.
    """

    image: str
    how: str
    sha512: str
    size: int
    entry: str
    arch: str
    system: bool = True


@dataclass(frozen=True)
class _PackedFiles:
    files: dict[str, Packed]


@dataclass(frozen=True)
class _PublishedImages:
    images: dict[str, Published]


@dataclass(frozen=True)
class _Templates:
    templates: Many[tuple[str, str]]


@dataclass(frozen=True)
class _SetAside:
    files: Many[str]


@dataclass(frozen=True)
class _Former:
    index: str


_PACKED = RecordFile(_PackedFiles, PACKED_NAME)
_WITHDRAWN = RecordFile(
    _Templates,
    WITHDRAWN_NAME,
    hint="it lists the templates that were withdrawn; remove it to publish all images again",
)
_PROTECTED = RecordFile(
    _Templates,
    PROTECTED_NAME,
    hint="it lists the templates that are protected; remove it to protect none",
)
_SET_ASIDE = RecordFile(
    _SetAside, SET_ASIDE_NAME, hint="it lists images that publish leaves out; remove it to publish them again"
)
_FORMER = RecordFile(_Former, FORMER_NAME)


def _state_file(images: Path) -> RecordFile[_PublishedImages]:
    folder = hashlib.sha256(os.fsencode(images.resolve())).hexdigest()[:16]
    return RecordFile(_PublishedImages, f".pybuilder-repo-images-{folder}.json")


def read_state(webroot: Path, images: Path) -> dict[str, Published]:
    """Return the remembered images of a folder by name; none if the record is missing or damaged."""
    try:
        record = _state_file(images).read(webroot)
    except RepositoryError:
        return {}
    return {} if record is None else record.images


def write_state(webroot: Path, images: Path, published: Mapping[str, Published]) -> None:
    """Replace the record of the images of a folder, if anything changed."""
    if published != read_state(webroot, images):
        _state_file(images).write(webroot, _PublishedImages(dict(sorted(published.items()))))


def packed_files(webroot: Path) -> dict[str, Packed]:
    """Return the remembered packed files by name; none if the record is missing or damaged."""
    try:
        record = _PACKED.read(webroot)
    except RepositoryError:
        return {}
    return {} if record is None else record.files


def remember_packed(webroot: Path, files: Mapping[str, Packed]) -> None:
    """Replace the record of the packed files; those that are gone are forgotten."""
    there = {name: packed for name, packed in sorted(files.items()) if (webroot / name).is_file()}
    _PACKED.write(webroot, _PackedFiles(there))


def withdrawn_templates(folder: Path) -> frozenset[tuple[str, str]]:
    """Return name and architecture of each template that was withdrawn from a served folder.

    A record that cannot be read is an error: guessing would publish again what was withdrawn.
    """
    record = _WITHDRAWN.read(folder)
    return frozenset() if record is None else frozenset(record.templates)


def remember_withdrawn(folder: Path, templates: Iterable[tuple[str, str]]) -> None:
    """Replace the record of withdrawn templates."""
    _WITHDRAWN.write(folder, _Templates(tuple(sorted(templates))))


def protected_templates(folder: Path) -> frozenset[tuple[str, str]]:
    """Return name and architecture of each template whose image must stay.

    A record that cannot be read is an error: guessing would drop the protection.
    """
    record = _PROTECTED.read(folder)
    return frozenset() if record is None else frozenset(record.templates)


def remember_protected(folder: Path, templates: Iterable[tuple[str, str]]) -> None:
    """Replace the record of protected templates."""
    _PROTECTED.write(folder, _Templates(tuple(sorted(templates))))


def refuse_protected(folder: Path, before: Index, after: Index) -> None:
    """Refuse an index that takes away or replaces the image of a protected template."""
    protected = protected_templates(folder)
    files = {(entry.os_version, entry.arch): entry.file for entry in after.entries}
    for entry in before.entries:
        key = (entry.os_version, entry.arch)
        if key in protected and files.get(key) != entry.file:
            raise protected_error(folder, entry.os_version)


def protected_error(folder: Path, name: str) -> UsageError:
    """Return the error about a template that is protected."""
    return UsageError(
        f"the template {name} is protected: its image is neither replaced nor taken away",
        hint=f"to allow that: pybuilder-repo protect --undo {folder} {name}",
    )


def set_aside_files(folder: Path) -> frozenset[str]:
    """Return the published files that were replaced by hand, so that ``publish`` leaves their images out.

    A record that cannot be read is an error: guessing would publish what a rollback took away.
    """
    record = _SET_ASIDE.read(folder)
    return frozenset() if record is None else frozenset(record.files)


def remember_set_aside(folder: Path, files: Iterable[str]) -> None:
    """Replace the record of files that were replaced by hand."""
    _SET_ASIDE.write(folder, _SetAside(tuple(sorted(files))))


def former_entries(folder: Path) -> dict[tuple[str, str], Entry]:
    """Return the last entry of each template that was published once, by name and architecture."""
    record = _FORMER.read(folder)
    if record is None or not record.index:
        return {}
    index = parse_index(UnverifiedText(record.index), where=str(folder / FORMER_NAME))
    return {(entry.os_version, entry.arch): entry for entry in index.entries}


def remember_former(folder: Path, before: Index, after: Index) -> None:
    """Remember the entries that an index has and the next one no longer has."""
    known = former_entries(folder)
    there = {(entry.os_version, entry.arch) for entry in after.entries}
    merged = {**known, **{(entry.os_version, entry.arch): entry for entry in before.entries}}
    kept = {key: entry for key, entry in merged.items() if key not in there}
    if kept != known:
        _FORMER.write(folder, _Former(write_index(Index(tuple(kept.values()))) if kept else ""))
