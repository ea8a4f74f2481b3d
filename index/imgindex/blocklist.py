"""The list of the blocks of a disk, and where each is in the zstd file (``docs/formats/blocks.md``).

A client that has most blocks already, in an older disk of the same template, fetches only the others.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from imgindex.errors import RepositoryError

BLOCK_SIZES = tuple(4096 << power for power in range(11))
"""Bytes that a block may have: 4 KiB to 4 MiB."""
MOST_BLOCKS = 1 << 18
"""Most blocks of a list, so that it has at most 17 MB; larger disks have larger blocks."""
HEAD_SIZE = 192
"""Bytes of the first line."""
ROOM = 1024
"""Bytes that a frame may be longer than its block."""

_WORD = b"pybuilder-blocklist "
_HEAD = re.compile(
    rb"pybuilder-blocklist 1 block=([0-9]{1,10}) size=([0-9]{1,19}) count=([0-9]{1,10}) "
    rb"packed=([0-9]{1,19})(?: [ -~]*)?\n"
)
_RECORD = struct.Struct("<IIQ32s16s")
_NUMBER = struct.Struct("<I")
_DIGEST = 16
"""Place of the block's digest in a record."""
_AT_ONCE = _RECORD.size << 10
"""Bytes of records that are read at once."""


class Block(NamedTuple):
    """A block of the disk that is not all zeros.

    Attributes:
        number: Its place in the disk, in blocks.
        length: Bytes of its frame in the zstd file.
        offset: Where the frame begins there.
        digest: SHA-256 of the block.
        packed_digest: First half of the SHA-256 of the frame.
    """

    number: int
    length: int
    offset: int
    digest: bytes
    packed_digest: bytes

    @property
    def end(self) -> int:
        """Place behind the frame in the zstd file."""
        return self.offset + self.length


@dataclass(frozen=True)
class FileBytes:
    """Bytes of an open file, from a place to its end; a slice is read when it is asked for."""

    descriptor: int
    end: int
    start: int = 0

    def __len__(self) -> int:
        return self.end - self.start

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _step = part.indices(len(self))
        return os.pread(self.descriptor, stop - start, self.start + start)


@dataclass(frozen=True)
class BlockList:
    """The blocks of a disk in order; all others are zeros.

    Attributes:
        block_size: Bytes of a block; the last one of the disk may be shorter.
        size: Bytes of the disk.
        packed: Bytes of the zstd file.
        records: The blocks, as in the file: an object for each block of a long list would take 100 MB.
    """

    block_size: int
    size: int
    packed: int
    records: bytes | memoryview | FileBytes

    def __len__(self) -> int:
        return len(self.records) // _RECORD.size

    def __iter__(self) -> Iterator[Block]:
        for start in range(0, len(self.records), _AT_ONCE):
            yield from map(Block._make, _RECORD.iter_unpack(self.records[start : start + _AT_ONCE]))

    def __getitem__(self, place: int) -> Block:
        start = place * _RECORD.size
        return Block._make(_RECORD.unpack(self.records[start : start + _RECORD.size]))

    def number(self, place: int) -> int:
        """Return the number of the block at a place in the list."""
        start = place * _RECORD.size
        number: int = _NUMBER.unpack(self.records[start : start + _NUMBER.size])[0]
        return number

    def digest(self, place: int) -> bytes:
        """Return the SHA-256 of the block at a place in the list."""
        start = place * _RECORD.size + _DIGEST
        return bytes(self.records[start : start + 32])

    def length_of(self, number: int) -> int:
        """Return the bytes of a block of the disk: fewer for the last one, if the size is uneven."""
        return min(self.block_size, self.size - number * self.block_size)

    def to_bytes(self) -> bytes:
        """Return the text of the file."""
        head = (
            f"pybuilder-blocklist 1 block={self.block_size} size={self.size} "
            f"count={len(self)} packed={self.packed}"
        )
        return head.encode("ascii").ljust(HEAD_SIZE - 1) + b"\n" + self.records[:]


def pack_blocks(blocks: Iterable[Block]) -> bytes:
    """Return blocks as ``BlockList.records``."""
    return b"".join(_RECORD.pack(*block) for block in blocks)


def block_size_for(used: int) -> int:
    """Return the bytes of a block for a disk with so many bytes that are not holes.

    64 KiB is the best size for updates, as ``docs/adr/0045-blocks.md`` shows.
    """
    fitting = (size for size in BLOCK_SIZES if size >= 1 << 16 and used <= size * MOST_BLOCKS)
    return next(fitting, BLOCK_SIZES[-1])


def parse_blocklist(data: bytes | FileBytes, *, size: int, packed: int, where: str) -> BlockList:
    """Read a block list, whose digest was checked.

    Args:
        data: The file; if it is an open one, the list reads from it.
        size: Bytes of the disk by the index.
        packed: Bytes of the zstd file by the index.
        where: The source, for messages.

    Raises:
        RepositoryError: It is of another version, or the list contradicts itself or the index.
    """

    def error(problem: str) -> RepositoryError:
        return RepositoryError(f"{where}: the block list cannot be used: {problem}")

    head = data[:HEAD_SIZE]
    match = _HEAD.fullmatch(head)
    if match is None:
        known = head.startswith(_WORD)
        raise error("its version or first line is unknown" if known else "it does not begin like one")
    block_size, own_size, count, own_packed = map(int, match.groups())
    if block_size not in BLOCK_SIZES:
        raise error(f"blocks of {block_size} bytes are not allowed")
    if (own_size, own_packed) != (size, packed):
        raise error(f"it is about other files, of {own_size} and {own_packed} bytes")
    if count > MOST_BLOCKS or len(data) != HEAD_SIZE + count * _RECORD.size:
        raise error(f"it has {len(data)} bytes for {count} blocks")
    records = replace(data, start=HEAD_SIZE) if isinstance(data, FileBytes) else memoryview(data)[HEAD_SIZE:]
    blocks = BlockList(block_size, size, packed, records)
    last, end = -1, 0
    for number, length, offset, _digest, _packed_digest in blocks:
        if number <= last or number * block_size >= size:
            raise error(f"block {number} is out of order, or behind the end of the disk")
        if not 0 < length <= block_size + ROOM or not end <= offset <= packed - length:
            raise error(f"the frame of block {number} has an impossible place")
        last, end = number, offset + length
    return blocks
