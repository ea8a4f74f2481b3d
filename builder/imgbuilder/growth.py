"""Letting a template's root partition and filesystem grow with the disk, in place.

The table grows on the host, before the appliance starts; the filesystem grows
in the appliance session that customizes the guest, while it is mounted (design
decision 5). What is not handled is refused before anything is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgbuilder.disk import partition
from imgbuilder.errors import GuestCallError, GuestError, NotYetError

if TYPE_CHECKING:
    from pathlib import Path

    from imgbuilder.disk.diskimage import DiskFormat
    from imgbuilder.guest import Appliance

_ADVICE = "build without --size, which needs no growth"


def check_growable(disk: Path, disk_format: DiskFormat, expand: str | None, lvexpand: str | None) -> int:
    """Find out whether a template can grow, before anything is written.

    Args:
        disk: The template's disk.
        disk_format: Its format.
        expand: The partition that the index lets grow.
        lvexpand: The logical volume that the index lets grow.

    Returns:
        The number of the partition to grow.

    Raises:
        NotYetError: Its layout is one that this version does not grow.
        GuestError: The index names a partition that is not there.
    """
    if lvexpand is not None:
        raise NotYetError(f"growing the logical volume {lvexpand} is not supported yet", hint=_ADVICE)
    if expand is None:
        raise NotYetError(
            "the index does not say which partition of the template grows (expand=)", hint=_ADVICE
        )
    number = partition.partition_number(expand)
    if number is None:
        raise NotYetError(f"growing {expand}, which is not a partition, is not supported yet", hint=_ADVICE)
    table = partition.read_table(disk, disk_format)
    if table is None:
        raise NotYetError("growing a disk without a partition table is not supported yet", hint=_ADVICE)
    if table.label != "gpt":
        raise NotYetError(
            f"growing a disk with a {table.label} partition table is not supported yet", hint=_ADVICE
        )
    part = next((item for item in table.partitions if item.number == number), None)
    if part is None:
        raise GuestError(
            f"the index lets {expand} grow, but the template has no partition {number}",
            hint=f"tell the publisher of the template, or {_ADVICE}",
        )
    last = table.last_on_disk()
    if last is not None and last.number != number:
        raise NotYetError(
            f"partition {number} cannot grow: partition {last.number} lies behind it and is never moved",
            hint=_ADVICE,
        )
    if not partition.holds_ext(disk, disk_format, table, part):
        raise NotYetError(
            f"partition {number} holds no ext2/3/4 filesystem; growing others is not supported yet",
            hint=_ADVICE,
        )
    return number


def grow_filesystem(appliance: Appliance, device: str) -> None:
    """Grow the mounted ext2/3/4 filesystem of ``device`` to its partition.

    Raises:
        GuestError: It could not be grown.
    """
    try:
        appliance.grow_ext(device)
    except GuestCallError as error:
        raise GuestError(
            f"the filesystem on {device} could not grow: {error.message}", hint=_ADVICE
        ) from error
