"""A sparse raw disk that has only the partition table of an image.

sfdisk works only on raw disks, and syncs all of a file after writing, which would mean waiting for the copied
template. So it works on such a skeleton, and its changes are copied to the image.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.disk import diskimage
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import DiskError

_Reader = Callable[[int, int], bytes]

SECTOR = 512
_HEAD = 1024 * 1024
"""Bytes at the start of a disk that hold its GPT with room to spare (34 sectors of 512 or 6 of 4096)."""
_LARGEST_HEAD = 64 * 1024 * 1024
"""The same for a table whose entries were moved away from its header, behind a boot loader."""
_ENTRIES = 446
_PROTECTIVE = 0xEE
_EXTENDED = {0x05, 0x0F, 0x85}
_MOST_LOGICAL = 256


@dataclass(frozen=True)
class Geometry:
    """Sector size and size of a disk."""

    sector_size: int
    size: int

    @property
    def sectors(self) -> int:
        """Number of sectors."""
        return self.size // self.sector_size


@dataclass(frozen=True)
class Skeleton:
    """A skeleton.

    Attributes:
        path: The raw disk.
        geometry: The image's.
        scale: Bytes per sector of the skeleton. An MBR holds numbers of sectors and nothing that depends
            on their size, so the skeleton of an MBR always has sectors of 512 bytes.
        head: Bytes from the start that were copied, when the table is a GPT.
        table_sectors: The sectors of an MBR and its extended boot records; empty for a GPT.
        is_hybrid: True for a GPT with real partitions in its MBR, not only the protective one.
    """

    path: Path
    geometry: Geometry
    scale: int
    head: int
    table_sectors: tuple[int, ...]
    is_hybrid: bool


def make(image: Path, image_format: DiskFormat, geometry: Geometry, folder: Path) -> Skeleton:
    """Make the skeleton of an image."""
    path = folder / "disk"

    def read(start: int, length: int) -> bytes:
        return diskimage.read_range(image, image_format, start, min(length, geometry.size - start))

    first = read(0, 2 * geometry.sector_size)
    header = first[geometry.sector_size :]
    if header.startswith(b"EFI PART"):
        head = _head_length(header, geometry)
        path.write_bytes(read(0, head))
        scale = geometry.sector_size
        sectors: tuple[int, ...] = ()
    else:
        records = _boot_records(first[:SECTOR], geometry, read)
        scale, head, sectors = SECTOR, 0, tuple(records)
        with path.open("wb") as file:
            for sector, record in records.items():
                file.seek(sector * SECTOR)
                file.write(record)
    # sfdisk refuses a table that reaches beyond the disk.
    diskimage.extend(path, DiskFormat.RAW, geometry.sectors * scale)
    used = {first[entry + 4] for entry in range(_ENTRIES, _ENTRIES + 64, 16)} - {0}
    return Skeleton(path, geometry, scale, head, sectors, is_hybrid=not sectors and used != {_PROTECTIVE})


def gpt_entry_sectors(copy: Skeleton) -> int:
    """Return the number of sectors that the entries of a GPT use."""
    with copy.path.open("rb") as file:
        file.seek(copy.geometry.sector_size)
        count, length = struct.unpack_from("<II", file.read(SECTOR), 80)
    return int(-(-count * length // copy.geometry.sector_size))


def _head_length(header: bytes, geometry: Geometry) -> int:
    """Return the number of bytes that contain the GPT; its entries nearly always follow the header."""
    entries, count, length = struct.unpack_from("<QII", header, 72)
    needed = entries * geometry.sector_size + count * length
    if needed > _LARGEST_HEAD:
        raise DiskError("the partition table is damaged: its entries are far from its header")
    return int(max(_HEAD, -(-needed // SECTOR) * SECTOR))


def _boot_records(first: bytes, geometry: Geometry, read: _Reader) -> dict[int, bytes]:
    """Return the MBR and the extended boot records, which form a chain, by their sectors."""
    records = {0: first}
    extended = _next_record(first)
    if extended is None:
        return records
    place = extended
    while place < geometry.sectors and place not in records and len(records) < _MOST_LOGICAL:
        records[place] = read(place * geometry.sector_size, SECTOR)
        following = _next_record(records[place])
        if following is None:
            break
        place = extended + following
    return records


def _next_record(record: bytes) -> int | None:
    """Return the start of the extended partition in a boot record, counted from the first boot record."""
    if len(record) < SECTOR or record[510:512] != b"\x55\xaa":
        return None
    for entry in range(_ENTRIES, _ENTRIES + 64, 16):
        if record[entry + 4] in _EXTENDED:
            return int.from_bytes(record[entry + 8 : entry + 12], "little") or None
    return None
