"""Private copies of images, on which the free space of their filesystems may be given back.

The image itself is never written to. Its digest is taken while it is copied,
so that the record of what was published speaks of the image, not of the copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from imgbuilder.disk.sparse import SparseWriter, data_ranges, disk_usage
from imgbuilder.errors import WorkspaceError
from imgbuilder.events import Progress, ProgressEnd, Reporter
from imgbuilder.host import imagelocks
from imgbuilder.host.workspace import explain
from imgrepo.images.scan import SourceImage, check_unchanged

_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)


@dataclass(frozen=True)
class Copy:
    """A copy of an image.

    Attributes:
        path: The file; it keeps the image's name.
        source_sha512: SHA-512 of the image that was read.
    """

    path: Path
    source_sha512: str


def space_needed(images: Iterable[SourceImage]) -> int:
    """Return how many bytes copies of these images take.

    Raises:
        WorkspaceError: One of them is gone.
    """
    try:
        return sum(disk_usage(image.path) for image in images)
    except OSError as error:
        raise WorkspaceError(f"cannot read {error.filename}: {error.strerror}") from error


def copy_image(image: SourceImage, folder: Path, on_event: Reporter) -> Copy:
    """Copy an image into a folder, holes left out.

    Args:
        image: The image.
        folder: A private folder without a file of the image's name.
        on_event: Reports how much was copied.

    Raises:
        DiskError: The image changed meanwhile (``docs/threat-model.md`` R6), or another program uses it.
        WorkspaceError: It cannot be read, or the copy cannot be written.
    """
    target = folder / image.name
    try:
        with (
            imagelocks.held(image.path),
            image.path.open("rb", buffering=0) as source,
            target.open("xb", buffering=0) as output,
        ):
            digest = _copy(image, source, output, on_event)
    except OSError as error:
        raise explain(error, target) from error
    finally:
        on_event(ProgressEnd())
    check_unchanged(image)
    return Copy(target, digest)


def _copy(image: SourceImage, source: IO[bytes], output: IO[bytes], on_event: Reporter) -> str:
    size, digest = image.fingerprint.size, hashlib.sha512()
    done = 0
    for start, end in data_ranges(source.fileno(), size):
        _hash_zeros(digest, start - done)
        source.seek(start)
        writer = SparseWriter(output.fileno(), start)
        while writer.offset < end:
            piece = source.read(min(_PIECE, end - writer.offset))
            if not piece:
                break  # it became shorter, which the check behind this tells
            digest.update(piece)
            writer.write(piece)
            on_event(Progress(f"copying {image.name}", writer.offset, size))
        done = end
    _hash_zeros(digest, size - done)
    SparseWriter(output.fileno(), size).finish()
    return digest.hexdigest()


def _hash_zeros(digest: hashlib._Hash, count: int) -> None:
    while count > 0:
        digest.update(_ZEROS[: min(count, _PIECE)])
        count -= _PIECE
