"""Partition tables are read, and ranges of images: real sfdisk, real qemu-img."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from imgbuilder.disk import diskimage, partition, tablegrowth
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import DiskError
from tests.unit.imgbuilder.disks import BIOS, MIB, add_ext, as_format, make_disk

GPT = f"""label: gpt
label-id: 12345678-1234-1234-1234-123456789ABC
size=1M, type={BIOS}, name=boot
size=+, name=root, attrs="LegacyBIOSBootable"
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = make_disk(tmp_path / "disk.raw", GPT)
    add_ext(made, 2 * MIB, 29 * MIB)
    return made


def test_sizes_and_formats(disk: Path) -> None:
    image = as_format(disk, DiskFormat.QCOW2)
    assert (
        partition.virtual_size(image, DiskFormat.QCOW2)
        == partition.virtual_size(disk, DiskFormat.RAW)
        == 32 * MIB
    )


@pytest.mark.parametrize("kind", list(DiskFormat))
def test_ranges_are_read_and_written(disk: Path, kind: DiskFormat) -> None:
    image = as_format(disk, kind)
    diskimage.write_range(image, kind, 3 * MIB, b"x" * 1024)
    assert diskimage.read_range(image, kind, 3 * MIB - 512, 2048) == disk_bytes(
        disk, 3 * MIB - 512, 512
    ) + b"x" * 1024 + disk_bytes(disk, 3 * MIB + 1024, 512)


def disk_bytes(disk: Path, start: int, length: int) -> bytes:
    with disk.open("rb") as file:
        file.seek(start)
        return file.read(length)


def test_writing_beyond_the_end_is_an_error(disk: Path) -> None:
    image = as_format(disk, DiskFormat.QCOW2)
    with pytest.raises(DiskError):
        diskimage.write_range(image, DiskFormat.QCOW2, 33 * MIB, b"x" * 512)


def test_a_disk_without_a_table(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(MIB))
    assert partition.read_table(image, DiskFormat.RAW) is None


@pytest.mark.row("X21")
def test_names_that_look_like_protocols(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name such as json:x must not reach qemu-img unchanged."""
    monkeypatch.chdir(tmp_path)
    table = partition.read_table(disk, DiskFormat.RAW)
    assert table is not None
    for name in ("json:x", "a:b", "-x", "x,y=z", "with blank"):
        diskimage.convert(disk, DiskFormat.RAW, Path(name), DiskFormat.QCOW2)
        diskimage.extend(Path(name), DiskFormat.QCOW2, 80 * MIB)
        tablegrowth.grow_partition(Path(name), DiskFormat.QCOW2, table, 2)
        assert partition.virtual_size(Path(name), DiskFormat.QCOW2) == 80 * MIB


def test_a_partition_that_starts_behind_all_disks_is_refused(disk: Path) -> None:
    with disk.open("r+b") as file:
        file.seek(512)
        header = bytearray(file.read(92))
        file.seek(1024)
        entries = bytearray(file.read(128 * 128))
        entries[32:48] = struct.pack("<QQ", 2**64 - 1, 33)
        header[88:92] = struct.pack("<I", zlib.crc32(entries))
        header[16:20] = bytes(4)
        header[16:20] = struct.pack("<I", zlib.crc32(header))
        file.seek(512)
        file.write(header)
        file.seek(1024)
        file.write(entries)
        file.seek(-512, 2)
        file.write(bytes(512))
    with pytest.raises(DiskError, match="damaged"):
        partition.read_table(disk, DiskFormat.RAW)


def test_what_sfdisk_says_before_its_answer_is_no_part_of_it(tmp_path: Path) -> None:
    disk = make_disk(
        tmp_path / "disk.raw",
        "label: dos\nstart=2048,size=2048\nstart=4096,size=32768,type=5\nstart=8192,size=8192\n",
    )
    with disk.open("r+b") as file:  # the first logical partition becomes an empty one
        file.seek(4096 * 512 + 446)
        file.write(bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + struct.pack("<II", 0, 0))
    table = partition.read_table(disk, DiskFormat.RAW)
    assert table is not None
    assert [part.number for part in table.partitions][:2] == [1, 2]


@pytest.mark.parametrize(
    "answer",
    [b"", b"{", b"[]", b"{}", b'{"virtual-size": -1}', b'{"virtual-size": 1e9}', b'{"virtual-size": null}',
     b'{"virtual-size": "x"}', b'{"virtual-size": ' + b"9" * 5000 + b"}", b"[" * 100_000, b"\xff"],
)  # fmt: skip
def test_numbers_in_answers_that_make_no_sense(answer: bytes) -> None:
    with pytest.raises(DiskError, match="cannot tell"):
        diskimage.number_in(answer, "virtual-size", "qemu-img cannot tell")
