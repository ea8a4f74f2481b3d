"""The templates of a served folder, each with its state; withdrawn ones as well."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from imgindex.fields import deprecation
from imgindex.model import Entry
from imgindex.trust import VerifiedText
from imgrepo.services import Services
from imgrepo.webroot.entries import downloads_of, is_complete
from imgrepo.webroot.signing import read_served
from imgrepo.webroot.state import former_entries, packed_files, protected_templates, withdrawn_templates


class TemplateState(enum.Enum):
    """A state of a template; users read its value."""

    LISTED = "listed"
    HIDDEN = "hidden"
    DEPRECATED = "deprecated"
    WITHDRAWN = "withdrawn"
    BROKEN = "file missing"
    PROTECTED = "protected"


@dataclass(frozen=True)
class PublishedTemplate:
    """A template that clients get, or that was withdrawn.

    Attributes:
        entry: Its entry; of a withdrawn one the last, None if that is not known.
        states: At least one state; a template can be hidden and deprecated.
        packed_at: When its file was packed; None when the file is missing.
        image: SHA-512 of the image; None when it was packed elsewhere.
    """

    name: str
    arch: str
    states: tuple[TemplateState, ...]
    entry: Entry | None = None
    packed_at: datetime | None = None
    image: str | None = None


def templates_in(webroot: Path, services: Services) -> tuple[VerifiedText, tuple[PublishedTemplate, ...]]:
    """Return the signed index of a served folder and its templates, withdrawn ones last."""
    published, signed = read_served(webroot, services)
    packed, protected = packed_files(webroot), protected_templates(webroot)

    def made(entry: Entry, states: tuple[TemplateState, ...]) -> PublishedTemplate:
        path = webroot / entry.file
        packed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.is_file() else None
        image = packed[entry.file].image if entry.file in packed else None
        return PublishedTemplate(entry.os_version, entry.arch, states, entry, packed_at, image)

    found = [made(entry, tuple(_states(entry, webroot, protected))) for entry in published.index.entries]
    former = former_entries(webroot)
    there = {(template.name, template.arch) for template in found}
    for name, arch in sorted(withdrawn_templates(webroot) - there):
        entry, states = former.get((name, arch)), (TemplateState.WITHDRAWN,)
        found.append(PublishedTemplate(name, arch, states) if entry is None else made(entry, states))
    return signed, tuple(found)


def _states(entry: Entry, webroot: Path, protected: frozenset[tuple[str, str]]) -> Iterator[TemplateState]:
    yield TemplateState.HIDDEN if entry.hidden else TemplateState.LISTED
    if deprecation(entry) is not None:
        yield TemplateState.DEPRECATED
    if (entry.os_version, entry.arch) in protected:
        yield TemplateState.PROTECTED
    if not all(is_complete(webroot, file) for file in downloads_of(entry)):
        yield TemplateState.BROKEN
