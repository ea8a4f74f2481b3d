"""The decision on growth, with real partition tables and marks of filesystems."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgbuilder.disk import diskimage
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.magic import HEAD, Content, recognise
from imgbuilder.errors import PybuilderError
from imgbuilder.growth import decide
from tests.unit.imgbuilder.disks import BIOS, MIB, add_ext, as_format, by_parted, make_disk, put

TABLE = f"label: gpt\nsize=1M, type={BIOS}\nsize=+\n"
SIZE = 64 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = make_disk(tmp_path / "disk.raw", TABLE)
    add_ext(made, 2 * MIB, 29 * MIB)
    return made


def mark(disk: Path, start: int, place: int, text: bytes) -> None:
    """Turn the filesystem at ``start`` into something else."""
    put(disk, start, bytes(HEAD))
    put(disk, start + place, text)


def extend(image: Path, kind: DiskFormat, growth: decide.Growth, size: int) -> None:
    diskimage.extend(image, kind, size)
    decide.grow_table(image, kind, growth)


def refuse(disk: Path, expand: str | None, size: int = SIZE, lvexpand: str | None = None) -> str:
    before = disk.stat().st_size, disk.read_bytes()[:MIB] if disk.stat().st_size < 1 << 30 else b""
    with pytest.raises(PybuilderError) as caught:
        decide.check_growable(disk, DiskFormat.RAW, expand, lvexpand, size)
    assert before[0] == disk.stat().st_size
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("kind", list(DiskFormat))
@pytest.mark.parametrize("expand", ["/dev/sda2", "/dev/vda2", None])
def test_the_last_partition_grows_named_or_not(disk: Path, kind: DiskFormat, expand: str | None) -> None:
    image = as_format(disk, kind)
    growth = decide.check_growable(image, kind, expand, None, SIZE)
    assert (growth.number, growth.device, growth.content) == (2, "/dev/sda2", Content.EXT)
    assert growth.is_named is (expand is not None)
    assert not growth.needs_check
    extend(image, kind, growth, SIZE)
    again = decide.check_growable(image, kind, expand, None, 2 * SIZE)
    assert again.table is not None
    part = again.table.find(2)
    assert part is not None
    assert part.end == SIZE // 512 - 33


@pytest.mark.parametrize("expand", ["/dev/sda", "/dev/vda", None])
def test_a_disk_without_a_table_grows_as_a_whole(tmp_path: Path, expand: str | None) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(MIB))
    add_ext(disk, 0, 16 * MIB)
    growth = decide.check_growable(disk, DiskFormat.RAW, expand, None, SIZE)
    assert (growth.table, growth.number, growth.device) == (None, None, "/dev/sda")
    extend(disk, DiskFormat.RAW, growth, SIZE)
    assert disk.stat().st_size == SIZE
    assert "no partition table" in refuse(disk, "/dev/sda1")


@pytest.mark.row("B23")
def test_a_partition_in_the_way_is_named(disk: Path, tmp_path: Path) -> None:
    assert "partition 2 is behind it" in refuse(disk, "/dev/sda1")
    cloud = make_disk(
        tmp_path / "cloud.raw", "label: gpt\n1: start=2048, size=20480\n15: start=24576, size=2048\n"
    )
    add_ext(cloud, MIB, 10 * MIB)
    assert "partition 15 is behind it" in refuse(cloud, "/dev/sda1")
    mbr = make_disk(tmp_path / "mbr.raw", "label: dos\nsize=8M\ntype=5\nsize=4M\nsize=4M\n")
    assert "partition 5 is behind it" in refuse(mbr, "/dev/sda1") or "partition 2" in refuse(mbr, "/dev/sda1")
    assert "partition 6 is behind it" in refuse(mbr, "/dev/sda5")
    assert "extended" in refuse(mbr, "/dev/sda2")


def test_what_the_index_gets_wrong(disk: Path, tmp_path: Path) -> None:
    assert "no such partition" in refuse(disk, "/dev/sda3")
    assert "has partitions" in refuse(disk, "/dev/sda")
    assert "not a partition" in refuse(disk, "/dev/vg/root")
    empty = make_disk(tmp_path / "empty.raw", "label: gpt\n")
    assert "empty" in refuse(empty, None)
    assert "no such partition" in refuse(empty, "/dev/sda1")
    nothing = tmp_path / "plain.raw"
    nothing.write_bytes(bytes(MIB))
    assert "no partition table" in refuse(nothing, "/dev/sda1")
    assert "does not say what grows" in refuse(nothing, None)
    assert "unknown content" in refuse(nothing, "/dev/sda")


@pytest.mark.row("B23")
def test_content_that_cannot_grow(disk: Path) -> None:
    for place, text, word in (
        (54, b"FAT16", "FAT"),
        (4086, b"S1SUSPEND", "hibernated"),
        (0, b"no filesystem", "unknown content"),
    ):
        mark(disk, 2 * MIB, place, text)
        assert word in refuse(disk, "/dev/sda2")
        assert "does not say what grows" in refuse(disk, None)


@pytest.mark.row("B18")
def test_an_encrypted_partition_needs_a_key(disk: Path) -> None:
    mark(disk, 2 * MIB, 0, b"LUKS\xba\xbe")
    assert "encrypted" in refuse(disk, "/dev/sda2")
    assert "encrypted" in refuse(disk, None)
    growth = decide.check_growable(disk, DiskFormat.RAW, "/dev/sda2", None, SIZE, has_keys=True)
    assert growth.content is Content.LUKS


@pytest.mark.parametrize(
    ("place", "text", "found"),
    [
        (0, b"XFSB", Content.XFS), (65600, b"_BHRfS_M", Content.BTRFS),
        (1024, b"\x10\x20\xf5\xf2", Content.F2FS),
        (3, b"NTFS    ", Content.NTFS), (4086, b"SWAPSPACE2", Content.SWAP),
        (512, b"LABELONE" + bytes(16) + b"LVM2 001", Content.LVM),
    ],
)  # fmt: skip
def test_what_a_partition_holds(disk: Path, place: int, text: bytes, found: Content) -> None:
    mark(disk, 2 * MIB, place, text)
    growth = decide.check_growable(disk, DiskFormat.RAW, "/dev/sda2", None, SIZE)
    assert growth.content is found
    if found is Content.SWAP:
        assert "holds swap space" in refuse(disk, None), "swap is not the root"
    volume = "/dev/vg/root"
    if found is Content.LVM:
        growth = decide.check_growable(disk, DiskFormat.RAW, None, volume, SIZE)
        assert growth.volume == volume
        assert growth.is_named
    else:
        assert volume in refuse(disk, "/dev/sda2", lvexpand=volume)


@pytest.mark.row("B22")
def test_an_mbr_ends_at_2_tib(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk.raw", "label: dos\nstart=2048\n")
    add_ext(disk, MIB, 16 * MIB)
    assert "MBR" in refuse(disk, "/dev/sda1", size=2**41)
    assert "MBR" in refuse(disk, None, size=3 * 2**40)
    growth = decide.check_growable(disk, DiskFormat.RAW, "/dev/sda1", None, 2**41 - 512)
    extend(disk, DiskFormat.RAW, growth, 2**41 - 512)
    assert by_parted(disk, 512)[1][1] == 2**32 - 2


def test_a_partition_beyond_the_disk_is_refused(disk: Path) -> None:
    with disk.open("r+b") as file:
        file.truncate(20 * MIB)
    assert refuse(disk, "/dev/sda2")


def test_other_kinds_of_tables_are_refused(tmp_path: Path) -> None:
    sun = make_disk(tmp_path / "sun.raw", "label: sun\n1: start=0, size=16065\n")
    assert "sun partition table" in refuse(sun, "/dev/sda1")


@pytest.mark.row("B19")
@pytest.mark.parametrize(
    ("state", "incompatible", "check"),
    [
        (1, 0x2C2, False),
        (0, 0x2C6, False),
        (1, 0x2C6, False),
        (0, 0x2C2, True),
        (2, 0x2C2, True),
        (3, 4, True),
    ],
)
def test_when_a_superblock_asks_for_a_check(disk: Path, state: int, incompatible: int, check: bool) -> None:
    """A dirty journal is replayed by mounting; it does not fix errors, or dirt without a journal."""
    put(disk, 2 * MIB + 1024 + 58, state.to_bytes(2, "little"))
    put(disk, 2 * MIB + 1024 + 96, incompatible.to_bytes(4, "little"))
    assert decide.check_growable(disk, DiskFormat.RAW, "/dev/sda2", None, SIZE).needs_check is check


def test_short_and_empty_heads_show_nothing() -> None:
    for length in (0, 1, 511, 512, 1080, 4095):
        assert recognise(bytes(length)) is None
