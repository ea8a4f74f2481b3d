"""Reads disks block by block, and compares them with the list of their blocks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from typing import NamedTuple

from imgbuilder.host.sparse import data_ranges
from imgindex.blocklist import Block, BlockList


class Comparison(NamedTuple):
    """The differences between a disk and the list of its blocks.

    Attributes:
        missing: Blocks of the list for which the disk has other bytes.
        stray: Numbers of the blocks that should be zeros, and are not.
    """

    missing: list[Block]
    stray: list[int]


def compare(descriptor: int, blocks: BlockList) -> Comparison:
    """Compare all bytes of an open disk with the list of its blocks; its position is not used."""
    zeros = bytes(blocks.block_size)
    listed = {block.number: block for block in blocks}
    stray = []
    for number, piece in _blocks_of(descriptor, blocks.block_size, blocks.size):
        block = listed.get(number)
        if block is None:
            if piece != zeros[: len(piece)]:
                stray.append(number)
        elif len(piece) == blocks.length_of(number) and hashlib.sha256(piece).digest() == block.digest:
            del listed[number]
    return Comparison(list(listed.values()), stray)


def find_blocks(
    descriptor: int, block_size: int, wanted: Collection[bytes]
) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield number, digest and bytes of each wanted block in an open disk, wherever it is there."""
    for number, piece in _blocks_of(descriptor, block_size, os.fstat(descriptor).st_size):
        digest = hashlib.sha256(piece).digest()
        if digest in wanted:
            yield number, digest, piece


def _blocks_of(descriptor: int, block_size: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each block that is not a hole; the last one may be shorter."""
    after = 0
    for start, end in data_ranges(descriptor, size):
        first, after = max(after, start // block_size), -(-end // block_size)
        for number in range(first, after):
            yield number, os.pread(descriptor, block_size, number * block_size)
