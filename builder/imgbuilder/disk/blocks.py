"""Compares disks with the lists of their blocks, and keeps account of the blocks that are wanted."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from imgbuilder.host.hashing import ContentDigest, hashed_blocks
from imgindex.blocklist import Block, BlockList


class Wanted:
    """The blocks of a list that a disk does not have yet, in the order of the disk.

    By its digest, a block is found in an open hash table of places in the list: a dictionary with an object
    for each block would take more than 100 MB for the longest list.
    """

    def __init__(self, blocks: BlockList) -> None:
        self._blocks = blocks
        self._flags = bytearray(b"\1") * len(blocks)
        self._count = len(blocks)
        # Both hold places in the list plus one, and 0 for none: for each hash, and for each block the next
        # one with the same digest.
        self._table, self._same = array("I"), array("I")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Block]:
        return map(self._blocks.__getitem__, self._places())

    def _places(self) -> Iterator[int]:
        place = self._flags.find(1)
        while place >= 0:
            yield place
            place = self._flags.find(1, place + 1)

    @property
    def packed(self) -> int:
        """Bytes of their frames."""
        return sum(block.length for block in self)

    def drop(self, place: int) -> None:
        """Take off the block at a place in the list."""
        self._count -= self._flags[place]
        self._flags[place] = 0

    def drop_number(self, number: int) -> None:
        """Take off the block with a number."""
        self.drop(bisect_left(range(len(self._blocks)), number, key=self._blocks.number))

    def take(self, digest: bytes, length: int) -> Iterator[Block]:
        """Take off the blocks with a SHA-256 and a length in bytes, and yield them."""
        if not self._table:
            self._fill_table()
        following = self._table[self._slot(digest)]
        while following:
            place = following - 1
            # Forgotten, since a disk may have as many blocks with this digest as the list has.
            following, self._same[place] = self._same[place], 0
            block = self._blocks[place]
            if self._flags[place] and self._blocks.length_of(block.number) == length:
                self.drop(place)
                yield block

    def _fill_table(self) -> None:
        self._table = array("I", [0]) * (1 << (2 * len(self._blocks) - 1).bit_length())
        self._same = array("I", [0]) * len(self._blocks)
        for place, block in enumerate(self._blocks):
            if self._flags[place]:
                slot = self._slot(block.digest)
                self._same[place], self._table[slot] = self._table[slot], place + 1

    def _slot(self, digest: bytes) -> int:
        """Return where the table has a digest, or would have it.

        Python's hashes differ from run to run, so that no publisher can make digests for the same slots.
        """
        last = len(self._table) - 1
        slot = hash(digest) & last
        while (found := self._table[slot]) and self._blocks.digest(found - 1) != digest:
            slot = (slot + 1) & last
        return slot


class Comparison(NamedTuple):
    """The differences between a disk and the list of its blocks.

    Attributes:
        missing: Blocks of the list for which the disk has other bytes.
        stray: Numbers of the blocks that should be zeros, and are not.
    """

    missing: Wanted
    stray: array[int]


_END: tuple[int, Block | None] = -1, None
"""Behind the last block of a list."""


def compare(descriptor: int, blocks: BlockList) -> Comparison:
    """Compare all bytes of an open disk with the list of its blocks; its position is not used."""
    missing, stray, zeros = Wanted(blocks), array("I"), bytes(blocks.block_size)
    places = enumerate(blocks)
    place, block = next(places, _END)
    for number, digest, piece in hashed_blocks(descriptor, blocks.block_size, blocks.size):
        while block is not None and block.number < number:
            place, block = next(places, _END)
        if block is None or block.number != number:
            if bytes(piece) != zeros[: len(piece)]:  # a view is compared one by one
                stray.append(number)
        elif block.digest == digest and len(piece) == blocks.length_of(number):
            missing.drop(place)
    return Comparison(missing, stray)


def content_of(blocks: BlockList) -> str:
    """Return the content digest of a disk that is as the list says."""
    content = ContentDigest(blocks.block_size)
    for block in blocks:
        content.add(block.number * blocks.block_size, blocks.length_of(block.number), block.digest)
    return content.finish(blocks.size)
