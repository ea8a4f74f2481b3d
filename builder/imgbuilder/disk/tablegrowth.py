"""Enlarges a partition in place, to the end of a disk that was extended.

No partition is moved or renumbered. sfdisk writes the table: it keeps names, GUIDs, attributes, a hybrid MBR
and the boot code. The new table is read back and compared before any of it is written to the image.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from imgbuilder.disk import diskimage, partition, skeleton
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.partition import GPT, MBR, Partition, PartitionTable
from imgbuilder.disk.skeleton import SECTOR, Geometry, Skeleton
from imgbuilder.errors import DiskError, ToolError
from imgbuilder.host import process
from imgbuilder.host.privatefolder import private_folder

MBR_SECTORS = 2**32 - 1
"""An MBR counts sectors with 32 bits: with sectors of 512 bytes, 2 TiB less one of them."""
_LARGEST_TAIL = 16 * 1024 * 1024
"""Bytes at the end of a disk that hold the second copy of a GPT with room to spare."""


def largest_size(table: PartitionTable) -> int | None:
    """Return the largest size of a disk that the table can describe; None for no limit."""
    return MBR_SECTORS * table.sector_size if table.label == MBR else None


def grow_partition(image: Path, image_format: DiskFormat, table: PartitionTable, number: int) -> None:
    """Enlarge a partition to the disk's end, after the image was extended.

    An extended partition that contains it grows as well. After an error the image's table is unchanged.
    """
    part = table.find(number)
    if part is None or table.in_the_way(part) is not None:
        raise DiskError(f"partition {number} cannot grow in place")
    geometry = Geometry(table.sector_size, partition.virtual_size(image, image_format))
    with private_folder() as folder:
        copy = skeleton.make(image, image_format, geometry, folder)
        if table.label == MBR:
            _grow_mbr(copy, table, part)
        elif geometry.sector_size == SECTOR:
            # sfdisk always writes the backup GPT to the end of the disk, and extends the usable area.
            _sfdisk(copy, number, ",+")
        else:
            _rewrite_gpt(copy, part)
        grown = partition.read_raw(copy.path, geometry.sector_size, str(image))
        _compare(table, grown, part, geometry)
        assert grown is not None
        regions = _gpt_regions(copy, grown) if table.label == GPT else _mbr_regions(copy)
        for place, content in list(regions):
            diskimage.write_range(image, image_format, place, content)


def _grow_mbr(copy: Skeleton, table: PartitionTable, part: Partition) -> None:
    # Not "+": sfdisk's numbers overflow at 2 TiB.
    end = min(copy.geometry.sectors, MBR_SECTORS)
    for item in (table.container(part), part):
        if item is not None:
            _sfdisk(copy, item.number, f",{end - item.start}")


def _sfdisk(copy: Skeleton, number: int, order: str) -> None:
    command: list[str | Path] = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel"]
    _run([*command, "-N", str(number), copy.path], f"{order}\n")


def _rewrite_gpt(copy: Skeleton, part: Partition) -> None:
    """Grow a partition of a GPT with large sectors: fdisk rewrites the table, with one size changed."""
    sector_size = copy.geometry.sector_size
    text = partition.dump_script(copy.path, sector_size)
    # Without last-lba, the usable area reaches as far as the disk allows. "size=+" would round down to a MiB.
    text = re.sub(r"(?m)^last-lba: .*\n", "", text)
    end = copy.geometry.sectors - 1 - skeleton.gpt_entry_sectors(copy)
    text, count = re.subn(
        rf"(?m)^(.*disk{part.number} : start= *\d+), size= *\d+", rf"\1, size={end - part.start}", text
    )
    if count != 1:
        raise DiskError(f"partition {part.number} was not found in the table")
    script = copy.path.with_name("grown.script")
    script.write_text(text)
    command: list[str | Path] = ["fdisk", "--sector-size", str(copy.geometry.sector_size), copy.path.name]
    words = _run(command, f"I\n{script.name}\nw\n", cwd=copy.path.parent)
    if "Script successfully applied" not in words:
        raise DiskError(f"fdisk could not write the partition table: {words.strip()}")


def _compare(old: PartitionTable, new: PartitionTable | None, part: Partition, geometry: Geometry) -> None:
    """Check that one partition grew to the end of the disk, and that nothing else changed."""
    if new is None or new.label != old.label:
        raise DiskError("the partition table is damaged: its two copies do not agree")
    growing = {item.number for item in (part, old.container(part)) if item is not None}
    grown = new.find(part.number)
    same = [dataclasses.replace(item, size=0) if item.number in growing else item for item in old.partitions]
    left = [dataclasses.replace(item, size=0) if item.number in growing else item for item in new.partitions]
    limit = new.last_lba + 1 if new.label == GPT else geometry.sectors
    if grown is None or left != same or not part.size <= grown.size or grown.end > limit:
        raise DiskError(
            f"partition {part.number} cannot grow: sfdisk would change more than its size",
            hint="the partition table is damaged or unusual; build without --size",
        )


def _gpt_regions(copy: Skeleton, grown: PartitionTable) -> Iterator[tuple[int, bytes]]:
    """Yield the regions before the first and behind the last usable sector: header, entries, boot code."""
    head = min(grown.first_lba * grown.sector_size, copy.head)
    tail = (grown.last_lba + 1) * grown.sector_size
    if copy.geometry.size - tail > _LARGEST_TAIL:
        raise DiskError("the partition table is damaged: it leaves a part of the disk unused")
    with copy.path.open("rb") as file:
        # fdisk turns a hybrid MBR into a protective one; sfdisk leaves it alone.
        start = grown.sector_size if copy.is_hybrid else 0
        file.seek(start)
        yield start, file.read(head - start)
        file.seek(tail)
        yield tail, file.read()


def _mbr_regions(copy: Skeleton) -> Iterator[tuple[int, bytes]]:
    """Yield the boot records."""
    with copy.path.open("rb") as file:
        for sector in copy.table_sectors:
            file.seek(sector * copy.scale)
            yield sector * copy.geometry.sector_size, file.read(SECTOR)


def _run(argv: list[str | Path], orders: str, cwd: Path | None = None) -> str:
    try:
        answer = process.run(argv, stdin=orders.encode(), cwd=cwd)
    except ToolError as error:
        raise DiskError(f"the partition cannot grow: {error.message}", hint=error.hint) from error
    return answer.stdout.decode(errors="replace") + answer.stderr
