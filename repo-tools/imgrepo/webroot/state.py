"""The records between runs, which all lie in the served folder; no client reads them.

The record of images, one for each folder that is published there, shows what
changed. The record of packed files keeps an image from being packed twice,
also by another publisher. Both are conveniences: without them images are
compressed again and come out as the same files, and nothing in them is trusted
unless the signed index confirms it. The record of packed files has a line for
each, so that the next one costs the same in a large library. The record of withdrawn templates keeps
``publish`` from publishing them again, and that of set-aside files from
undoing a rollback. The record of former entries gives a template that comes
back its notes, aliases and revision.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.host.hashing import Fingerprint
from imgbuilder.host.workspace import explaining
from imgindex.files import open_file
from imgindex.model import Entry, Index
from imgindex.parse import parse_index
from imgindex.trust import UnverifiedText
from imgindex.write import write_index
from imgrepo.recordfile import Many, Moment, RecordFile, writing_file

PACKED_NAME = ".pybuilder-repo-packed"
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
        name, osinfo: What was found in it, so that an entry that says the same follows the next image.
        gone_since: When the image was first missed, in UTC; None while it is there.
    """

    fingerprint: Fingerprint
    sha512: str
    file: str
    entry: str
    arch: str
    system: bool = True
    name: str | None = None
    osinfo: str | None = None
    gone_since: Moment | None = None


@dataclass(frozen=True)
class Packed:
    """A packed file.

    Attributes:
        image: SHA-512 of the image that it was made of.
        how: Program and options.
        entry: Name of the template.
        system: Whether an operating system was found in the image.
        name, osinfo: What was found in it.
    """

    image: str
    how: str
    sha512: str
    size: int
    entry: str
    arch: str
    system: bool = True
    name: str | None = None
    osinfo: str | None = None


@dataclass(frozen=True)
class _PackedFile:
    file: str
    packed: Packed


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


_LARGEST_PACKED = 64 << 20
"""Bytes of the record of packed files at most; a library of 5,000 templates has 6 MB."""
_PACKED = RecordFile(_PackedFile, PACKED_NAME, limit=64 << 10)
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
    """Return the remembered packed files by name, without damaged lines."""
    found = {}
    for line in _packed_lines(webroot):
        with contextlib.suppress(RepositoryError):
            one = _PACKED.parse(line, where=PACKED_NAME)
            found[one.file] = one.packed
    return found


def _packed_lines(webroot: Path) -> list[bytes]:
    try:
        with open_file(webroot / PACKED_NAME) as file:
            data = file.read(_LARGEST_PACKED + 1)
    except OSError:
        return []
    return [line for line in data.split(b"\n") if line] if len(data) <= _LARGEST_PACKED else []


def remember_packed(webroot: Path, name: str, packed: Packed) -> None:
    """Add a packed file to the record."""
    path, line = webroot / PACKED_NAME, _PACKED.text(_PackedFile(name, packed), indent=None)
    with explaining(path), path.open("ab") as file:
        file.write(b"\n" + line)  # a line that was cut off ends here
        os.fsync(file.fileno())


def tidy_packed(webroot: Path) -> None:
    """Remove lines of files that are gone from the record of packed files, if there are any."""
    there = {name: packed for name, packed in packed_files(webroot).items() if (webroot / name).is_file()}
    if len(there) != len(_packed_lines(webroot)):
        lines = [_PACKED.text(_PackedFile(name, packed), indent=None) for name, packed in there.items()]
        with writing_file(webroot / PACKED_NAME, b"".join(lines)):
            pass


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
    for name, arch in sorted(protected_templates(folder)):
        was, now = before.find(name, arch), after.find(name, arch)
        if was is not None and (now is None or now.file != was.file):
            raise protected_error(folder, name)


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
