"""Decides what grows when a disk is larger than its template, before anything is written.

Only the last partition or volume on the disk can grow in place; no partition is ever moved or renumbered.
A template that cannot grow is refused here, before it is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imgbuilder.disk import magic, partition, tablegrowth
from imgbuilder.disk.devicenames import parse_device_name
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.magic import Content
from imgbuilder.disk.partition import GPT, MBR, Partition, PartitionTable
from imgbuilder.errors import GuestError, NotYetError
from imgbuilder.sizes import human_size

ADVICE = "build without --size, which needs no growth"
_PUBLISHER = f"tell the publisher of the template, or {ADVICE}"
GROWABLE = frozenset(
    {
        Content.EXT,
        Content.XFS,
        Content.BTRFS,
        Content.F2FS,
        Content.NTFS,
        Content.SWAP,
        Content.LVM,
        Content.LUKS,
    }
)
"""Content that can grow."""
_LAYERS = frozenset({Content.LVM, Content.LUKS})
"""Content that holds logical volumes, or may."""
_ROOTS = GROWABLE - {Content.SWAP}
"""Content that can be, or contain, the root of a system."""
_WORDS = {
    Content.EXT: "an ext2/3/4 filesystem",
    Content.LVM: "an LVM physical volume",
    Content.LUKS: "a LUKS container",
    Content.SWAP: "swap space",
    Content.XFS: "an XFS filesystem",
    Content.BTRFS: "a btrfs filesystem",
    Content.F2FS: "an F2FS filesystem",
    Content.NTFS: "an NTFS filesystem",
    Content.FAT: "a FAT filesystem",
    Content.HIBERNATED: "the memory of a hibernated system",
}


@dataclass(frozen=True)
class Growth:
    """The partition or disk that grows, and its content.

    Attributes:
        table: The partition table of the template; None when it has none.
        number: The partition that grows; None for the whole disk.
        content: Its content.
        volume: The logical volume that grows with it, as the index names it.
        is_named: True if the index names it; otherwise it must contain the root.
        needs_check: True if the filesystem must be checked before it grows.
        disk: The appliance's name of the disk.
    """

    table: PartitionTable | None
    number: int | None
    content: Content
    volume: str | None
    is_named: bool
    needs_check: bool
    disk: str = "/dev/sda"

    @property
    def device(self) -> str:
        """The appliance's name of it."""
        return f"{self.disk}{self.number or ''}"


def check_growable(
    disk: Path,
    disk_format: DiskFormat,
    expand: str | None,
    lvexpand: str | None,
    size: int,
    *,
    has_keys: bool = False,
) -> Growth:
    """Decide what of a template grows, before anything is written.

    Args:
        disk: The template's disk.
        disk_format: Its format.
        expand: The partition or disk that grows according to the index; None for the last on the disk.
        lvexpand: The logical volume that grows according to the index.
        size: The new size in bytes.
        has_keys: True if the user gave keys of encrypted devices.

    Raises:
        NotYetError: Its layout or content cannot grow.
        GuestError: The index names a partition that does not exist.
    """
    table = partition.read_table(disk, disk_format)
    number = _number(table, expand)
    total = partition.virtual_size(disk, disk_format)
    if table is None or number is None:
        start, end = 0, total
        name = "the disk"
    else:
        part = _check_place(table, number, size)
        start, end = part.start * table.sector_size, part.end * table.sector_size
        name = f"partition {number}"
        if end > total:
            raise GuestError(f"{name} reaches beyond the end of the template's disk", hint=_PUBLISHER)
    head = magic.read_head(disk, disk_format, start, end)
    found = _check_content(name, head, expand)
    if lvexpand is not None and found not in _LAYERS:
        raise NotYetError(
            f"the index says that the logical volume {lvexpand} grows, but {name}, the last on the disk, "
            f"holds {_WORDS[found]}",
            hint=_PUBLISHER,
        )
    if found is Content.LUKS and not has_keys:
        raise GuestError(f"{name} is encrypted", hint=f"give its key: --key all:file:FILE; or {ADVICE}")
    return Growth(
        table if number is not None else None,
        number,
        found,
        lvexpand,
        is_named=expand is not None or lvexpand is not None,
        needs_check=found is Content.EXT and magic.ext_asks_for_check(head),
    )


def grow_table(image: Path, image_format: DiskFormat, growth: Growth) -> None:
    """Enlarge the partition to the end of an image that was extended."""
    if growth.table is not None and growth.number is not None:
        tablegrowth.grow_partition(image, image_format, growth.table, growth.number)


def _number(table: PartitionTable | None, expand: str | None) -> int | None:
    """Return the number of the partition that grows; None for the whole disk."""
    if expand is None:
        last = table.last_on_disk() if table is not None else None
        if table is not None and last is None:
            raise NotYetError("the template's partition table is empty", hint=_PUBLISHER)
        return last.number if last is not None else None
    name = parse_device_name(expand)
    if name is None:
        raise NotYetError(f"growing {expand}, which is not a partition, is not supported", hint=ADVICE)
    if name.disk:
        raise GuestError(f"the index lets {expand} grow, but a template has only one disk", hint=_PUBLISHER)
    number = name.number
    if table is None and number is not None:
        raise GuestError(
            f"the index lets {expand} grow, but the template has no partition table", hint=_PUBLISHER
        )
    if table is not None and number is None:
        raise GuestError(
            f"the index lets {expand} grow, but the template's disk has partitions", hint=_PUBLISHER
        )
    return number


def _check_place(table: PartitionTable, number: int, size: int) -> Partition:
    """Return the partition, if it can grow to the end of the disk."""
    if table.label not in {GPT, MBR}:
        raise NotYetError(
            f"growing a disk with a {table.label} partition table is not supported", hint=ADVICE
        )
    part = table.find(number)
    if part is None:
        raise GuestError(
            f"the index lets partition {number} grow, but the template has no such partition", hint=_PUBLISHER
        )
    if part.is_container:
        raise NotYetError(
            f"partition {number} is an extended partition; it grows with the last logical one in it",
            hint=_PUBLISHER,
        )
    other = table.in_the_way(part)
    if other is not None:
        raise NotYetError(
            f"partition {number} cannot grow: partition {other.number} is behind it and is never moved",
            hint=ADVICE,
        )
    limit = tablegrowth.largest_size(table)
    if limit is not None and size > limit:
        raise NotYetError(
            f"the template has an MBR, which cannot describe a disk of {human_size(size)}",
            hint=f"give a --size below {human_size(limit + table.sector_size)}",
        )
    return part


def _check_content(name: str, head: bytes, expand: str | None) -> Content:
    found = magic.recognise(head)
    if found is not None and found in (GROWABLE if expand is not None else _ROOTS):
        return found
    what = "unknown content" if found is None else _WORDS[found]
    if expand is None:
        raise NotYetError(
            f"the index does not say what grows (expand=), and {name}, the last on the disk, holds {what}",
            hint=_PUBLISHER,
        )
    known = ", ".join(sorted(_WORDS[item] for item in GROWABLE))
    raise NotYetError(f"{name} holds {what}, which cannot grow; these can: {known}", hint=ADVICE)
