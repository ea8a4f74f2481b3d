"""Growth of partition tables in place: real tables by sfdisk and fdisk, judged by parted and sgdisk."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from imgbuilder.disk import diskimage, partition, tablegrowth
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import DiskError, PybuilderError
from tests.unit.imgbuilder.disks import (
    BIOS,
    MIB,
    add_ext,
    as_format,
    as_raw,
    by_parted,
    dump,
    make_disk,
    put,
    verify,
)

GPT = f"""label: gpt
label-id: 12345678-1234-1234-1234-123456789ABC
size=1M, type={BIOS}, name=boot
size=+, name=root, attrs="LegacyBIOSBootable"
"""
LOGICAL = """label: dos
start=2048, size=4M, bootable
start=10240, type=f
start=12288, size=4M, type=82
start=22528, size=16M, type=8e
"""


def grow(image: Path, kind: DiskFormat, number: int, size: int) -> Path:
    """Extend an image and let a partition grow; return it as a raw disk."""
    table = partition.read_table(image, kind)
    assert table is not None
    diskimage.extend(image, kind, size)
    tablegrowth.grow_partition(image, kind, table, number)
    return as_raw(image, kind)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = make_disk(tmp_path / "disk.raw", GPT)
    put(made, 0, b"BOOTCODE" * 55)
    add_ext(made, 2 * MIB, 29 * MIB)
    return made


@pytest.mark.parametrize("kind", list(DiskFormat))
@pytest.mark.parametrize("grown", [32 * MIB + 512, 100 * MIB, 5 * 1024 * MIB])
def test_last_partition_grows_and_all_else_stays(disk: Path, kind: DiskFormat, grown: int) -> None:
    before = dump(disk)
    content = disk.read_bytes()
    raw = grow(as_format(disk, kind), kind, 2, grown)
    after = dump(raw)
    verify(raw)
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
        assert file.read(440) == content[:440], "boot code"
        file.seek(2 * MIB)
        assert file.read(29 * MIB) == content[2 * MIB : 31 * MIB], "the filesystem's bytes"


@pytest.mark.parametrize("kind", list(DiskFormat))
def test_sparse_numbers_are_kept(tmp_path: Path, kind: DiskFormat) -> None:
    """Cloud images number their partitions 1, 14, 15 with the root last on the disk."""
    numbers = f"14: start=2048, size=2048, type={BIOS}\n15: start=4096, size=8192, type=U\n1: start=12288\n"
    image = as_format(make_disk(tmp_path / "disk.raw", f"label: gpt\n{numbers}"), kind)
    table = partition.read_table(image, kind)
    assert table is not None
    last = table.last_on_disk()
    assert last is not None
    assert last.number == 1
    raw = grow(image, kind, 1, 128 * MIB)
    found = by_parted(raw, 512)
    assert {number: place[0] for number, place in found.items()} == {1: 12288, 14: 2048, 15: 4096}
    assert found[15][1] == 12287
    assert found[1][1] > 128 * 2048 - 100
    verify(raw)


@pytest.mark.parametrize("kind", list(DiskFormat))
@pytest.mark.parametrize("sector", [512, 4096])
def test_primary_partition_of_an_mbr(tmp_path: Path, kind: DiskFormat, sector: int) -> None:
    unit = MIB // sector
    script = f"label: dos\nstart={unit}, size={4 * unit}\nstart={5 * unit}, type=83, bootable\n"
    disk = make_disk(tmp_path / "disk.raw", script, sector=sector)
    put(disk, 0, b"BOOTCODE" * 55)
    add_ext(disk, 5 * MIB, 20 * MIB)
    content = disk.read_bytes()
    image = as_format(disk, kind)
    table = partition.read_table(image, kind)
    assert table is not None
    assert (table.label, table.sector_size) == ("dos", sector)
    assert partition.sector_size(image, kind) == sector
    before = by_parted(disk, sector)
    raw = grow(image, kind, 2, 300 * MIB)
    after = by_parted(raw, sector)
    assert after[1] == before[1]
    assert after[2] == (before[2][0], 300 * unit - 1, *before[2][2:])
    assert "boot" in after[2][3]
    with raw.open("rb") as file:
        grown = file.read(len(content))
    assert grown[:446] == content[:446], "boot code and the disk's identity"
    assert grown[512:] == content[512:], "nothing but one sector was written"


@pytest.mark.parametrize("kind", list(DiskFormat))
@pytest.mark.parametrize("sector", [512, 4096])
def test_logical_partition_grows_with_its_extended_one(tmp_path: Path, kind: DiskFormat, sector: int) -> None:
    script = (
        LOGICAL
        if sector == 512
        else (
            "label: dos\nstart=256, size=1024, bootable\nstart=1280, type=f\n"
            "start=1536, size=1024, type=82\nstart=2816, size=4096, type=8e\n"
        )
    )
    disk = make_disk(tmp_path / "disk.raw", script, sector=sector)
    add_ext(disk, MIB, 4 * MIB)
    before = by_parted(disk, sector)
    assert set(before) == {1, 2, 5, 6}
    image = as_format(disk, kind)
    raw = grow(image, kind, 6, 200 * MIB)
    after = by_parted(raw, sector)
    assert {1: after[1], 5: after[5]} == {1: before[1], 5: before[5]}
    for number in (2, 6):
        assert after[number] == (before[number][0], 200 * MIB // sector - 1, *before[number][2:])
    table = partition.read_table(image, kind)
    assert table is not None
    assert {part.number: part.kind for part in table.partitions} == {1: "83", 2: "f", 5: "82", 6: "8e"}


@pytest.mark.row("B22")
@pytest.mark.parametrize("kind", list(DiskFormat))
def test_gpt_with_large_sectors(tmp_path: Path, kind: DiskFormat) -> None:
    """4096-byte sectors, sparse numbers, a name, an attribute; the backup moves to the new end."""
    script = (
        "label: gpt\nlabel-id: 12345678-1234-1234-1234-123456789ABC\n"
        f"14 : start=256, size=256, type={BIOS}\n"
        '1 : start=512, size=6000, name="the root, = best", attrs="LegacyBIOSBootable GUID:50",'
        " uuid=ABCDEF01-1234-1234-1234-123456789ABC\n"
    )
    disk = make_disk(tmp_path / "disk.raw", script, sector=4096)
    content = disk.read_bytes()
    image = as_format(disk, kind)
    table = partition.read_table(image, kind)
    assert table is not None
    assert table.sector_size == partition.sector_size(image, kind) == 4096
    assert [part.name for part in table.partitions if part.number == 1] == ["the root, = best"]
    before = by_parted(disk, 4096)
    raw = grow(image, kind, 1, 256 * MIB)
    after = by_parted(raw, 4096)
    assert after[14] == before[14]
    assert after[1] == (512, 256 * 256 - 6, *before[1][2:])
    with raw.open("rb") as file:
        file.seek(8192)
        old, new = content[8192 : 8192 + 256], file.read(256)
        places = [entry for entry in range(0, 256, 128) if old[entry : entry + 16] != bytes(16)]
        for entry in range(0, 13 * 128, 128):  # type and own GUID; attributes and name
            assert new[entry : entry + 40] == old[entry : entry + 40]
            assert new[entry + 48 : entry + 128] == old[entry + 48 : entry + 128]
        assert places
        file.seek(256 * MIB - 4096)
        backup = file.read(4096)
    assert backup.startswith(b"EFI PART")
    assert backup[56:72] == content[4096 + 56 : 4096 + 72], "the disk's GUID"


def test_a_hybrid_mbr_is_kept(tmp_path: Path) -> None:
    """Two kinds of sectors; what would be written by fdisk is not carried over."""
    for sector in (512, 4096):
        unit = MIB // sector
        disk = make_disk(
            tmp_path / f"{sector}.raw", f"label: gpt\nstart={unit}, size={unit}\nstart={2 * unit}\n",
            sector=sector,
        )  # fmt: skip
        hybrid = b"".join(
            struct.pack("<B3xB3xII", flag, kind, start, size)
            for flag, kind, start, size in [(0, 0xEE, 1, unit - 1), (0x80, 0x83, 2 * unit, 25 * unit)]
        )
        put(disk, 446, hybrid)
        first = disk.read_bytes()[:512]
        raw = grow(disk, DiskFormat.RAW, 2, 128 * MIB)
        with raw.open("rb") as file:
            assert file.read(512) == first
        table = partition.read_table(raw, DiskFormat.RAW)
        assert table is not None
        assert table.partitions[1].end > 126 * unit


@pytest.mark.row("B22")
def test_the_largest_mbr(tmp_path: Path) -> None:
    """sfdisk's numbers overflow at 2 TiB, so that a partition would become smaller."""
    disk = make_disk(tmp_path / "disk.raw", "label: dos\nstart=2048\n")
    table = partition.read_table(disk, DiskFormat.RAW)
    assert table is not None
    assert tablegrowth.largest_size(table) == 2**41 - 512
    raw = grow(disk, DiskFormat.RAW, 1, 2**41 - 512)
    assert by_parted(raw, 512)[1] == (2048, 2**32 - 2, "", "")
    larger = make_disk(tmp_path / "larger.raw", "label: dos\nstart=2048\n")
    grow(larger, DiskFormat.RAW, 1, 3 * 2**40)
    table = partition.read_table(larger, DiskFormat.RAW)
    assert table is not None
    assert table.partitions[0].end == 2**32 - 1


