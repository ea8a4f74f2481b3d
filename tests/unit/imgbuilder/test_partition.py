"""Growth of a partition table in place: real sfdisk, real qemu-img."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from imgbuilder import growth
from imgbuilder.disk import diskimage, partition
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import DiskError, NotYetError, PybuilderError

MIB = 1024 * 1024
BIOS = "21686148-6449-6E6F-744E-656564454649"


def make_disk(path: Path, script: str, size: int = 32 * MIB) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["/usr/sbin/sfdisk", "-q", path], input=script.encode(), check=True, capture_output=True)
    return path


def dump(path: Path) -> dict[str, object]:
    out = subprocess.run(["/usr/sbin/sfdisk", "--json", path], check=True, capture_output=True).stdout
    table: dict[str, object] = json.loads(out)["partitiontable"]
    return table


def add_ext4(path: Path, start: int, size: int) -> None:
    filesystem = path.with_suffix(".ext4")
    with filesystem.open("wb") as file:
        file.truncate(size)
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", filesystem], check=True)
    with path.open("r+b") as disk:
        disk.seek(start)
        disk.write(filesystem.read_bytes())


GPT = f"""label: gpt
label-id: 12345678-1234-1234-1234-123456789ABC
size=1M, type={BIOS}, name=boot
size=+, name=root, attrs="LegacyBIOSBootable"
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = make_disk(tmp_path / "disk.raw", GPT)
    add_ext4(made, 2 * MIB, 29 * MIB)
    return made


def as_format(disk: Path, kind: DiskFormat) -> Path:
    if kind is DiskFormat.RAW:
        return disk
    converted = disk.with_suffix(".qcow2")
    diskimage.convert(disk, DiskFormat.RAW, converted, kind)
    return converted


def as_raw(image: Path, kind: DiskFormat) -> Path:
    if kind is DiskFormat.RAW:
        return image
    raw = image.with_suffix(".back")
    diskimage.convert(image, kind, raw, DiskFormat.RAW)
    return raw


@pytest.mark.parametrize("kind", list(DiskFormat))
@pytest.mark.parametrize("grown", [32 * MIB + 512, 100 * MIB, 5 * 1024 * MIB])
def test_last_partition_grows_and_all_else_stays(disk: Path, kind: DiskFormat, grown: int) -> None:
    before = dump(disk)
    content = disk.read_bytes()
    image = as_format(disk, kind)
    diskimage.extend(image, kind, grown)
    partition.grow_last_partition(image, kind, 2)
    raw = as_raw(image, kind)
    after = dump(raw)
    assert subprocess.run(["/usr/sbin/sfdisk", "--verify", raw], capture_output=True).stderr == b""
    old, new = before.pop("partitions"), after.pop("partitions")
    assert isinstance(old, list)
    assert isinstance(new, list)
    assert after["id"] == before["id"]
    end = new[1]["start"] + new[1]["size"]
    assert grown // 512 - end <= 34, "up to the backup table"
    assert end <= grown // 512 - 33
    assert new[1]["size"] > old[1]["size"] or grown == 32 * MIB + 512
    for part in (*old, *new):
        part.pop("size", None)
        part.pop("node")
    assert new == old, "start, type, GUID, name and attributes"
    with raw.open("rb") as file:
        file.seek(2 * MIB)
        assert file.read(29 * MIB) == content[2 * MIB : 31 * MIB], "the filesystem's bytes"


@pytest.mark.parametrize("kind", list(DiskFormat))
def test_sparse_numbers_are_kept(tmp_path: Path, kind: DiskFormat) -> None:
    """Cloud images number their partitions 1, 14, 15 with the root last on the disk."""
    numbers = f"14: start=2048, size=2048, type={BIOS}\n15: start=4096, size=8192, type=U\n1: start=12288\n"
    script = f"label: gpt\n{numbers}"
    image = as_format(make_disk(tmp_path / "disk.raw", script), kind)
    table = partition.read_table(image, kind)
    assert table is not None
    assert {part.number for part in table.partitions} == {1, 14, 15}
    last = table.last_on_disk()
    assert last is not None
    assert last.number == 1
    diskimage.extend(image, kind, 128 * MIB)
    partition.grow_last_partition(image, kind, 1)
    grown = partition.read_table(as_raw(image, kind), DiskFormat.RAW)
    assert grown is not None
    assert {part.number: part.start for part in grown.partitions} == {1: 12288, 14: 2048, 15: 4096}
    assert {part.number: part.size for part in grown.partitions}[1] > 200_000


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
    for name in ("json:x", "a:b", "-x", "x,y=z", "with blank"):
        diskimage.convert(disk, DiskFormat.RAW, Path(name), DiskFormat.QCOW2)
        diskimage.extend(Path(name), DiskFormat.QCOW2, 80 * MIB)
        partition.grow_last_partition(Path(name), DiskFormat.QCOW2, 2)
        assert partition.virtual_size(Path(name), DiskFormat.QCOW2) == 80 * MIB


@pytest.mark.parametrize(
    ("device", "number"),
    [
        ("/dev/sda2", 2), ("/dev/vda14", 14), ("/dev/hdb1", 1), ("/dev/xvda3", 3), ("/dev/nvme0n1p2", 2),
        ("/dev/mmcblk0p1", 1), ("/dev/sda", None), ("/dev/vg/root", None), ("/dev/nvme0n1", None),
        ("sda1", None),
    ],
)  # fmt: skip
def test_partition_numbers(device: str, number: int | None) -> None:
    assert partition.partition_number(device) == number


@pytest.mark.parametrize("kind", list(DiskFormat))
def test_growable(disk: Path, kind: DiskFormat) -> None:
    assert growth.check_growable(as_format(disk, kind), kind, "/dev/sda2", None) == 2


def refuse(disk: Path, expand: str | None, lvexpand: str | None = None) -> str:
    before = disk.read_bytes()
    with pytest.raises(PybuilderError) as caught:
        growth.check_growable(disk, DiskFormat.RAW, expand, lvexpand)
    assert disk.read_bytes() == before
    assert caught.value.hint
    return caught.value.message


def test_what_cannot_grow_is_named(disk: Path, tmp_path: Path) -> None:
    assert "partition 2 lies behind it" in refuse(disk, "/dev/sda1")
    assert "no partition 3" in refuse(disk, "/dev/sda3")
    assert "does not say" in refuse(disk, None)
    assert "not a partition" in refuse(disk, "/dev/vg/root")
    assert "/dev/vg/root" in refuse(disk, "/dev/sda2", "/dev/vg/root")
    mbr = make_disk(tmp_path / "mbr.raw", "label: dos\n,\n")
    assert "dos partition table" in refuse(mbr, "/dev/sda1")
    xfs = make_disk(tmp_path / "xfs.raw", GPT)
    with xfs.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"XFSB")
    assert "holds no ext" in refuse(xfs, "/dev/sda2")
    plain = tmp_path / "plain.raw"
    plain.write_bytes(bytes(MIB))
    assert "without a partition table" in refuse(plain, "/dev/sda1")


def test_refusals_are_the_not_yet_kind(disk: Path) -> None:
    with pytest.raises(NotYetError):
        growth.check_growable(disk, DiskFormat.RAW, "/dev/sda1", None)
