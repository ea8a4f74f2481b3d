"""The partitions of a raw image, and what libblkid says about them, by their first bytes.

The appliance answers the same questions with its kernel and blkid(8). Content that only these know is
``UnfitError``: a filesystem of the guest's fstab(5) might be found there.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.appliance.hostside.gate import SUPERBLOCK, Place, objections
from imgbuilder.disk import magic, partition
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.magic import Content
from imgbuilder.disk.skeleton import SECTOR
from imgbuilder.errors import UnfitError

_WITHOUT_FILES = {"21686148-6449-6E6F-744E-656564454649", "9E1A2D38-C612-4316-AA26-8B49521E5A8B", "41"}
"""Types of partitions that hold only a boot loader: BIOS boot, and PReP in a GPT and an MBR."""
_EXT = 1024
_HAS_JOURNAL = 0x4
_EXT3_INCOMPATIBLE, _EXT3_READ_ONLY = 0x2 | 0x4 | 0x10, 0x1 | 0x2 | 0x4
"""Features of ext3: file types, a journal to replay, meta groups; sparse superblocks, large files, trees."""
_LARGEST_FAT = 32 << 20


@dataclass(frozen=True)
class Device:
    """A partition, or a disk without partitions.

    Attributes:
        name: Its name in the appliance.
        start: First byte.
        size: Number of bytes.
        kind: Its type in the partition table; empty for a disk.
        partuuid: UUID of the partition.
        partlabel: Name of the partition.
    """

    name: str
    start: int
    size: int
    kind: str = ""
    partuuid: str = ""
    partlabel: str = ""

    @property
    def place(self) -> Place:
        """Its bytes on the disk."""
        return Place(self.start, self.size)


class Disk:
    """A raw image as ``/dev/sda``."""

    def __init__(self, image: Path) -> None:
        self._image = image
        self.whole = Device("/dev/sda", 0, image.stat().st_size)
        table = partition.read_table(image, DiskFormat.RAW)
        if table is not None and table.sector_size != SECTOR:
            raise UnfitError("the disk has large sectors")
        # An MBR has a number for the disk only.
        number = int.from_bytes(self.read(self.whole, 440, 4), "little")
        self.partitions = tuple(
            Device(
                f"/dev/sda{part.number}",
                part.start * SECTOR,
                part.size * SECTOR,
                part.kind,
                part.uuid or f"{number:08x}-{part.number:02x}",
                part.name,
            )
            for part in sorted(table.partitions if table else (), key=lambda part: part.number)
        )

    def find(self, name: str) -> Device:
        """Return a device by its name."""
        for device in (self.whole, *self.partitions):
            if device.name == name:
                if device.start + device.size > self.whole.size:
                    raise UnfitError(f"{name} is larger than the disk")
                return device
        raise UnfitError(f"{name} is not a partition of the disk")

    def content(self, device: Device) -> Content | None:
        """Return what a device holds; None if it holds nothing that could be mounted."""
        head = self._head(device)
        found = magic.recognise(head)
        if found is None and any(head) and device.kind.upper() not in _WITHOUT_FILES:
            raise UnfitError(f"the content of {device.name} is not known")
        return found

    def facts(self, device: Device) -> dict[str, str]:
        """Return what blkid(8) says about a device."""
        found = {"PART_ENTRY_UUID": device.partuuid, "PART_ENTRY_NAME": device.partlabel}
        content = self.content(device)
        if device is self.whole and self.partitions:
            raise UnfitError("the disk has partitions")
        head = self._head(device)
        if content is Content.EXT:
            found |= _ext_facts(head)
        elif content is Content.FAT:
            found |= self._fat(device).facts()
        elif content is Content.SWAP:
            found |= {"TYPE": "swap", "UUID": _uuid(head[1036:1052]), "LABEL": _label(head[1052:1068])}
        elif content is not None:
            raise UnfitError(f"{device.name} holds {content}")
        return {key: value for key, value in found.items() if value}

    def refuse_unfit(self, device: Device) -> None:
        """Refuse an ext2/3/4 filesystem that only the kernel writes as it must be."""
        found = objections(self.read(device, _EXT, SUPERBLOCK), device.size)
        if found:
            raise UnfitError(f"{device.name}: {found[0]}")

    def fat_usage(self, device: Device) -> tuple[int, int, int]:
        """Return the cluster size, the number of clusters and of free ones of a FAT filesystem."""
        return self._fat(device).usage()

    def _fat(self, device: Device) -> _Fat:
        try:
            return _Fat(self, device)
        except (struct.error, ZeroDivisionError) as error:
            raise UnfitError(f"the FAT filesystem on {device.name} is damaged") from error

    def _head(self, device: Device) -> bytes:
        return self.read(device, 0, min(magic.HEAD, device.size))

    def read(self, device: Device, start: int, size: int) -> bytes:
        """Read a part of a device."""
        with self._image.open("rb") as file:
            file.seek(device.start + start)
            return file.read(max(0, min(size, device.size - start)))


class _Fat:
    """A FAT filesystem, read for its name and its free space only."""

    def __init__(self, disk: Disk, device: Device) -> None:
        self._disk, self._device = disk, device
        self._head = head = disk.read(device, 0, SECTOR)
        sector, per_cluster, reserved, tables, entries, small = struct.unpack_from("<HBHBHH", head, 11)
        (short_table,), (large,) = struct.unpack_from("<H", head, 22), struct.unpack_from("<I", head, 32)
        self._is_32 = short_table == 0
        table = struct.unpack_from("<I", head, 36)[0] if self._is_32 else short_table
        self._table_start, self._table_size = reserved * sector, table * sector
        self._names_start = (reserved + tables * table) * sector
        self._names_size = entries * 32
        data = reserved + tables * table + (entries * 32 + sector - 1) // sector
        self._cluster = per_cluster * sector
        self._clusters = ((small or large) - data) // per_cluster
        if not 0 < self._clusters < 1 << 28 or self._table_size > _LARGEST_FAT:
            raise UnfitError(f"the FAT filesystem on {device.name} is damaged")
        if self._is_32:
            root = struct.unpack_from("<I", head, 44)[0]
            self._names_start = data * sector + (root - 2) * self._cluster
            self._names_size = self._cluster

    def facts(self) -> dict[str, str]:
        place = 67 if self._is_32 else 39
        serial = struct.unpack_from("<I", self._head, place)[0]
        return {
            "TYPE": "vfat",
            "UUID": f"{serial >> 16:04X}-{serial & 0xFFFF:04X}",
            "LABEL": self._label() or _fat_name(self._head[place + 4 : place + 15]),
        }

    def _label(self) -> str:
        names = self._disk.read(self._device, self._names_start, self._names_size)
        for start in range(0, len(names), 32):
            entry = names[start : start + 32]
            if entry[:1] in (b"", b"\0"):
                break
            # The volume's name has this attribute alone; parts of long names have it with others.
            if entry[0] != 0xE5 and entry[11] & 0x3F == 0x08:
                return _fat_name(entry[:11])
        return ""

    def usage(self) -> tuple[int, int, int]:
        table = self._disk.read(self._device, self._table_start, self._table_size)
        last = self._clusters + 2
        if self._is_32:
            values = [value & 0x0FFFFFFF for (value,) in struct.iter_unpack("<I", table[: last * 4])]
        elif self._clusters >= 4085:
            values = [value for (value,) in struct.iter_unpack("<H", table[: last * 2])]
        else:
            pairs = [int.from_bytes(table[at : at + 3], "little") for at in range(0, (last + 1) // 2 * 3, 3)]
            values = [value for pair in pairs for value in (pair & 0xFFF, pair >> 12)][:last]
        if len(values) != last:
            raise UnfitError(f"the FAT filesystem on {self._device.name} is damaged")
        return self._cluster, self._clusters, values[2:].count(0)


def _ext_facts(head: bytes) -> dict[str, str]:
    compatible, incompatible, read_only = struct.unpack_from("<3I", head, _EXT + 0x5C)
    if incompatible & ~_EXT3_INCOMPATIBLE or read_only & ~_EXT3_READ_ONLY:
        kind = "ext4"
    else:
        kind = "ext3" if compatible & _HAS_JOURNAL else "ext2"
    return {
        "TYPE": kind,
        "UUID": _uuid(head[_EXT + 0x68 : _EXT + 0x78]),
        "LABEL": _label(head[_EXT + 0x78 : _EXT + 0x88]),
    }


def _uuid(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw)) if any(raw) else ""


def _label(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace").rstrip()


def _fat_name(raw: bytes) -> str:
    name = raw.decode("ascii", errors="replace").rstrip(" \0")
    return "" if name == "NO NAME" else name