@pytest.mark.row("B23")
def test_what_lies_in_the_way_is_never_overwritten(disk: Path, tmp_path: Path) -> None:
    logical = make_disk(tmp_path / "logical.raw", LOGICAL)
    for image, number in ((disk, 1), (disk, 7), (logical, 1), (logical, 5), (logical, 2)):
        before = image.read_bytes()
        table = partition.read_table(image, DiskFormat.RAW)
        assert table is not None
        with pytest.raises(DiskError):
            tablegrowth.grow_partition(image, DiskFormat.RAW, table, number)
        assert image.read_bytes() == before
    part = partition.read_table(logical, DiskFormat.RAW)
    assert part is not None
    blocked = part.find(5)
    assert blocked is not None
    other = part.in_the_way(blocked)
    assert other is not None
    assert other.number == 6


def test_a_table_whose_copies_disagree_is_left_alone(disk: Path) -> None:
    """The primary header is damaged: only the whole disk shows the backup, a skeleton does not."""
    table = partition.read_table(disk, DiskFormat.RAW)
    assert table is not None
    put(disk, 512, bytes(512))
    diskimage.extend(disk, DiskFormat.RAW, 64 * MIB)
    before = disk.read_bytes()
    with pytest.raises(DiskError, match=r"damaged|cannot grow"):
        tablegrowth.grow_partition(disk, DiskFormat.RAW, table, 2)
    assert disk.read_bytes() == before


