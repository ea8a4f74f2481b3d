"""Packs an examined image, and writes its entry."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.events import Reporter, Step
from imgindex.model import Entry, ZstdFile
from imgrepo.images.compress import Compressed, ImageCopy, compress, xz_arguments, zstd_arguments
from imgrepo.images.facts import ImageFacts
from imgrepo.images.scan import SourceImage
from imgrepo.publishing.request import PublishRequest
from imgrepo.webroot.entries import NamedFile, is_complete, new_entry, published_name
from imgrepo.webroot.state import Published
from imgrepo.webroot.transaction import Session

_BEST_ZSTD = 19


@dataclass(frozen=True)
class Candidate:
    """An image that is new or changed.

    Attributes:
        size: Size of its disk in bytes.
        name: Name of its template.
        old: The template that it replaces; None for a new one.
        copy: A copy of it with free space given back; None when the image itself is packed.
    """

    image: SourceImage
    size: int
    name: str = ""
    facts: ImageFacts | None = None
    old: Entry | None = None
    copy: ImageCopy | None = None


class Packer:
    """Packs images into the folder of a session; ``files`` names the packed files there."""

    def __init__(self, request: PublishRequest, session: Session, on_event: Reporter) -> None:
        self._request, self._session, self._on_event = request, session, on_event
        self.files: list[str] = []

    def pack(self, candidate: Candidate) -> tuple[Entry, Published]:
        """Pack an image; return its entry and the record for the next run.

        A file that is published already with the same bytes is not published again.
        """
        image, old = candidate.image, candidate.old
        assert candidate.facts is not None
        self._on_event(
            Step(f"Compressing {image.name}" if self._request.compress else f"Copying {image.name}")
        )
        command = xz_arguments(self._request.preset) if self._request.compress else None
        ending = "xz" if command else image.path.suffix[1:]
        part, made = self._make(candidate, command)
        entry = new_entry(image, candidate.size, candidate.facts, made, old, ending=ending)
        entry = dataclasses.replace(entry, os_version=candidate.name)
        if old is not None and entry.file == old.file and self._is_in_place(entry.file, made):
            part.unlink()
        else:
            entry = dataclasses.replace(entry, file=published_name(image.stem, made.sha512, ending))
            self._stage(part, entry.file)
        entry = dataclasses.replace(entry, zstd=self._second_file(candidate))
        source = candidate.copy.source_sha512 if candidate.copy else made.source_sha512
        published = Published(
            image.fingerprint, source, entry.file, entry.os_version, entry.arch, system=candidate.facts.system
        )
        return entry, published

    def _second_file(self, candidate: Candidate) -> ZstdFile | None:
        """Pack the same disk with zstd, if that is requested or was offered before."""
        old = candidate.old.zstd if candidate.old else None
        if self._request.zstd_level is None and old is None:
            return None
        self._on_event(Step(f"Compressing {candidate.image.name} with zstd"))
        part, made = self._make(candidate, zstd_arguments(self._request.zstd_level or _BEST_ZSTD))
        if old is not None and old.sha512 == made.sha512 and self._is_in_place(old.file, made):
            part.unlink()
            return old
        name = published_name(candidate.image.stem, made.sha512, "zst")
        self._stage(part, name)
        return ZstdFile(name, made.sha512, made.size)

    def _make(self, candidate: Candidate, command: list[str] | None) -> tuple[Path, Compressed]:
        part = self._session.folder / f"{candidate.image.name}.part"
        content = candidate.copy.path if candidate.copy else None
        return part, compress(candidate.image, part, command, self._on_event, content=content)

    def _is_in_place(self, name: str, made: Compressed) -> bool:
        return is_complete(self._request.output, NamedFile(name, made.size, made.sha512))

    def _stage(self, part: Path, name: str) -> None:
        part.rename(self._session.folder / name)
        self.files.append(name)


def planned_entry(candidate: Candidate) -> Entry:
    """Return the entry that a run would publish, without digest and size, which are not known yet."""
    assert candidate.facts is not None
    nothing = Compressed(candidate.image.path, 0, "", "")
    return dataclasses.replace(
        new_entry(candidate.image, candidate.size, candidate.facts, nothing, candidate.old),
        os_version=candidate.name,
        file=f"{candidate.image.stem}-... (to be made)",
        sha512=None,
        compressed_size=None,
        zstd=candidate.old.zstd if candidate.old else None,
    )
