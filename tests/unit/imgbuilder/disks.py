"""Disk images with real partition tables and the marks of real filesystems, for the tests of growth."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from imgbuilder.disk import diskimage
from imgbuilder.disk.diskimage import DiskFormat

MIB = 1024 * 1024
BIOS = "21686148-6449-6E6F-744E-656564454649"


def make_disk(path: Path, script: str, size: int = 32 * MIB, *, sector: int = 512) -> Path:
    """Write a raw disk with the partition table of an sfdisk script; 4096-byte sectors are fdisk's job.

    A table that the kernel need not know is written without a sync of all filesystems of this machine.
    """
    with path.open("wb") as file:
        file.truncate(size)
    if sector == 512:
        subprocess.run(
            ["/usr/sbin/sfdisk", "-q", "--no-tell-kernel", path],
            input=script.encode(),
            check=True,
            capture_output=True,
        )
        return path
    with tempfile.NamedTemporaryFile("w", suffix=".script") as text:
        text.write(script)
        text.flush()
        done = subprocess.run(
            ["/usr/sbin/fdisk", "-b", str(sector), path], input=f"I\n{text.name}\nw\n", text=True,
            check=True, capture_output=True,
        )  # fmt: skip
        assert "Script successfully applied" in done.stdout, done.stdout
    return path


def dump(path: Path) -> dict[str, object]:
    """Return what sfdisk says about a disk with 512-byte sectors."""
    out = subprocess.run(["/usr/sbin/sfdisk", "--json", path], check=True, capture_output=True).stdout
    table: dict[str, object] = json.loads(out)["partitiontable"]
    return table


def by_parted(path: Path, sector: int) -> dict[int, tuple[int, int, str, str]]:
    """Return (first sector, last sector, name, flags) by number, as another program sees the table.

    It must find nothing to complain about.
    """
    done = subprocess.run(
        ["/usr/sbin/parted", "-s", "-m", path, "unit", "s", "print"], capture_output=True, text=True,
        env={**os.environ, "PARTED_SECTOR_SIZE": str(sector), "LC_ALL": "C"}, check=True,
    )  # fmt: skip
    assert done.stderr == "", done.stderr
    found = {}
    for line in done.stdout.splitlines()[2:]:
        number, start, end, _size, _fs, name, flags = line.rstrip(";").split(":")
        found[int(number)] = (int(start[:-1]), int(end[:-1]), name, flags)
    return found


def verify(path: Path) -> None:
    """Let sgdisk look for problems in a GPT with 512-byte sectors."""
    said = subprocess.run(["/usr/sbin/sgdisk", "-v", path], capture_output=True, text=True, check=False)
    assert re.search(r"No problems found", said.stdout), said.stdout


def add_ext(path: Path, start: int, size: int) -> None:
    """Put an ext4 filesystem at a byte of the disk."""
    place: list[str | Path] = ["-E", f"offset={start}", path, f"{size // 1024}k"]
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", *place], check=True, capture_output=True)


def put(path: Path, place: int, content: bytes) -> None:
    """Overwrite bytes of a disk."""
    with path.open("r+b") as disk:
        disk.seek(place)
        disk.write(content)


def as_format(disk: Path, kind: DiskFormat) -> Path:
    """Return the disk as an image of another format."""
    if kind is DiskFormat.RAW:
        return disk
    converted = disk.with_suffix(".qcow2")
    diskimage.convert(disk, DiskFormat.RAW, converted, kind)
    return converted


def as_raw(image: Path, kind: DiskFormat) -> Path:
    """Return an image as a raw disk."""
    if kind is DiskFormat.RAW:
        return image
    raw = image.with_suffix(".back")
    diskimage.convert(image, kind, raw, DiskFormat.RAW)
    return raw
