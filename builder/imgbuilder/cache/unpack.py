"""Unpacks a template file as published to a plain disk image.

The digest of the file was checked before, so that any fault here is the publisher's; the file may still be
hostile. The output is limited to the size in the signed index while it is written, and a qcow2 header is
checked before any other program opens the image (``docs/threat-model.md`` T10, X1 to X11).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from imgbuilder.disk.imageheader import UNNAMED, check_image
from imgbuilder.disk.magic import packing_of
from imgbuilder.errors import DiskError, ProgramKilledError, RepositoryError, ToolError, WorkspaceError
from imgbuilder.events import Progress, ProgressEnd, Reporter, ignore
from imgbuilder.host import process
from imgbuilder.host.hashing import PIECE, ContentDigest
from imgbuilder.host.sparse import SparseWriter, WriteBehind
from imgbuilder.sizes import human_size
from imgindex.files import open_empty
from imgindex.model import Entry

_ZSTD_MAGIC = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_RLE, _RESERVED = 1, 3
_LARGEST_BLOCK = 128 << 10


class Unpacker(Protocol):
    """A function that unpacks a template file, as ``unpack`` does."""

    def __call__(
        self, source: BinaryIO, destination: Path, entry: Entry, on_event: Reporter = ..., *, where: str
    ) -> str:
        """Unpack ``source`` into the new file ``destination``; return the digest of its content."""
        ...


_MEMORY = 80 << 20
"""Bytes that the decompressor may use: ``xz -9`` needs 65 MiB.

It decodes as many blocks in parallel as fit: with 16 MiB blocks, two. More memory would help few: with more
than two cores, and templates that are not offered as zstd as well.
"""

_ZSTD_MEMORY = 128 << 20
"""The same for zstd: its default, enough for ``-19`` (8 MiB) and ``--long`` (128 MiB)."""

_NO_MEMORY = ("Cannot allocate memory", "not enough memory")
"""Messages of xz and zstd when the system, not our limit, refuses memory."""

_OVER_LIMIT = ("Memory usage limit reached", "requires too much memory")
"""Their messages when our limit does."""


def unpack(
    source: BinaryIO, destination: Path, entry: Entry, on_event: Reporter = ignore, *, where: str
) -> str:
    """Unpack a template file to a sparse disk image of the format that the index promises.

    The digest of ``source`` was checked. ``destination`` is an empty file or does not exist; it is removed if
    unpacking fails, and not synced. Progress is in bytes of the output. The result is its ``ContentDigest``.
    """
    head = os.pread(source.fileno(), 512, 0)
    packing = packing_of(head)
    try:
        descriptor = open_empty(destination)
    except OSError as error:
        raise _write_error(destination, entry, error) from error
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as output:
            writer = _Writer(output.fileno())
            _fill(writer, source, packing, entry, on_event, where)
            writer.finish()
        _check(destination, entry, where)
    except BaseException as error:
        destination.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _write_error(destination, entry, error) from error
        raise
    return writer.content.finish(writer.offset)


class _Writer(SparseWriter):
    """Takes the digest of the disk as well."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.content = ContentDigest()

    def note(self, offset: int, block: bytes | bytearray) -> None:
        """Add a block to the digest."""
        self.content.add(offset, len(block), hashlib.sha256(block).digest())


def _largest_output(entry: Entry) -> int:
    """Return the most bytes of an unpacked file: a raw disk has its size, a qcow2 file some tables more."""
    if entry.format == "raw":
        return entry.size
    # The tables of the smallest clusters, 512 bytes, take 8 + 2 bytes per cluster, which is under a 32nd.
    return entry.size + entry.size // 32 + (16 << 20)


def _fill(
    writer: _Writer,
    source: BinaryIO,
    packing: str | None,
    entry: Entry,
    on_event: Reporter,
    where: str,
) -> None:
    os.lseek(source.fileno(), 0, os.SEEK_SET)
    if packing is None:
        _copy(source, source, writer, entry, on_event, where)
    elif packing == "xz":
        # --format=xz: no other format is tried; -T0 decodes the blocks of one file in parallel.
        command = ["xz", "--decompress", "--stdout", "--format=xz", "-T0", f"--memlimit-decompress={_MEMORY}"]
        _decompress(command, source, writer, entry, on_event, where)
    elif packing == "zstd":
        try:
            check_frames(source)
        except FrameError as error:
            raise _damaged(where, str(error)) from error
        os.lseek(source.fileno(), 0, os.SEEK_SET)
        command = ["zstd", "--decompress", "--stdout", "--quiet", f"--memory={_ZSTD_MEMORY}"]
        _decompress(command, source, writer, entry, on_event, where)
    else:
        raise RepositoryError(
            f"{where}: the template is a {packing} file, which is not supported",
            hint="the publisher should offer it compressed with xz or zstd",
        )


def _read_into(descriptor: int, buffer: bytearray) -> int:
    """Fill a buffer and return the number of bytes, fewer than it holds only at the end."""
    view, count = memoryview(buffer), 0
    while count < len(buffer) and (got := os.readv(descriptor, [view[count:]])):
        count += got
    return count


