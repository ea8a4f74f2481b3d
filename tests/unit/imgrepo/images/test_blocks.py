"""Disks that are packed block by block."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.cache.unpack import check_frames
from imgbuilder.disk.blocks import compare
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import DiskError
from imgbuilder.events import Event, ignore
from imgbuilder.host.hashing import Fingerprint
from imgindex.blocklist import BlockList, parse_blocklist
from imgrepo.images.blocks import compress_blocks
from imgrepo.images.compress import Compressed
from imgrepo.images.scan import SourceImage
from tests.fakes.blocks import BLOCK, disk

pytestmark = pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")


def write(path: Path, content: bytes) -> SourceImage:
    """Write an image with holes where it is zero."""
    with path.open("wb") as file:
        file.truncate(len(content))
        for at in range(0, len(content), 4096):
            if any(content[at : at + 4096]):
                file.seek(at)
                file.write(content[at : at + 4096])
    return SourceImage(path, path.stem, DiskFormat.RAW, Fingerprint.of(path.stat()))


def pack(image: SourceImage, level: int = 1) -> tuple[Compressed, BlockList]:
    target = image.path.with_suffix(".zst")
    target.unlink(missing_ok=True)
    return compress_blocks(image, target, level, ignore)


def unpacked(path: Path) -> bytes:
    return subprocess.run(["zstd", "-qdc", path], capture_output=True, check=True).stdout


def check(image: SourceImage) -> BlockList:
    """Pack an image; check the file, each frame, and the list."""
    made, blocks = pack(image)
    content, packed = image.path.read_bytes(), made.path.read_bytes()
    assert (made.size, made.sha512) == (len(packed), hashlib.sha512(packed).hexdigest())
    assert unpacked(made.path) == content
    with made.path.open("rb") as file:
        check_frames(file)  # as clients do
    data = blocks.to_bytes()
    assert parse_blocklist(data, size=len(content), packed=made.size, where="x") == blocks
    with image.path.open("rb") as file:
        missing, stray = compare(file.fileno(), blocks)
    assert (len(missing), len(stray)) == (0, 0)
    for block in blocks:
        frame = packed[block.offset : block.end]
        plain = subprocess.run(["zstd", "-qdc"], input=frame, capture_output=True, check=True).stdout
        assert plain == content[block.number * BLOCK :][:BLOCK]
        assert hashlib.sha256(plain).digest() == block.digest
        assert hashlib.sha256(frame).digest()[:16] == block.packed_digest
    return blocks


@pytest.mark.parametrize(
    "content",
    [
        disk(),
        b"\0" * BLOCK * 3 + b"x" * BLOCK,
        b"x" + bytes(BLOCK * 40 - 1),
        bytes(BLOCK * 40),
        b"x" * 512,
        bytes(BLOCK - 512) + b"y" * 1024,
    ],
    ids=["data and zeros", "zeros first", "zeros last", "only zeros", "less than a block", "uneven"],
)
def test_the_file_holds_the_disk(tmp_path: Path, content: bytes) -> None:
    check(write(tmp_path / "a.raw", content))


@settings(max_examples=25)
@given(st.lists(st.sampled_from([bytes(4096), b"a" * 4096, b"b" * 4096]), min_size=1, max_size=60))
def test_any_disk(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    check(write(tmp_path_factory.mktemp("disk") / "a.raw", b"".join(pieces)))


def test_zeros_take_next_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    with path.open("wb") as file:
        file.write(b"boot")
        file.truncate(300 << 20)
    image = SourceImage(path, "a", DiskFormat.RAW, Fingerprint.of(path.stat()))
    made, blocks = pack(image)
    assert made.size < 1 << 16
    assert len(blocks) == 1


def test_the_same_disk_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.raw", disk()), write(tmp_path / "b.raw", disk())
    assert pack(one)[0].sha512 == pack(two)[0].sha512
    assert pack(one)[1] == pack(two)[1]


def test_frames_of_unchanged_blocks_are_the_same(tmp_path: Path) -> None:
    """So that mirrors and uploads need only the others."""
    old = {(b.digest, b.packed_digest) for b in pack(write(tmp_path / "a.raw", disk()))[1]}
    new = {(b.digest, b.packed_digest) for b in pack(write(tmp_path / "b.raw", disk(changed=3)))[1]}
    assert len(new - old) == 3


def test_the_seek_table_has_all_frames(tmp_path: Path) -> None:
    """As in zstd's seekable format, 0.1.0."""
    content = disk()
    data = pack(write(tmp_path / "a.raw", content))[0].path.read_bytes()
    count, flags, magic = struct.unpack("<IBI", data[-9:])
    assert (flags, magic) == (0, 0x8F92EAB1)
    table = data[-9 - 8 * count : -9]
    assert struct.unpack("<II", data[-17 - 8 * count : -9 - 8 * count]) == (0x184D2A5E, len(table) + 9)
    sizes = list(struct.iter_unpack("<II", table))
    assert sum(packed for packed, _size in sizes) == len(data) - len(table) - 17
    assert sum(size for _packed, size in sizes) == len(content)


def test_an_image_that_changes_is_refused(tmp_path: Path) -> None:
    image = write(tmp_path / "a.raw", disk())

    def change(_event: Event) -> None:
        with image.path.open("r+b") as file:
            file.write(b"changed")

    with pytest.raises(DiskError, match="changed"):
        compress_blocks(image, tmp_path / "a.zst", 1, change)
