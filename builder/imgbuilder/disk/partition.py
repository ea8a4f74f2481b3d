"""Partition tables on the host, through sfdisk: reading them, and growing the last partition in place.

No partition is moved or renumbered (design decision 5). sfdisk keeps names,
GUIDs, attributes and the boot code; it works on image files without root.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgbuilder import process
from imgbuilder.disk import diskimage
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import DiskError, ToolError

_HEAD = 1024 * 1024
"""Bytes at the start of a disk that hold its GPT with room to spare (34 sectors of 512 or 6 of 4096)."""
_DEVICE_PARTITION = re.compile(r"/dev/(?:[hsv]d[a-z]+|xvd[a-z]+|nvme\d+n\d+p|mmcblk\d+p)(\d+)")
_EXT_MAGIC_OFFSET = 1024 + 56
_EXT_MAGIC = b"\x53\xef"


@dataclass(frozen=True)
class Partition:
    """One partition.

    Attributes:
        number: Its number in the table, from 1; numbers may have gaps.
        start: First sector.
        size: Number of sectors.
        kind: GPT type GUID, or MBR type in hex.
        name: GPT name; empty when it has none.
    """

    number: int
    start: int
    size: int
    kind: str
    name: str


@dataclass(frozen=True)
class PartitionTable:
    """A partition table.

    Attributes:
        label: ``gpt`` or ``dos``.
        sector_size: Bytes per sector.
        first_lba: First sector that partitions may use.
        last_lba: Last sector that partitions may use; for ``dos``, 0.
        partitions: In the order of the table.
    """

    label: str
    sector_size: int
    first_lba: int
    last_lba: int
    partitions: tuple[Partition, ...]

    def last_on_disk(self) -> Partition | None:
        """Return the partition that ends last."""
        return max(self.partitions, key=lambda part: part.start + part.size, default=None)


def partition_number(device: str) -> int | None:
    """Return the number in a name such as ``/dev/sda2`` or ``/dev/nvme0n1p2``; None if there is none."""
    found = _DEVICE_PARTITION.fullmatch(device)
    return int(found.group(1)) if found else None


def read_table(image: Path, image_format: DiskFormat) -> PartitionTable | None:
    """Read the partition table of a disk image.

    Returns:
        The table; None when the disk has none.

    Raises:
        DiskError: sfdisk is missing, or the table is damaged.
    """
    if image_format is DiskFormat.RAW:
        return _read_raw_table(image)
    with tempfile.TemporaryDirectory(prefix="pybuilder-") as folder:
        return _read_raw_table(_skeleton(image, image_format, Path(folder)))


def holds_ext(image: Path, image_format: DiskFormat, table: PartitionTable, part: Partition) -> bool:
    """Tell whether a partition looks like ext2/3/4: two bytes are compared, nothing is parsed."""
    start = part.start * table.sector_size
    head = diskimage.read_range(image, image_format, start, 2048)
    return head[_EXT_MAGIC_OFFSET : _EXT_MAGIC_OFFSET + 2] == _EXT_MAGIC


def grow_last_partition(image: Path, image_format: DiskFormat, number: int) -> None:
    """Let the last partition of a GPT disk reach to the disk's end, after the image was extended.

    Args:
        image: The image, changed in place.
        image_format: Its format.
        number: The partition's number; it must be the last one on the disk.

    Raises:
        DiskError: sfdisk refused or failed.
    """
    # sfdisk works on raw disks only, and makes all of them durable, which here would mean waiting for
    # the copied template. So it works on a sparse copy of the table, which is then carried over.
    with tempfile.TemporaryDirectory(prefix="pybuilder-") as folder:
        skeleton = _skeleton(image, image_format, Path(folder))
        size = skeleton.stat().st_size
        _grow_raw(skeleton, number)
        table = _read_raw_table(skeleton)
        assert table is not None
        head = min(table.first_lba * table.sector_size, _HEAD)
        tail = (table.last_lba + 1) * table.sector_size
        diskimage.write_range(image, image_format, 0, diskimage.read_range(skeleton, DiskFormat.RAW, 0, head))
        diskimage.write_range(
            image, image_format, tail, diskimage.read_range(skeleton, DiskFormat.RAW, tail, size - tail)
        )


def _skeleton(image: Path, image_format: DiskFormat, folder: Path) -> Path:
    """Make a sparse raw disk of the same size that has only the start of ``image``: its partition table."""
    skeleton = folder / "disk"
    size = virtual_size(image, image_format)
    skeleton.write_bytes(diskimage.read_range(image, image_format, 0, min(_HEAD, size)))
    diskimage.extend(skeleton, DiskFormat.RAW, size)  # a table that reaches beyond the disk is not believed
    return skeleton


def virtual_size(image: Path, image_format: DiskFormat) -> int:
    """Return the size in bytes of the disk that an image holds."""
    if image_format is DiskFormat.RAW:
        return image.stat().st_size
    answer = _run(["qemu-img", "info", "--output=json", "-f", image_format, image.absolute()])
    return int(json.loads(answer)["virtual-size"])


def _grow_raw(image: Path, number: int) -> None:
    # Whenever sfdisk writes a GPT, the backup goes to the end of the disk, and the usable area with it.
    _run(
        ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "-N", str(number), image.absolute()],
        stdin=b",+\n",
    )


def _read_raw_table(image: Path) -> PartitionTable | None:
    answer = process.run(["sfdisk", "--json", image.absolute()], check=False)
    if answer.status != 0:
        if "does not contain a recognized partition table" in answer.stderr:
            return None
        raise DiskError(f"sfdisk cannot read the partition table of {image}: {answer.stderr.strip()}")
    facts: dict[str, Any] = json.loads(answer.stdout)["partitiontable"]
    node = len(str(facts["device"]))
    return PartitionTable(
        label=facts["label"],
        sector_size=int(facts.get("sectorsize", 512)),
        first_lba=int(facts.get("firstlba", 0)),
        last_lba=int(facts.get("lastlba", 0)),
        partitions=tuple(
            Partition(
                number=int(part["node"][node:].removeprefix("p")),
                start=int(part["start"]),
                size=int(part["size"]),
                kind=str(part["type"]),
                name=str(part.get("name", "")),
            )
            for part in facts.get("partitions", [])
        ),
    )


def _run(argv: list[str | Path], stdin: bytes | None = None) -> bytes:
    try:
        return process.run(argv, stdin=stdin).stdout
    except ToolError as error:
        raise DiskError(error.message, hint=error.hint) from error
