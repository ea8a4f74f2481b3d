"""Decides whether the disk of a template can be written without an appliance, before it is copied."""

from __future__ import annotations

from pathlib import Path

from imgbuilder.appliance.hostside import gate, programs
from imgbuilder.appliance.hostside.gate import Place
from imgbuilder.disk import diskimage, magic, partition
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.magic import Content
from imgbuilder.errors import UnfitError

_LEFT_ALONE = {None, Content.FAT, Content.SWAP}
"""Content besides ext2/3/4 that a build does not write: boot loaders, the EFI partition, swap space."""


def check_disk(disk: Path, disk_format: DiskFormat, *, grown: int | None = None) -> tuple[Place, ...]:
    """Return where the filesystems of a disk are that can be written without an appliance.

    Args:
        disk: The disk.
        disk_format: Its format.
        grown: Bytes that the disk will have, when its last partition grows to its end; None if it does not.

    Raises:
        UnfitError: A filesystem on it needs an appliance.
    """
    table = partition.read_table(disk, disk_format)
    total = partition.virtual_size(disk, disk_format)
    numbers = [None] if table is None else [part.number for part in table.partitions if not part.is_container]
    places = {number: gate.place_of(table, number, total) for number in numbers}
    found = []
    for number, place in places.items():
        name = "the disk" if number is None else f"partition {number}"
        content = magic.recognise(magic.read_head(disk, disk_format, place.offset, place.offset + place.size))
        if content in _LEFT_ALONE:
            continue
        if content is not Content.EXT:
            raise UnfitError(f"{name} holds {content}")
        larger = None
        if grown is not None and place.offset == max(other.offset for other in places.values()):
            larger = grown - place.offset
        raw = diskimage.read_range(disk, disk_format, place.offset + gate.SUPERBLOCK, gate.SUPERBLOCK)
        objections = gate.objections(raw, place.size, larger)
        if objections:
            raise UnfitError(f"the filesystem on {name}: {'; '.join(objections)}")
        found.append(place)
    if not found:
        raise UnfitError("no filesystem of ext2/3/4 is on the disk")
    return tuple(found)


def check_filesystems(disk: int, places: tuple[Place, ...]) -> None:
    """Check filesystems in an open raw disk completely, without writing to it.

    Raises:
        UnfitError: One has a fault, or the checker could not be run.
    """
    for place in places:
        programs.check(disk, place)
