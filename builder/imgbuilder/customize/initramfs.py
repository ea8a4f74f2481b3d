"""Finds words in an initial RAM filesystem, which is one or more archives, the last of them compressed.

A guest's kernel unpacks it, so that it may come from a hostile guest: programs of this host unpack it into a
pipe, with limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from imgbuilder.errors import ToolError
from imgbuilder.host import process

_HEADER = re.compile(
    rb"07070[12][0-9A-Fa-f]{48}([0-9A-Fa-f]{8})[0-9A-Fa-f]{32}([0-9A-Fa-f]{8})[0-9A-Fa-f]{8}"
)
"""The header of a member of an archive, with the sizes of its content and its name."""
_BLOCK = 4096
_UNPACKERS = {
    b"\x1f\x8b": ("gzip", "-dcq"),
    b"\xfd7zXZ\x00": ("xz", "-dcq", "--memlimit-decompress=256MiB"),
    b"\x5d\x00\x00": ("xz", "-dcq", "--format=lzma", "--memlimit-decompress=256MiB"),
    b"\x28\xb5\x2f\xfd": ("zstd", "-dcq", "--memory=256MB"),
    b"\x02\x21\x4c\x18": ("lz4", "-dcq"),
    b"BZh": ("bzip2", "-dcq"),
}
"""Programs for the compressions that Linux knows, by the first bytes."""
_PIECE = 1 << 20
_MOST = 4 << 30
"""Most bytes that are unpacked."""
_LONGEST = 256
"""Bytes of the end of a piece that are looked at with the next one; no word is longer."""


class UnreadableError(Exception):
    """The file cannot be unpacked here; the text says why."""


def find_words(image: Path, words: re.Pattern[bytes]) -> set[bytes]:
    """Return the words that an initial RAM filesystem has, in lower case.

    Raises:
        UnreadableError: A part of it cannot be unpacked.
    """
    with image.open("rb", buffering=0) as file:  # the program begins where this process is in the file
        start = _after_archives(file)
        file.seek(0)
        found = _search(_pieces(file, start), words)
        file.seek(start)
        head = file.read(8)
        if not head:
            return found
        command = next((argv for magic, argv in _UNPACKERS.items() if head.startswith(magic)), None)
        if command is None:
            raise UnreadableError("its compression is unknown")
        file.seek(start)
        try:
            with process.streaming(command, stdin=file) as running:
                found |= _search(_pieces(running.stdout, _MOST), words)
                if running.stdout.read(1):
                    raise UnreadableError("it is too large")
        except ToolError as error:
            raise UnreadableError(error.message) from error
    return found


def _after_archives(file: IO[bytes]) -> int:
    """Return where the archives that are not compressed end: at compressed data, or at the end."""
    place = 0
    while True:
        file.seek(place)
        block = file.read(_BLOCK)
        header = _HEADER.match(block)
        if header is not None:
            place = _aligned(_aligned(place + header.end() + int(header[2], 16)) + int(header[1], 16))
        elif block[:1] == b"\0":
            place += len(block) - len(block.lstrip(b"\0"))
        else:
            return place


def _aligned(place: int) -> int:
    return -(-place // 4) * 4


def _pieces(file: IO[bytes], most: int) -> Iterator[bytes]:
    while most > 0 and (piece := file.read(min(_PIECE, most))):
        most -= len(piece)
        yield piece


def _search(pieces: Iterator[bytes], words: re.Pattern[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    end = b""
    for piece in pieces:
        text = end + piece
        found.update(match.lower() for match in words.findall(text))
        end = text[-_LONGEST:]
    return found