def test_extended_records_that_run_in_a_circle(tmp_path: Path) -> None:
    """A hostile chain ends; whatever sfdisk makes of it, only our own errors come out."""
    disk = make_disk(tmp_path / "disk.raw", LOGICAL)
    put(disk, 10240 * 512 + 462 + 4, struct.pack("<B3xII", 5, 0, 4096))
    image = as_format(disk, DiskFormat.QCOW2)
    try:
        table = partition.read_table(image, DiskFormat.QCOW2)
    except PybuilderError:
        return
    assert table is None or table.label == "dos"


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, int, str, int]:
    """Return label, sector size, sfdisk script, and the number of the partition that lies last."""
    label = draw(st.sampled_from(["gpt", "dos"]))
    sector = draw(st.sampled_from([512, 4096]))
    unit = MIB // sector
    count = draw(st.integers(1, 6 if label == "gpt" else 4))
    numbers = draw(st.permutations(range(1, 20 if label == "gpt" else 5)))[:count]
    lines, place = [f"label: {label}"], unit
    for number in numbers:
        place += draw(st.integers(0, 3)) * unit
        size = draw(st.integers(4096 // sector, 4 * unit))  # with room for the content of the test
        kind = draw(st.sampled_from(["L", "S", "U"] if label == "gpt" else ["83", "8e"]))
        lines.append(f"{number} : start={place}, size={size}, type={kind}")
        place = -(-(place + size) // unit) * unit
    assume(place < 60 * unit)
    return label, sector, "\n".join(lines) + "\n", numbers[-1]


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@example(
    # The second one begins where the first one would, if the sectors were large.
    ("dos", 512, "label: dos\n1 : start=2048, size=6145, type=83\n2 : start=16384, size=8, type=83\n", 2),
    19763,
    DiskFormat.RAW,
)
@given(layouts(), st.integers(64 * MIB // 4096 + 1, 400 * MIB // 4096), st.sampled_from(list(DiskFormat)))
def test_any_layout_grows_at_its_end_only(
    layout: tuple[str, int, str, int], sectors: int, kind: DiskFormat
) -> None:
    label, sector, script, number = layout
    size = sectors * 4096
    folder = Path(tempfile.mkdtemp())
    try:
        disk = make_disk(folder / "disk.raw", script, 64 * MIB, sector=sector)
        before = by_parted(disk, sector)
        start = before[number][0] * sector
        put(disk, start, b"\0" * 4086 + b"SWAPSPACE2")  # an MBR's sector size shows in the content only
        content = disk.read_bytes()
        raw = grow(as_format(disk, kind), kind, number, size)
        after = by_parted(raw, sector)
        assert set(after) == set(before)
        room = (33 * 512 if sector == 512 else 5 * 4096) if label == "gpt" else 0
        for item, place in before.items():
            expected = (size - room) // sector - 1 if item == number else place[1]
            assert after[item][0] == place[0]
            assert after[item][1] == expected
            assert after[item][2:] == place[2:]
        with raw.open("rb") as file:
            file.seek(MIB)
            assert file.read(63 * MIB - 5 * 4096) == content[MIB : 64 * MIB - 5 * 4096]
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(("kind", "sector"), [(DiskFormat.RAW, 4096), (DiskFormat.QCOW2, 512)], ids=str)
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my tmp", b"-a, b.img"),
        ('a "quoted" one', b"q\"u'ote.img"),
        ("a\nline", b"a:b\nc.img"),
        (os.fsdecode(b"caf\xe9"), b"caf\xe9.img"),
    ],
    ids=["blanks", "quotes", "lines", "bytes"],
)
def test_odd_names_of_folders_and_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, name: bytes, kind: DiskFormat, sector: int
) -> None:
    """Programs get names in orders, scripts and options of their own, with rules of their own."""
    temporary = tmp_path / folder
    temporary.mkdir()
    raw = make_disk(tmp_path / "made.raw", GPT, sector=sector)
    image = tmp_path / os.fsdecode(name)
    as_format(raw, kind).rename(image)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = partition.read_table(image, kind)
    assert before is not None
    assert before.sector_size == sector
    diskimage.extend(image, kind, 100 * MIB)
    tablegrowth.grow_partition(image, kind, before, 2)
    after = partition.read_table(image, kind)
    assert after is not None
    assert after.partitions[1].end * sector > 99 * MIB
    assert list(temporary.iterdir()) == []
