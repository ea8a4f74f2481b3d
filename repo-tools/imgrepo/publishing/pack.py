"""Packs an examined image, and writes its entry."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import PybuilderError, RepositoryError
from imgbuilder.events import Reporter, Step, info
from imgbuilder.host.workspace import explaining
from imgindex.model import Entry, FurtherFile
from imgrepo.images.blocks import compress_blocks, zstd_version
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
from imgrepo.webroot.entries import NamedFile, files_of, is_complete, new_entry, published_name
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
        last: The record of the image that was published before; None if there is none.
        copy: A copy of it with free space given back; None when the image itself is packed.
    """

    image: SourceImage
    size: int
    name: str = ""
    facts: ImageFacts | None = None
    old: Entry | None = None
    last: Published | None = None
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
        entry = new_entry(image, candidate.size, facts, made, old, candidate.last, ending=ending)
        entry = dataclasses.replace(
            entry, os_version=candidate.name, file=made.path.relative_to(request.output).as_posix()
        )
        source = self.known[entry.file].image
        zstd, blocks = self._further_files(candidate)
        entry = dataclasses.replace(entry, zstd=zstd, blocks=blocks)
        published = Published(
            image.fingerprint, source, entry.file, entry.os_version, entry.arch,
            facts.system, facts.name, facts.osinfo,
        )  # fmt: skip
        return entry, published

    def _further_files(self, candidate: Candidate) -> tuple[FurtherFile | None, FurtherFile | None]:
        """Pack the same disk with zstd and list its blocks, if that is requested or was offered before."""
        old, image = candidate.old, candidate.image
        zstd, blocks = (None, None) if old is None else (old.zstd, old.blocks)
        if self._request.zstd_level is None and zstd is None:
            return None, None
        level = self._request.zstd_level or _BEST_ZSTD
        if self._request.lists_blocks(image):
            packed, listed = self._make_blocks(candidate, level, zstd if blocks else None, blocks)
            return self._further_file(packed), self._further_file(listed)
        if self._request.blocks:
            info(self._on_event, f"{image.name} is published without a list of blocks: it is not raw")
        made = self._make(candidate, zstd_arguments(level), "zst", zstd.file if zstd else None)
        return self._further_file(made), None

    def _further_file(self, made: Compressed) -> FurtherFile:
        return FurtherFile(made.path.relative_to(self._request.output).as_posix(), made.sha512, made.size)

    def _make(
        self, candidate: Candidate, command: list[str] | None, ending: str, old: str | None
    ) -> Compressed:
        """Pack an image in one way, unless that was done before; ``old`` is the file published so far."""
        image = candidate.image
        how = self._way(candidate, " ".join(command or ["copy"]))
        before = self._made_before(candidate, how, ending, old)
        if before is not None:
            return before
        self._check_copy(candidate)
        what = "Copying" if command is None else "Compressing"
        self._on_event(Step(f"{what} {image.name}{' with zstd' if ending == 'zst' else ''}"))
        content = candidate.copy.path if candidate.copy else None
        with self._part(candidate) as part:
            made = compress(image, part, command, self._on_event, content=content)
        return self._put_in_place(candidate, made, how, ending, old)

    def _make_blocks(
        self, candidate: Candidate, level: int, zstd: FurtherFile | None, blocks: FurtherFile | None
    ) -> tuple[Compressed, Compressed]:
        """Pack an image block by block, and list the blocks, unless that was done before.

        The other arguments are the files published so far.
        """
        image = candidate.image
        how = self._way(candidate, f"blocks {zstd_version()} -{level}")
        names = zstd.file if zstd else None, blocks.file if blocks else None
        packed = self._made_before(candidate, how, "zst", names[0])
        listed = self._made_before(candidate, how, "blocklist", names[1])
        if packed is not None and listed is not None:
            return packed, listed
        self._check_copy(candidate)
        self._on_event(Step(f"Compressing {image.name} with zstd, block by block"))
        content = candidate.copy.path if candidate.copy else None
        with self._part(candidate) as part:
            made, found = compress_blocks(image, part, level, self._on_event, content=content)
        packed = self._put_in_place(candidate, made, how, "zst", names[0])
        data = found.to_bytes()
        with self._part(candidate) as part, explaining(part):
            part.write_bytes(data)
        digest = hashlib.sha512(data).hexdigest()
        listed = Compressed(part, len(data), digest, packed.source_sha512)
        return packed, self._put_in_place(candidate, listed, how, "blocklist", names[1])

    def _check_copy(self, candidate: Candidate) -> None:
        """Check that the copy to pack is there: after a change of the index, nothing is packed again."""
        if candidate.copy is not None and not candidate.copy.path.exists():
            raise RepositoryError(
                f"the file of {candidate.image.name} was removed while others were packed",
                hint="publish again",
            )

    def _way(self, candidate: Candidate, how: str) -> str:
        return f"{how} trimmed" if candidate.copy else how

    @contextlib.contextmanager
    def _part(self, candidate: Candidate) -> Iterator[Path]:
        """Return the place of a new file, which is removed when it cannot be made."""
        part = self._session.folder / f"{candidate.image.name}.part"
        try:
            yield part
        except PybuilderError:
            part.unlink(missing_ok=True)  # the next image may need its space
            raise

    def _put_in_place(
        self, candidate: Candidate, made: Compressed, how: str, ending: str, old: str | None
    ) -> Compressed:
        """Give a new file its name, unless the same one is there, and remember how it was made."""
        image, output = candidate.image, self._request.output
        name = published_name(image.stem, made.sha512, ending)
        if old is not None and self._is_same(candidate.old, old, made):
            name = old
        if is_complete(output, NamedFile(name, made.size, made.sha512)):
            made.path.unlink()
        else:
            made.path.rename(self._session.folder / name)
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
        facts = candidate.facts
        self.known[name] = Packed(
            source, how, made.sha512, made.size, candidate.name,
            candidate.old.arch if candidate.old else facts.arch, facts.system, facts.name, facts.osinfo,
        )  # fmt: skip
        remember_packed(self._request.output, name, self.known[name])

    def _is_same(self, entry: Entry | None, name: str, made: Compressed) -> bool:
        """Check whether the file of an entry has the bytes that were packed."""
        return entry is not None and made.sha512 in {
            file.sha512 for file in files_of(entry) if file.name == name
        }


def planned_entry(candidate: Candidate) -> Entry:
    """Return the entry that a run would publish, without digest and size, which are not known yet."""
    assert candidate.facts is not None
    nothing = Compressed(candidate.image.path, 0, "", "")
    return dataclasses.replace(
        new_entry(candidate.image, candidate.size, candidate.facts, nothing, candidate.old, candidate.last),
        os_version=candidate.name,
        file=f"{candidate.image.stem}-... (to be made)",
        sha512=None,
        compressed_size=None,
        zstd=candidate.old.zstd if candidate.old else None,
        blocks=candidate.old.blocks if candidate.old else None,
    )
