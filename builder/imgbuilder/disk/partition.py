"""Reads partition tables on the host, with sfdisk, which works on image files without root."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgbuilder.disk import diskimage, magic, skeleton
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.skeleton import SECTOR, Geometry
from imgbuilder.errors import DiskError, ToolError
from imgbuilder.host import process
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.sizes import whole_number

GPT = "gpt"
MBR = "dos"
"""Labels as sfdisk names them."""

_CONTAINERS = {"5", "f", "85"}
"""MBR types of extended partitions, as sfdisk writes them."""
_GPT_HEADER = b"EFI PART"
_LARGE_SECTOR = 4096
_MOST_SECTORS = (1 << 63) - 1
_SCRIPT_PARTITION = re.compile(r".*disk(\d+) : (.*)")
_SCRIPT_FIELD = re.compile(r'(start|size|type|name)= *("[^"]*"|[^,\s]+)')


@dataclass(frozen=True)
class Partition:
    """One partition."""

    number: int
    """Its number in the table, from 1; numbers may have gaps."""
    start: int
    """First sector."""
    size: int
    """Number of sectors."""
    kind: str
    """GPT type GUID, or MBR type in hex."""
    name: str
    """GPT name; empty when it has none."""
    uuid: str = ""
    """Its UUID as ``/etc/fstab`` writes it, also for an MBR; empty if it is not known."""

    @property
    def end(self) -> int:
        """The first sector behind it."""
        return self.start + self.size

    @property
    def is_container(self) -> bool:
        """True for the extended partition of an MBR, which holds the logical ones."""
        return self.kind in _CONTAINERS


@dataclass(frozen=True)
class PartitionTable:
    """A partition table."""

    label: str
    """``gpt`` or ``dos``; sfdisk knows others, which are not supported."""
    sector_size: int
    """Bytes per sector."""
    first_lba: int
    """First sector that partitions may use; for ``dos``, 0."""
    last_lba: int
    """Last sector that partitions may use; for ``dos``, 0."""
    partitions: tuple[Partition, ...]
    """In the order of the table."""

    def last_on_disk(self) -> Partition | None:
        """Return the partition that ends last; never an extended one."""
        return max(
            (part for part in self.partitions if not part.is_container),
            key=lambda part: part.end,
            default=None,
        )

    def find(self, number: int) -> Partition | None:
        """Return the partition with a number."""
        return next((part for part in self.partitions if part.number == number), None)

    def container(self, part: Partition) -> Partition | None:
        """Return the extended partition that holds a logical one."""
        if self.label != MBR or part.number <= 4:  # the primary ones
            return None
        return next((item for item in self.partitions if item.is_container), None)

    def in_the_way(self, part: Partition) -> Partition | None:
        """Return the first partition that is behind ``part``, or overlaps it."""
        holder = self.container(part)
        others = (item for item in self.partitions if item not in (part, holder) and item.end > part.start)
        return min(others, key=lambda item: item.start, default=None)


def virtual_size(image: Path, image_format: DiskFormat) -> int:
    """Return the size in bytes of the disk that an image holds."""
    if image_format is DiskFormat.RAW:
        return image.stat().st_size
    answer = _run(["qemu-img", "info", "--output=json", "-f", image_format, image.absolute()])
    return diskimage.number_in(answer.stdout, "virtual-size", f"qemu-img cannot read the size of {image}")


def read_table(image: Path, image_format: DiskFormat) -> PartitionTable | None:
    """Read the partition table of a disk image; None when the disk has none."""
    head = diskimage.read_range(image, image_format, 0, 4 * _LARGE_SECTOR)
    if magic.recognise(head) is magic.Content.NTFS:
        return None  # its first sector looks like an empty MBR
    large = head[_LARGE_SECTOR:].startswith(_GPT_HEADER) and not head[SECTOR:].startswith(_GPT_HEADER)
    table = _read_table(image, image_format, _LARGE_SECTOR if large else SECTOR)
    if table is None or (not table.partitions and magic.recognise(head) is not None):
        return None
    if table.label == MBR and _has_large_sectors(image, image_format, table):
        return _read_table(image, image_format, _LARGE_SECTOR)
    return table


def _read_table(image: Path, image_format: DiskFormat, sector_size: int) -> PartitionTable | None:
    if image_format is DiskFormat.RAW and sector_size == SECTOR:
        return read_raw(image, SECTOR, str(image))
    with private_folder() as folder:
        geometry = Geometry(sector_size, virtual_size(image, image_format))
        copy = skeleton.make(image, image_format, geometry, folder)
        return read_raw(copy.path, sector_size, str(image))


def sector_size(image: Path, image_format: DiskFormat) -> int:
    """Return the sector size in bytes that the partition table of an image uses.

    512 when there is no readable table. sfdisk is used only for an MBR, which has no field for it.
    """
    head = diskimage.read_range(image, image_format, 0, 2 * _LARGE_SECTOR)
    if head[SECTOR:].startswith(_GPT_HEADER) or head[510:512] != b"\x55\xaa":
        return SECTOR
    if head[_LARGE_SECTOR:].startswith(_GPT_HEADER):
        return _LARGE_SECTOR
    try:
        table = read_table(image, image_format)
    except DiskError:
        return SECTOR  # a guest that does not grow may not need the table
    return SECTOR if table is None else table.sector_size


def read_raw(disk: Path, sector_size: int, name: str) -> PartitionTable | None:
    """Read the partition table of a raw disk."""
    if sector_size != SECTOR and _is_gpt(disk, sector_size):
        script = dump_script(disk, sector_size)
        return _understood(lambda: _parse_script(script), name)
    answer = _run(["sfdisk", "--json", disk.absolute()], check=False)
    if answer.status != 0:
        if "does not contain a recognized partition table" in answer.stderr:
            return None
        raise DiskError(f"sfdisk cannot read the partition table of {name}: {answer.stderr.strip()}")
    return _understood(lambda: _parse_json(answer.stdout, sector_size), name)


def _understood(parse: Callable[[], PartitionTable], name: str) -> PartitionTable:
    try:
        return parse()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DiskError(
            f"the partition table of {name} is damaged: it has an invalid field ({error!r:.200})",
            hint=f"see: sfdisk --dump {name}",
        ) from error


def _parse_json(answer: bytes, sector_size: int) -> PartitionTable:
    # For some tables, sfdisk prints a message before the JSON. The file's name is in it, unquoted.
    text = answer[max(0, answer.find(b"{\n")) :].decode(errors="surrogateescape")
    facts: dict[str, Any] = json.loads(text)["partitiontable"]
    node = len(facts["device"])
    return PartitionTable(
        label=facts["label"],
        sector_size=sector_size,
        first_lba=_number(facts.get("firstlba", 0)),
        last_lba=_number(facts.get("lastlba", 0)),
        partitions=tuple(
            Partition(
                number=_number(part["node"][node:].removeprefix("p")),
                start=_number(part["start"]),
                size=_number(part["size"]),
                kind=str(part["type"]),
                name=str(part.get("name", "")),
                uuid=str(part.get("uuid", "")).lower(),
            )
            for part in facts.get("partitions", [])
        ),
    )


def _number(value: str | int) -> int:
    """Return a number of a table; sectors and partitions are counted in no more than 64 bits."""
    number = whole_number(str(value), _MOST_SECTORS)
    if number is None:
        raise ValueError(f"{str(value)[:40]} is not a number of sectors")
    return number


def dump_script(disk: Path, sector_size: int) -> str:
    """Return the GPT of a raw disk with large sectors as an sfdisk script.

    sfdisk assumes sectors of 512 bytes for all files; fdisk has an option for it, and writes the same
    scripts.
    """
    script = disk.with_name(f"{disk.name}.script")
    script.unlink(missing_ok=True)
    answer = _run(
        ["fdisk", "--sector-size", str(sector_size), disk.name],
        stdin=f"O\n{script.name}\nq\n".encode(),
        cwd=disk.parent,  # fdisk does not read every folder's name as such
    )
    if not script.exists():
        raise DiskError(f"fdisk cannot read the partition table: {answer.stderr.strip()}")
    return script.read_text(errors="replace")


def _parse_script(text: str) -> PartitionTable:
    headers: dict[str, str] = {}
    partitions = []
    for line in text.splitlines():
        found = _SCRIPT_PARTITION.fullmatch(line)
        if found is None:
            key, _, value = line.partition(": ")
            headers[key] = value
            continue
        fields = dict(_SCRIPT_FIELD.findall(found.group(2)))
        partitions.append(
            Partition(
                number=_number(found.group(1)),
                start=_number(fields["start"]),
                size=_number(fields["size"]),
                kind=fields["type"],
                name=fields.get("name", '""')[1:-1],
            )
        )
    return PartitionTable(
        label=headers["label"],
        sector_size=_number(headers["sector-size"]),
        first_lba=_number(headers["first-lba"]),
        last_lba=_number(headers["last-lba"]),
        partitions=tuple(partitions),
    )


def _is_gpt(disk: Path, sector_size: int) -> bool:
    with disk.open("rb") as file:
        file.seek(sector_size)
        return file.read(len(_GPT_HEADER)) == _GPT_HEADER


def _has_large_sectors(image: Path, image_format: DiskFormat, table: PartitionTable) -> bool:
    """Tell whether an MBR counts in sectors of 4096 bytes.

    It has no field for that: only the content at the start of the partitions shows it.
    The content of one partition may lie where another one would begin with the other size; so the size that
    explains the content of more partitions is right, and the usual one if both explain the same number.
    """
    total = virtual_size(image, image_format)

    def explains(part: Partition, size: int) -> bool:
        place = part.start * size
        if part.end * size > total:
            return False
        if part.is_container:
            return diskimage.read_range(image, image_format, place, SECTOR)[-2:] == b"\x55\xaa"
        return magic.content_at(image, image_format, place, part.end * size) is not None

    usual, large = (
        sum(explains(part, size) for part in table.partitions) for size in (SECTOR, _LARGE_SECTOR)
    )
    return large > usual


def _run(
    argv: list[str | Path], *, stdin: bytes | None = None, cwd: Path | None = None, check: bool = True
) -> process.Completed:
    try:
        return process.run(argv, stdin=stdin, cwd=cwd, check=check)
    except ToolError as error:
        raise DiskError(error.message, hint=error.hint) from error
