"""Small ext2/3/4 filesystems, by mke2fs and debugfs, alone or in a disk with a GPT."""

from __future__ import annotations

import subprocess
from pathlib import Path

from imgbuilder.appliance.hostside.gate import SUPERBLOCK, Place, crc32c
from tests.unit.imgbuilder.disks import MIB, make_disk

OFFSET = MIB


def make(path: Path, *words: str, size: int = 16 * MIB, offset: int = 0) -> Path:
    """Make a filesystem, by default a whole file."""
    if not path.exists():
        with path.open("wb") as file:
            file.truncate(offset + size)
    where = ["-E", f"offset={offset}"] if offset else []
    kind = [] if "-t" in words else ["-t", "ext4"]
    command = ["/usr/sbin/mke2fs", "-q", "-F", *kind, *where, *words, str(path), f"{size // 1024}k"]
    subprocess.run(command, check=True, capture_output=True)
    return path


def in_disk(path: Path, *words: str, size: int = 16 * MIB, disk: int = 32 * MIB) -> Place:
    """Make a filesystem in the only partition of a disk, which it does not fill; return the partition."""
    sectors = (disk - 2 * MIB) // 512
    make_disk(path, f"label: gpt\nstart=2048, size={sectors}\n", size=disk)
    make(path, *words, size=size, offset=OFFSET)
    return Place(OFFSET, sectors * 512)


def debugfs(path: Path, *commands: str) -> None:
    for command in commands:
        subprocess.run(["/usr/sbin/debugfs", "-w", "-R", command, str(path)], check=True, capture_output=True)


def superblock(path: Path, offset: int = 0) -> bytes:
    with path.open("rb") as file:
        file.seek(offset + SUPERBLOCK)
        return file.read(SUPERBLOCK)


def with_checksum(raw: bytes) -> bytes:
    """Make the checksum of a changed superblock right."""
    return raw[:-4] + crc32c(raw[:-4]).to_bytes(4, "little")
