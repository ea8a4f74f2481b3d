"""Partition tables are read, and ranges of images: real sfdisk, real qemu-img."""

from __future__ import annotations

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


def test_names_that_look_like_protocols(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """X21: a relative name such as json:x must not reach qemu-img as it is."""
    monkeypatch.chdir(tmp_path)
    table = partition.read_table(disk, DiskFormat.RAW)
    assert table is not None
    for name in ("json:x", "a:b", "-x", "x,y=z", "with blank"):
        diskimage.convert(disk, DiskFormat.RAW, Path(name), DiskFormat.QCOW2)
        diskimage.extend(Path(name), DiskFormat.QCOW2, 80 * MIB)
        tablegrowth.grow_partition(Path(name), DiskFormat.QCOW2, table, 2)
        assert partition.virtual_size(Path(name), DiskFormat.QCOW2) == 80 * MIB
