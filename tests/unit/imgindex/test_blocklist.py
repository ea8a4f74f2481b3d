"""The list of the blocks of a disk: what is written is read, and nothing else is believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgindex.blocklist import (
    BLOCK_SIZES,
    HEAD_SIZE,
    MOST_BLOCKS,
    Block,
    BlockList,
    FileBytes,
    block_size_for,
    pack_blocks,
    parse_blocklist,
)
from imgindex.errors import RepositoryError

BLOCK = 65536
SIZE, PACKED = 10 * BLOCK + 512, 5000
BLOCKS = [
    Block(0, 1000, 0, b"a" * 32, b"A" * 16),
    Block(3, 1000, 1000, b"b" * 32, b"B" * 16),
    Block(10, 50, 4000, b"c" * 32, b"C" * 16),
]
LIST = BlockList(BLOCK, SIZE, PACKED, pack_blocks(BLOCKS))


def read(data: bytes, size: int = SIZE, packed: int = PACKED) -> BlockList:
    return parse_blocklist(data, size=size, packed=packed, where="s")


def test_a_list_is_read_as_it_was_written() -> None:
    data = LIST.to_bytes()
    assert read(data) == LIST
    assert list(read(data)) == BLOCKS
    assert (len(LIST), LIST.length_of(3), LIST.length_of(10)) == (3, BLOCK, 512)
    head = data[:HEAD_SIZE].decode()
    assert head.rstrip() == (f"pybuilder-blocklist 1 block=65536 size={SIZE} count=3 packed=5000")
    assert head.endswith(" \n")
    words = head.replace(" " * 20, " zstd=1.5.7 level=19", 1)
    assert read(words.encode() + data[HEAD_SIZE:]) == LIST, "later versions may say more to people"


def test_a_list_reads_from_its_file(tmp_path: Path) -> None:
    many = [Block(number, 7, 7 * number, b"%032d" % number, b"A" * 16) for number in range(3000)]
    data = BlockList(BLOCK, BLOCK * 3000, 21_000, pack_blocks(many)).to_bytes()
    (tmp_path / "list").write_bytes(data)
    with (tmp_path / "list").open("rb") as file:
        blocks = parse_blocklist(
            FileBytes(file.fileno(), len(data)), size=BLOCK * 3000, packed=21_000, where="s"
        )
        assert [*blocks] == many
        assert (blocks[2999], blocks.number(7), blocks.digest(7)) == (many[2999], 7, many[7].digest)
        assert blocks.to_bytes() == data


def test_a_disk_of_zeros_has_no_blocks() -> None:
    assert list(read(replace(LIST, records=b"").to_bytes())) == []


def with_blocks(*blocks: Block) -> bytes:
    return replace(LIST, records=pack_blocks(blocks)).to_bytes()


FIRST, SECOND, LAST = BLOCKS
WRONG = {
    "nothing": b"",
    "another word": LIST.to_bytes().replace(b"pybuilder-", b"anybuilder", 1),
    "a later version": LIST.to_bytes().replace(b"list 1 ", b"list 2 ", 1),
    "no line end": LIST.to_bytes().replace(b"\n", b" ", 1),
    "a record too few": LIST.to_bytes()[:-64],
    "half a record": LIST.to_bytes()[:-1],
    "a byte too many": LIST.to_bytes() + b"\0",
    "a block size that is not a power of two": replace(LIST, block_size=65537).to_bytes(),
    "a block size of nothing": replace(LIST, block_size=0).to_bytes(),
    "blocks that are too large": replace(LIST, block_size=8 << 20).to_bytes(),
    "another disk": replace(LIST, size=SIZE + 512).to_bytes(),
    "another file": replace(LIST, packed=PACKED + 1).to_bytes(),
    "a block twice": with_blocks(FIRST, FIRST._replace(offset=2000)),
    "blocks out of order": with_blocks(SECOND, FIRST._replace(offset=3000)),
    "a block behind the end": with_blocks(LAST._replace(number=11)),
    "an empty frame": with_blocks(FIRST._replace(length=0)),
    "a frame that is too long": with_blocks(FIRST._replace(length=BLOCK + 1025)),
    "frames that overlap": with_blocks(FIRST, SECOND._replace(offset=999)),
    "a frame behind the end": with_blocks(LAST._replace(offset=PACKED - 49)),
    "a frame far away": with_blocks(LAST._replace(offset=2**64 - 1)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_refused(kind: str) -> None:
    with pytest.raises(RepositoryError, match="the block list cannot be used"):
        read(WRONG[kind])


def test_too_many_blocks() -> None:
    count = MOST_BLOCKS + 1
    head = LIST.to_bytes()[:HEAD_SIZE].replace(b"count=3", f"count={count}".encode())
    with pytest.raises(RepositoryError):
        read(head[: HEAD_SIZE - 1].rstrip().ljust(HEAD_SIZE - 1) + b"\n" + bytes(64 * count))


@given(st.binary(max_size=600) | st.builds(lambda tail: LIST.to_bytes()[:HEAD_SIZE] + tail, st.binary()))
def test_any_bytes(data: bytes) -> None:
    try:
        blocks = read(data)
    except RepositoryError:
        return
    assert len(blocks.to_bytes()) == len(data)


@given(st.integers(0, HEAD_SIZE + 3 * 64 - 1), st.integers(1, 255))
def test_any_changed_byte_is_another_list_or_none(place: int, change: int) -> None:
    data = bytearray(LIST.to_bytes())
    data[place] ^= change
    try:
        blocks = read(bytes(data))
    except RepositoryError:
        return
    assert blocks != LIST or place < HEAD_SIZE  # blanks of the first line


@pytest.mark.parametrize(
    ("used", "size"),
    [(0, 1 << 16), (16 << 30, 1 << 16), ((16 << 30) + 1, 1 << 17), (1 << 40, 4 << 20), (1 << 60, 4 << 20)],
)
def test_larger_disks_have_larger_blocks(used: int, size: int) -> None:
    assert block_size_for(used) == size
    assert size in BLOCK_SIZES
