"""The memory of the catalogue between two runs: ``catalogue.json``, a file of the site itself.

For each template it holds the revision that is shown, when it was first shown,
its packages, and how it and former ones differ from the revision before, so that
pages can show changes and the feed keeps its dates. It also marks the folder as a catalogue and
lists its files. It is served, so that programs can read the packages there.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from imgbuilder.errors import RepositoryError
from imgrepo.catalogue.model import Change, Changes
from imgrepo.contents.diff import pair_up
from imgrepo.library.records import Package
from imgrepo.recordfile import Many, Moment, RecordFile

MEMORY_NAME = "catalogue.json"
LARGEST = 256 << 20
MOST_REVISIONS, MOST_CHANGES = 20, 1000
"""Most former revisions of a template, and most changed packages of all of them together."""
_Versions = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Former:
    """A revision that was shown before, and how its packages differed from those of the one before it."""

    revision: int
    published: Moment
    changes: Changes | None = None


@dataclass(frozen=True)
class Shown:
    """A template as it was shown.

    Attributes:
        sha512: SHA-512 of its file, empty when not known.
        published: When this revision was first shown, in UTC.
        packages: Name and version; None when they are not known.
        former: The revisions before it, newest first.
    """

    revision: int
    sha512: str
    published: Moment
    packages: _Versions | None = None
    changes: Changes | None = None
    former: Many[Former] = ()


@dataclass(frozen=True)
class Memory:
    """The memory of a run: the feed's identifier, and what was shown by name and architecture."""

    identity: str
    shown: Mapping[tuple[str, str], Shown]


@dataclass(frozen=True, kw_only=True)
class _Template(Shown):
    name: str
    arch: str

    def as_shown(self) -> Shown:
        return Shown(self.revision, self.sha512, self.published, self.packages, self.changes, self.former)


@dataclass(frozen=True)
class _CatalogueFile:
    identity: str
    templates: Many[_Template]
    files: Many[str] = ()


_HINT = "remove the old catalogue; the next one then shows no changes"
_RECORD = RecordFile(_CatalogueFile, MEMORY_NAME, limit=LARGEST, hint=_HINT)


def versions_of(packages: Iterable[Package]) -> _Versions:
    """Return names and versions; a package for several architectures has them in its name."""
    known = sorted({(one.name, one.arch, one.version) for one in packages})
    archs: dict[str, set[str]] = {}
    for name, arch, _version in known:
        archs.setdefault(name, set()).add(arch)
    return tuple(
        (f"{name}:{arch}" if len(archs[name]) > 1 else name, version) for name, arch, version in known
    )


def compare(before: _Versions, after: _Versions) -> tuple[Change, ...]:
    """Return the packages that were added, removed or changed; several versions of one are one line."""
    old, new = ((((name,), version, version) for name, version in versions) for versions in (before, after))
    return tuple(
        Change(name, ", ".join(was), ", ".join(now)) for (name,), was, now in pair_up(old, new) if was != now
    )


def next_shown(
    before: Shown | None, revision: int, sha512: str, signed_at: datetime, packages: _Versions | None
) -> Shown:
    """Return what to show of a template now; ``before`` is what the last run showed of it."""
    if before is None:
        return Shown(revision, sha512, signed_at, packages)
    if (before.revision, before.sha512) != (revision, sha512):
        both = before.packages is not None and packages is not None
        changes = Changes(before.revision, compare(before.packages or (), packages or ())) if both else None
        last = Former(before.revision, before.published, before.changes)
        return Shown(revision, sha512, signed_at, packages, changes, _bounded((last, *before.former)))
    # The same file: what was known before stays, even if its packages are listed only now.
    return before if packages is None else dataclasses.replace(before, packages=packages)


def _bounded(former: tuple[Former, ...]) -> tuple[Former, ...]:
    """Return the newest of them, and the changed packages of as many as have room: the file must not grow."""
    kept, room = [], MOST_CHANGES
    for one in former[:MOST_REVISIONS]:
        room -= len(one.changes.packages) if one.changes else 0
        kept.append(one if room >= 0 else dataclasses.replace(one, changes=None))
    return tuple(kept)


def memory_text(memory: Memory, files: Iterable[str]) -> bytes:
    """Return the content of ``catalogue.json``; ``files`` are the names of all files of the site."""
    templates = tuple(
        _Template(name=name, arch=arch, **vars(one)) for (name, arch), one in sorted(memory.shown.items())
    )
    return _RECORD.text(_CatalogueFile(memory.identity, templates, tuple(sorted(files))))


def read_memory(folder: Path) -> Memory | None:
    """Read the memory of the last run; None when the folder has none."""
    record = _RECORD.read(folder)
    return None if record is None else _memory(record, str(folder / MEMORY_NAME))


def parse_memory(data: bytes, *, where: str) -> Memory:
    """Read the content of a ``catalogue.json``."""
    return _memory(_RECORD.parse(data, where=where), where)


def _memory(record: _CatalogueFile, where: str) -> Memory:
    try:
        identity = uuid.UUID(record.identity).urn
    except ValueError as error:
        raise RepositoryError(f"{where} cannot be read: {error}", hint=_HINT) from error
    return Memory(identity, {(one.name, one.arch): one.as_shown() for one in record.templates})


def files_named(data: bytes) -> tuple[str, ...]:
    """Return the files that a ``catalogue.json`` names; none when it is not one.

    Names that we would not make are left out: the file may come from a stranger.
    """
    try:
        names = json.loads(data)["files"]
        return tuple(str(name) for name in names if _is_ours(str(name)))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


def _is_ours(name: str) -> bool:
    plain = all(one.isascii() and (one.isalnum() or one in "._~-/") for one in name)
    return plain and not any(part.startswith(".") or not part for part in name.split("/"))
