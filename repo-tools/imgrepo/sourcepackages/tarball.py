"""The tar archive of source packages: the same bytes for the same content."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from imgbuilder.errors import WorkspaceError
from imgbuilder.events import Progress, ProgressEnd, Reporter
from imgbuilder.host.hashing import hash_file, hash_stream
from imgbuilder.host.workspace import explain, new_file
from imgindex.files import open_file
from imgrepo.library.records import SourceGap
from imgrepo.sourcepackages.archive import SourceFile, SourcePackage

OFFER_NAME, LIST_NAME = "OFFER.txt", "SOURCES.tsv"
_TIME = 946_684_800
"""All files' time, 2000-01-01: tar warns of 1970."""
_RECORD = 10_240
"""Bytes that a tar archive is a multiple of."""
_BLOCK = 512


def offer_text(name: str, contact: str, gaps: Sequence[SourceGap], *, left_out: int = 0) -> str:
    """Return the text about its sources for people who received the image."""
    lines = [
        f"Source code of {name}",
        "",
        f"The archive {name}-sources.tar holds complete source packages, as their distribution published",
        f"them, in exactly the versions that the programs in the disk image {name} were built from.",
        f"{LIST_NAME} in it lists them with size and SHA-256. Each program's own licence says what you may",
        "do with it; the image has them in /usr/share/doc.",
    ]
    if gaps:
        lines += ["", "Not in the archive:", ""]
        lines += [f"  {gap.source} {gap.version}: {gap.reason}" for gap in gaps]
    if left_out:
        lines += ["", f"Only some packages were asked for: those of {left_out} more are not in the archive."]
    if contact:
        more = "For these, and for" if gaps else "For"
        lines += ["", f"{more} any source code that you miss, ask: {contact}"]
    return "\n".join([*lines, ""])


def tar_size(packages: Sequence[SourcePackage], texts: int) -> int:
    """Return an upper bound of the archive's bytes; ``texts`` is the size of the texts in it."""
    files = [file.size for package in packages for file in package.files]
    blocks = sum(-(-size // _BLOCK) + 1 for size in (*files, texts, 0, 0))
    return blocks * _BLOCK + 2 * _RECORD


def list_text(packages: Sequence[SourcePackage]) -> str:
    """Return the list of all files, one a line: source, version, file, size, SHA-256, proof."""
    rows = ["# source\tversion\tfile\tsize\tsha256\tfound in"]
    rows += [
        "\t".join((package.name, package.version, file.name, str(file.size), file.sha256, package.proof))
        for package in packages
        for file in package.files
    ]
    return "\n".join([*rows, ""])


def pack(
    final: Path, packages: Sequence[SourcePackage], files: Path, offer: str, on_event: Reporter
) -> tuple[str, int]:
    """Write the archive, which appears when it is complete; return its SHA-512 and its size in bytes."""
    ordered = sorted(packages, key=lambda package: package.id)
    total = sum(file.size for package in ordered for file in package.files)
    with new_file(final) as temporary:
        try:
            with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
                for name, text in ((OFFER_NAME, offer), (LIST_NAME, list_text(ordered))):
                    data = text.encode()
                    tar.addfile(_member(name, len(data)), io.BytesIO(data))
                done = 0
                for package in ordered:
                    for file in package.files:
                        _add(tar, f"{package.folder}/{file.name}", file, files / file.sha256)
                        done += file.size
                        on_event(Progress(final.name, done, total))
            digest = hash_file(temporary)
            size = temporary.stat().st_size
        except OSError as error:
            raise explain(error, final) from error
        finally:
            on_event(ProgressEnd())
    return digest, size


def _add(tar: tarfile.TarFile, name: str, file: SourceFile, path: Path) -> None:
    with open_file(path) as content:
        hashing = _Hashing(content)
        sound = path.stat().st_size == file.size
        if sound:
            tar.addfile(_member(name, file.size), hashing)
        if not sound or hashing.digest.hexdigest() != file.sha256:
            path.unlink()
            raise WorkspaceError(
                f"{path} was changed since it was fetched", hint="run the command again to fetch it again"
            )


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, _TIME, 0o644
    member.uname = member.gname = "root"
    return member


class _Hashing:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read some bytes."""
        data = self._file.read(size)
        self.digest.update(data)
        return data


def unpack_known(archive: Path, wanted: dict[str, int], files: Path) -> None:
    """Extract files of known SHA-256 and size from an earlier archive; of a damaged one, what can be read."""
    sizes = set(wanted.values())
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() and member.size in sizes else None
                if content is None:
                    continue
                digest = hash_stream(content, "sha256")
                if wanted.get(digest) == member.size and not (files / digest).exists():
                    content.seek(0)
                    with new_file(files / digest) as temporary, temporary.open("wb") as file:
                        while piece := content.read(1 << 20):
                            file.write(piece)
    except (tarfile.TarError, EOFError):
        return
