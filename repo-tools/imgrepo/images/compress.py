"""Packs an image for publication: by xz in blocks that clients unpack in parallel, by zstd, or not at all.

Before that, an image may be copied, so that free space in its filesystems can be
given back. The image itself is never written to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from imgbuilder.errors import DiskError, UsageError, WorkspaceError
from imgbuilder.events import Progress, ProgressEnd, Reporter
from imgbuilder.host import imagelocks, process
from imgbuilder.host.hashing import hash_file
from imgbuilder.host.sparse import copy_and_hash, disk_usage
from imgbuilder.host.workspace import explain, explaining
from imgrepo.images.scan import SourceImage, check_unchanged

PRESETS = tuple(f"{level}{extreme}" for level in range(10) for extreme in ("", "e"))
"""Values of xz's compression presets, see xz(1)."""

_BLOCK_SIZE = 16 << 20
"""Bytes of the disk per block; virt-builder expects this size and unpacks one block per processor."""

ZSTD_LEVELS = range(1, 20)
"""Levels of zstd whose files clients unpack within their memory limit."""

_PIECE = 1 << 20

_DIGESTS: dict[SourceImage, str] = {}
"""SHA-512 of images, by path and fingerprint: several records need that of one image."""


@dataclass(frozen=True)
class Compressed:
    """A packed image.

    Attributes:
        path: The file, complete but not yet synced.
        source_sha512: SHA-512 of the bytes that were packed.
    """

    path: Path
    size: int
    sha512: str
    source_sha512: str


def check_preset(preset: str) -> None:
    """Check a preset before anything is done."""
    if preset not in PRESETS:
        raise UsageError(
            f"xz has no preset {preset!r}", hint="give a digit from 0 to 9, or one followed by e"
        )


def xz_arguments(preset: str) -> list[str]:
    """Return the command line of xz, from standard input to standard output, with one of ``PRESETS``."""
    # A dictionary larger than a block would only cost memory, here and at the clients.
    return [
        "xz", "--compress", "--stdout", "--format=xz", "--check=crc64", "--threads=0",
        f"--block-size={_BLOCK_SIZE}", f"--lzma2=preset={preset},dict={_BLOCK_SIZE}",
    ]  # fmt: skip


def zstd_arguments(level: int) -> list[str]:
    """Return the command line of zstd, from standard input to standard output; see ``ZSTD_LEVELS``."""
    return ["zstd", "--compress", "--stdout", "--quiet", "--check", "-T0", f"-{level}"]


def hash_image(image: SourceImage, on_event: Reporter) -> str:
    """Return the SHA-512 of an image as lower-case hex; an unchanged image is read once in a run."""
    if image in _DIGESTS:
        check_unchanged(image)
        return _DIGESTS[image]
    with explaining(image.path), imagelocks.held(image.path):
        digest = hash_file(image.path, on_event=on_event, label=f"reading {image.name}")
    check_unchanged(image)
    return _DIGESTS.setdefault(image, digest)


def compress(
    image: SourceImage,
    target: Path,
    command: Sequence[str] | None,
    on_event: Reporter,
    *,
    content: Path | None = None,
) -> Compressed:
    """Pack an image into a new file by a command such as ``xz_arguments``; None copies the bytes unchanged.

    With ``content``, that copy of the image is read instead. If the image changes meanwhile, or another
    program uses it, that is a DiskError, and the new file is useless (``docs/threat-model.md`` R6).
    """
    path = content or image.path
    total = image.fingerprint.size if content is None else path.stat().st_size
    try:
        with (
            imagelocks.held(path),
            path.open("rb", buffering=0) as source,
            target.open("xb", buffering=0) as output,
        ):
            if command is None:
                digest = copy_and_hash(
                    source.fileno(), output.fileno(), on_event, label=f"copying {image.name}"
                )
                made = Compressed(target, total, digest, digest)
            else:
                made = _pipe(image, source, output, total, command, on_event)
    except OSError as error:
        check_unchanged(image)
        raise explain(error, target) from error
    finally:
        on_event(ProgressEnd())
    check_unchanged(image)
    return made


def _pipe(
    image: SourceImage,
    source: IO[bytes],
    output: IO[bytes],
    total: int,
    command: Sequence[str],
    on_event: Reporter,
) -> Compressed:
    digest, size = hashlib.sha512(), 0
    label = f"compressing {image.name}"
    with _Feed(source) as feed, process.streaming(command, stdin=feed.output) as running:
        feed.start()
        while piece := os.read(running.stdout.fileno(), _PIECE):
            _write_all(output, piece)
            digest.update(piece)
            size += len(piece)
            on_event(Progress(label, min(feed.done, total), total))
    if feed.problem is not None:
        raise explain(feed.problem, image.path) from feed.problem
    check_unchanged(image)
    if feed.done != total:
        raise DiskError(f"{image.path}: only {feed.done} bytes of {total} could be read")
    return Compressed(Path(output.name), size, digest.hexdigest(), feed.digest.hexdigest())


def _write_all(output: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[output.write(view) :]


class _Feed:
    """Reads an image in a thread, hashes what it read, and passes it on through a pipe.

    Attributes:
        output: The pipe's end to read from, for the program; closed by ``start``.
        problem: Why reading ended early, or None.
    """

    def __init__(self, source: IO[bytes]) -> None:
        reading, writing = os.pipe()
        self.output = open(reading, "rb", buffering=0)  # noqa: SIM115 - closed in start
        self._input = open(writing, "wb", buffering=0)  # noqa: SIM115 - closed by the thread
        self._source = source
        self._thread = threading.Thread(target=self._run, name="image reader", daemon=True)
        self.done = 0
        self.digest = hashlib.sha512()
        self.problem: OSError | None = None

    def __enter__(self) -> _Feed:
        return self

    def start(self) -> None:
        """Begin, once the program holds its end: with ours closed, its death ends the thread."""
        self.output.close()
        self._thread.start()

    def __exit__(self, *_details: object) -> None:
        self.output.close()
        if self._thread.ident is not None:
            self._thread.join()
        self._input.close()

    def _run(self) -> None:
        try:
            while piece := self._source.read(_PIECE):
                self.digest.update(piece)
                self.done += len(piece)
                _write_all(self._input, piece)
        except BrokenPipeError:
            return  # the program is gone, and says why itself
        except OSError as error:
            self.problem = error
        finally:
            with contextlib.suppress(BrokenPipeError):
                self._input.close()


@dataclass(frozen=True)
class ImageCopy:
    """A copy of an image under the image's name, and the SHA-512 of the image that was read."""

    path: Path
    source_sha512: str


def space_needed(images: Iterable[SourceImage]) -> int:
    """Return how many bytes copies of these images take."""
    try:
        return sum(disk_usage(image.path) for image in images)
    except OSError as error:
        raise WorkspaceError(f"cannot read {error.filename}: {error.strerror}") from error


def copy_image(image: SourceImage, folder: Path, on_event: Reporter) -> ImageCopy:
    """Copy an image into a private folder, without its holes."""
    target = folder / image.name
    try:
        with (
            imagelocks.held(image.path),
            image.path.open("rb", buffering=0) as source,
            target.open("xb", buffering=0) as output,
        ):
            digest = copy_and_hash(source.fileno(), output.fileno(), on_event, label=f"copying {image.name}")
    except OSError as error:
        check_unchanged(image)
        raise explain(error, target) from error
    check_unchanged(image)
    return ImageCopy(target, digest)
