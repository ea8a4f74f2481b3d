"""The outline of a zstd file, walked before the program ``zstd`` sees it (RFC 8878, section 3).

That program goes on with any format that it was built with, frame by frame:
gzip, xz or lz4 behind a zstd frame would be unpacked as well, by decoders that
heed no memory limit. So all frames are looked at first (``docs/threat-model.md`` X6,
X8, X9); their blocks are skipped, not decoded.
"""

from __future__ import annotations

import io
import os
from typing import BinaryIO

_MAGIC = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_RLE, _RESERVED = 1, 3
_LARGEST_BLOCK = 128 << 10


class FrameError(Exception):
    """The file is not made of whole zstd frames; the text says why."""


def check_frames(file: BinaryIO) -> None:
    """Walk over all frames of an open file, whose position is not used.

    Raises:
        FrameError: It is cut off, or holds something other than zstd frames.
        OSError: It cannot be read.
    """
    with io.FileIO(os.dup(file.fileno())) as raw, io.BufferedReader(raw) as reader:
        size = os.fstat(raw.fileno()).st_size
        reader.seek(0)
        found = False
        while reader.tell() < size:
            magic = _number(reader, 4)
            if magic in _SKIPPABLE:
                reader.seek(_number(reader, 4), os.SEEK_CUR)
            elif magic == _MAGIC:
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
