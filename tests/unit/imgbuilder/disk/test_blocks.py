"""Comparing disks with lists of their blocks gives what plain sets give, and takes little memory."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.disk.blocks import Wanted, compare, content_of
from imgbuilder.host.hashing import content_digest
from imgindex.blocklist import Block, BlockList, pack_blocks, parse_blocklist

SIZE = 4096
PIECES = {0: bytes(SIZE), **{kind: os.urandom(SIZE) for kind in range(1, 6)}}
"""Contents of blocks; several blocks of a disk may have the same."""
KINDS = st.lists(st.integers(0, 5), max_size=40)
ENDS = st.sampled_from([0, 1, 512, SIZE - 1])


def content(kinds: list[int], end: int) -> bytes:
    return b"".join(PIECES[kind] for kind in kinds) + b"x" * end


def pieces_of(data: bytes) -> list[bytes]:
    return [data[at : at + SIZE] for at in range(0, len(data), SIZE)]


def listed(data: bytes, *, block_size: int = SIZE) -> BlockList:
    pieces = enumerate(data[at : at + block_size] for at in range(0, len(data), block_size))
    blocks = [
        Block(number, 7, 7 * number, hashlib.sha256(piece).digest(), b"packed".ljust(16))
        for number, piece in pieces
        if any(piece)
    ]
    return BlockList(block_size, len(data), 7 * len(data), pack_blocks(blocks))


def disk(folder: Path, data: bytes, name: str = "disk") -> Path:
    """Write a disk with some holes."""
    path = folder / name
    with path.open("wb") as file:
        for number, piece in enumerate(pieces_of(data)):
            if any(piece) or number % 3 == 0:
                file.seek(number * SIZE)
                file.write(piece)
        file.truncate(len(data))
    return path


@settings(deadline=None, max_examples=40)
@given(KINDS, KINDS, ENDS, ENDS)
def test_a_disk_is_compared_in_place(
    tmp_path_factory: pytest.TempPathFactory, new: list[int], old: list[int], end: int, old_end: int
) -> None:
    blocks, held = listed(content(new, end)), content(old, old_end)
    with disk(tmp_path_factory.mktemp("compare"), held).open("rb") as file:
        missing, stray = compare(file.fileno(), blocks)
    wanted, have = pieces_of(content(new, end)), pieces_of(held)[: len(new) + (end > 0)]
    have += [b""] * (len(wanted) - len(have))
    wrong = [number for number, piece in enumerate(wanted) if any(piece) and have[number] != piece]
    assert [block.number for block in missing] == wrong
    assert len(missing) == len(wrong)
    assert missing.packed == 7 * len(wrong)
    assert list(stray) == [
        number for number, piece in enumerate(wanted) if not any(piece) and any(have[number])
    ]


@given(KINDS, KINDS, ENDS, st.data())
def test_blocks_are_found_by_their_digest(
    new: list[int], old: list[int], end: int, data: st.DataObject
) -> None:
    blocks = listed(content(new, end))
    wanted, left = Wanted(blocks), {block.number: block for block in blocks}
    for block in data.draw(st.lists(st.sampled_from([*blocks]), unique=True)) if left else ():
        wanted.drop_number(block.number)
        del left[block.number]
    for piece in pieces_of(content(old, end)):
        digest = hashlib.sha256(piece).digest()
        found = {number for number, block in left.items() if block.digest == digest}
        assert [*wanted.take(digest, SIZE + 1)] == []
        if len(piece) == SIZE:
            assert {block.number for block in Wanted(blocks).take(digest, SIZE)} >= found
        assert {block.number for block in wanted.take(digest, len(piece))} <= found
    assert all(left[block.number] == block for block in wanted)


def test_many_copies_of_a_block_are_found_once() -> None:
    """A disk may be full of one block: looking for it again must not look at all places again."""
    digest = hashlib.sha256(b"x").digest()
    same = [Block(number, 7, 7 * number, digest, bytes(16)) for number in range(20_000)]
    wanted = Wanted(BlockList(SIZE, SIZE * len(same), 7 * len(same), pack_blocks(same)))
    assert sorted(wanted.take(digest, SIZE)) == same
    assert all(not [*wanted.take(digest, SIZE)] for _ in same)
    assert (len(wanted), [*wanted]) == (0, [])


@settings(deadline=None, max_examples=30)
@given(KINDS, ENDS, st.sampled_from([SIZE, 4 * SIZE]))
def test_the_list_tells_the_content_digest(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[int], end: int, block_size: int
) -> None:
    data = content(kinds, end)
    path = disk(tmp_path_factory.mktemp("content"), data)
    blocks = listed(data, block_size=block_size)
    with path.open("rb") as file:
        assert content_of(blocks) == content_digest(file.fileno(), block_size)
    zeros = Block(0, 7, 0, hashlib.sha256(bytes(min(block_size, len(data)))).digest(), bytes(16))
    if data and not any(data[:block_size]):
        longer = BlockList(block_size, len(data), blocks.packed, pack_blocks([zeros, *blocks]))
        assert content_of(longer) == content_of(blocks), "a list may name zeros"


def test_a_block_of_a_list_takes_little_memory() -> None:
    """13 bytes besides its record, and not an object: so the longest list takes 20 MB with all."""
    count = 1 << 14
    records = pack_blocks(
        Block(one, 7, 7 * one, hashlib.sha256(b"%d" % one).digest(), bytes(16)) for one in range(count)
    )
    data = BlockList(SIZE, count * SIZE, 7 * count, records).to_bytes()
    tracemalloc.start()
    try:
        wanted = Wanted(parse_blocklist(data, size=count * SIZE, packed=7 * count, where="x"))
        assert len([*wanted.take(hashlib.sha256(b"77").digest(), SIZE)]) == 1
        assert sum(1 for _block in wanted) == len(wanted) == count - 1
        assert tracemalloc.get_traced_memory()[1] < 15 * count
    finally:
        tracemalloc.stop()
