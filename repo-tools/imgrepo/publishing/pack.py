"""Packs an examined image, and writes its entry."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from imgbuilder.errors import PybuilderError
from imgbuilder.events import Reporter, Step
from imgindex.model import Entry, ZstdFile
from imgrepo.images.compress import (
    Compressed,
    ImageCopy,
    compress,
    hash_image,
    xz_arguments,
    zstd_arguments,
)
from imgrepo.images.facts import ImageFacts
from imgrepo.images.scan import SourceImage
from imgrepo.publishing.request import PublishRequest
from imgrepo.webroot.entries import NamedFile, disks_of, is_complete, new_entry, published_name
from imgrepo.webroot.state import Packed, Published, packed_files, remember_packed
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
    """Packs images, and puts the files in place at once: they do no harm until an index names them.

    Attributes:
        files: Names of the files that were packed.
        known: Files that were packed before, by this run or by one that was killed, by their names.
    """

    def __init__(self, request: PublishRequest, session: Session, on_event: Reporter) -> None:
        self._request, self._session, self._on_event = request, session, on_event
        self.files: list[str] = []
        self.known = packed_files(request.output)

    def pack(self, candidate: Candidate) -> tuple[Entry, Published]:
        """Pack an image; return its entry and the record for the next run.

        A file that was packed before from the same image, or that comes out with the same bytes, is not
        packed or published again.
        """
        image, old, facts, request = candidate.image, candidate.old, candidate.facts, self._request
        assert facts is not None
        command = xz_arguments(request.preset) if request.compress else None
        ending = "xz" if command else image.path.suffix[1:]
        made = self._make(candidate, command, ending, None if old is None else old.file)
        entry = new_entry(image, candidate.size, facts, made, old, ending=ending)
        entry = dataclasses.replace(
            entry, os_version=candidate.name, file=made.path.relative_to(request.output).as_posix()
        )
        source = self.known[entry.file].image
        entry = dataclasses.replace(entry, zstd=self._second_file(candidate))
        published = Published(
            image.fingerprint, source, entry.file, entry.os_version, entry.arch, system=facts.system
        )
        return entry, published

    def _second_file(self, candidate: Candidate) -> ZstdFile | None:
        """Pack the same disk with zstd, if that is requested or was offered before."""
        old = candidate.old.zstd if candidate.old else None
        if self._request.zstd_level is None and old is None:
            return None
        command = zstd_arguments(self._request.zstd_level or _BEST_ZSTD)
        made = self._make(candidate, command, "zst", None if old is None else old.file)
        return ZstdFile(made.path.relative_to(self._request.output).as_posix(), made.sha512, made.size)

    def _make(
        self, candidate: Candidate, command: list[str] | None, ending: str, old: str | None
    ) -> Compressed:
        """Pack an image in one way, unless that was done before; ``old`` is the file published so far."""
        image, output = candidate.image, self._request.output
        how = " ".join([*(command or ["copy"]), *(["trimmed"] if candidate.copy else [])])
        before = self._made_before(candidate, how, ending, old)
        if before is not None:
            return before
        what = "Copying" if command is None else "Compressing"
        self._on_event(Step(f"{what} {image.name}{' with zstd' if ending == 'zst' else ''}"))
        part = self._session.folder / f"{image.name}.part"
        content = candidate.copy.path if candidate.copy else None
        try:
            made = compress(image, part, command, self._on_event, content=content)
        except PybuilderError:
            part.unlink(missing_ok=True)  # the next image may need its space
            raise
        name = published_name(image.stem, made.sha512, ending)
        if old is not None and self._is_same(candidate.old, old, made):
            name = old
        if is_complete(output, NamedFile(name, made.size, made.sha512)):
            part.unlink()
        else:
            part.rename(self._session.folder / name)
            self._session.commit(name)
            self.files.append(name)
        source = candidate.copy.source_sha512 if candidate.copy else made.source_sha512
        self._remember(candidate, name, made, source, how)
        return dataclasses.replace(made, path=output / name)

    def _made_before(self, candidate: Candidate, how: str, ending: str, old: str | None) -> Compressed | None:
        """Find a file that was packed from this image in the same way, or is published now."""
        fitting = {
            name: packed
            for name, packed in self.known.items()
            if name.endswith(f".{ending}") and (packed.how == how or name == old)
        }
        if not any(name.startswith(f"{candidate.image.stem}-") for name in fitting):
            return None
        source = (
            candidate.copy.source_sha512 if candidate.copy else hash_image(candidate.image, self._on_event)
        )
        for name, packed in fitting.items():
            file = NamedFile(name, packed.size, packed.sha512)
            if packed.image == source and is_complete(self._request.output, file):
                return Compressed(self._request.output / name, packed.size, packed.sha512, source)
        return None

    def _remember(self, candidate: Candidate, name: str, made: Compressed, source: str, how: str) -> None:
        assert candidate.facts is not None
        self.known[name] = Packed(
            source, how, made.sha512, made.size, candidate.name,
            candidate.old.arch if candidate.old else candidate.facts.arch, candidate.facts.system,
        )  # fmt: skip
        remember_packed(self._request.output, self.known)

    def _is_same(self, entry: Entry | None, name: str, made: Compressed) -> bool:
        """Check whether the file of an entry has the bytes that were packed."""
        return entry is not None and made.sha512 in {
            file.sha512 for file in disks_of(entry) if file.name == name
        }


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