def _copy(
    source: IO[bytes], packed: BinaryIO, writer: _Writer, entry: Entry, on_event: Reporter, where: str
) -> None:
    """Write all that a source yields, and report how much of the packed file was read: zeros take no time."""
    label = f"Unpacking {entry.os_version}"
    total = os.fstat(packed.fileno()).st_size
    # One buffer for all pieces: new ones would cost more system time than the work on them.
    buffer, behind = bytearray(PIECE), WriteBehind(writer.descriptor)
    try:
        while count := _read_into(source.fileno(), buffer):
            piece = buffer if count == PIECE else buffer[:count]
            if writer.offset + len(piece) > _largest_output(entry):
                raise RepositoryError(
                    f"{where}: the template is larger than the {entry.size} bytes that the index promises",
                    hint="tell the publisher of this source",
                )
            writer.write(piece)
            behind.reached(writer.offset)
            # The decompressor reads through the same open file, so that its position is ours.
            on_event(Progress(label, os.lseek(packed.fileno(), 0, os.SEEK_CUR), total))
    finally:
        on_event(ProgressEnd())


def _decompress(
    command: list[str], source: BinaryIO, writer: _Writer, entry: Entry, on_event: Reporter, where: str
) -> None:
    process.require_program(command[0])
    try:
        with process.streaming(command, stdin=source) as running:
            with suppress(OSError):  # the user's pipes may have used up their share of memory
                fcntl.fcntl(running.stdout, fcntl.F_SETPIPE_SZ, PIECE)
            _copy(running.stdout, source, writer, entry, on_event, where)
    except ToolError as error:
        if isinstance(error, ProgramKilledError) or any(words in error.message for words in _NO_MEMORY):
            raise _stopped(where, error) from error
        if any(words in error.message for words in _OVER_LIMIT):
            raise RepositoryError(
                f"{where}: unpacking the template would take more memory than a preset of {command[0]} does",
                hint="tell the publisher of this source to pack it with a preset",
            ) from error
        raise _damaged(where, error.message) from error


def _stopped(where: str, error: ToolError) -> ToolError:
    """Make the error for a decompressor that this machine, not the template, made fail."""
    return ToolError(
        f"{where}: the template could not be unpacked: {error.message}",
        hint="probably out of memory (see: dmesg); free some and run the command again: the download is kept",
    )


def _damaged(where: str, reason: str) -> RepositoryError:
    return RepositoryError(
        f"{where}: the template is damaged although its digest is right: {reason}",
        hint="tell the publisher of this source",
    )


def _check(image: Path, entry: Entry, where: str) -> None:
    try:
        check_image(image, entry.format or UNNAMED, entry.size)
    except DiskError as error:
        raise RepositoryError(
            f"{where}: the template is not what the index promises: {error.message}",
            hint="tell the publisher of this source",
        ) from error


def _write_error(destination: Path, entry: Entry, error: OSError) -> WorkspaceError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return WorkspaceError(
            f"cannot write {destination}: {error.strerror}",
            hint="check that disk (see: dmesg), or choose another folder with --cache DIR",
        )
    return WorkspaceError(
        f"no space left in {destination.parent} while unpacking {entry.os_version}",
        hint=f"free some space there (at most {human_size(entry.size)} are needed), "
        "or choose another folder with --cache DIR",
    )


# The outline of a zstd file is walked before the program zstd sees it (RFC 8878, section 3): that program
# goes on with any format that it was built with, frame by frame, so that gzip, xz or lz4 behind a zstd frame
# would be unpacked by decoders without a memory limit. Blocks are skipped, not decoded.


class FrameError(Exception):
    """The file is not made of whole zstd frames; the text says why."""


def check_frames(file: BinaryIO) -> None:
    """Walk over an open file, whose position is not used; raise ``FrameError`` unless all is zstd frames."""
    with io.FileIO(os.dup(file.fileno())) as raw, io.BufferedReader(raw) as reader:
        size = os.fstat(raw.fileno()).st_size
        reader.seek(0)
        found = False
        while reader.tell() < size:
            magic = _number(reader, 4)
            if magic in _SKIPPABLE:
                reader.seek(_number(reader, 4), os.SEEK_CUR)
            elif magic == _ZSTD_MAGIC:
                _skip_frame(reader)
                found = True
            else:
                raise FrameError(f"something other than zstd begins at byte {reader.tell() - 4}")
            if reader.tell() > size:
                raise FrameError("it is cut off")
        if not found:
            raise FrameError("it holds no data")


def _number(reader: BinaryIO, count: int) -> int:
    piece = reader.read(count)
    if len(piece) != count:
        raise FrameError("it is cut off")
    return int.from_bytes(piece, "little")


def _skip_frame(reader: BinaryIO) -> None:
    """Skip a frame whose magic was read (RFC 8878, 3.1.1)."""
    descriptor = _number(reader, 1)
    if descriptor & 0x08:
        raise FrameError("a reserved bit is set")
    one_segment = bool(descriptor & 0x20)
    content_size = (int(one_segment), 2, 4, 8)[descriptor >> 6]
    reader.seek((not one_segment) + _DICTIONARY_ID_BYTES[descriptor & 3] + content_size, os.SEEK_CUR)
    last = False
    while not last:
        header = _number(reader, 3)
        last, kind, length = bool(header & 1), header >> 1 & 3, header >> 3
        if kind == _RESERVED or length > _LARGEST_BLOCK:
            raise FrameError(f"the block before byte {reader.tell()} is impossible")
        reader.seek(1 if kind == _RLE else length, os.SEEK_CUR)
    if descriptor & 0x04:
        _number(reader, 4)  # the checksum of the content
