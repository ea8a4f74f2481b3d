"""Disks of many kinds with a tiny guest on each, made by the tools that users make theirs with."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.disk import partition
from imgbuilder.disk.diskimage import DiskFormat, convert
from imgbuilder.guests.unlocking import DiskKey

MIB = 1024 * 1024
SIZE = 400 * MIB
GROWN = 700 * MIB + 8192
SECRET = "correct horse: canary 7Qz"
_SBIN = "/usr/sbin"


@dataclass
class Layout:
    """A disk.

    Attributes:
        path: The raw disk.
        kind: What is last on it.
        number: The partition that it is in; None for the whole disk.
        root: The partition that holds the system, when that is another one.
        volume: The logical volume that grows.
        keys: Keys.
        format: The format in which it grows.
        letter: Its place in the appliance.
    """

    path: Path
    kind: str
    number: int | None
    root: int | None = None
    volume: str | None = None
    keys: tuple[DiskKey, ...] = ()
    format: DiskFormat = DiskFormat.RAW
    letter: str = "a"
    image: Path = field(default=Path())

    @property
    def expand(self) -> str:
        return f"/dev/sda{self.number or ''}"

    def start(self) -> int:
        """Return the byte at which what grows starts."""
        table = partition.read_table(self.path, DiskFormat.RAW)
        part = table.find(self.number) if table is not None and self.number is not None else None
        return 0 if part is None or table is None else part.start * table.sector_size


def run(*words: str | Path, stdin: str | None = None) -> str:
    """Run a program that must succeed; return what it printed."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def partitioned(path: Path, script: str, *, sector: int = 512, size: int = SIZE) -> Path:
    """Make a disk with a partition table."""
    with path.open("wb") as file:
        file.truncate(size)
    if sector == 512:
        run(f"{_SBIN}/sfdisk", "-q", path, stdin=script)
    else:
        text = path.with_suffix(".script")
        text.write_text(script)
        said = run(f"{_SBIN}/fdisk", "-b", str(sector), path, stdin=f"I\n{text}\nw\n")
        assert "Script successfully applied" in said, said
    return path


def tree(folder: Path) -> Path:
    """Make the smallest guest."""
    (folder / "etc").mkdir(parents=True, exist_ok=True)
    (folder / "etc/os-release").write_text("ID=tiny\nNAME=Tiny\nPRETTY_NAME='Tiny'\n")
    return folder


def fill(disk: Path, number: int | None, kind: str, files: Path, *words: str) -> None:
    """Put a filesystem with the guest's files into a partition, or on the whole disk."""
    start, size = place(disk, number)
    part = disk.with_suffix(".part")
    part.unlink(missing_ok=True)
    with part.open("wb") as file:
        file.truncate(size)
    match kind:
        case "ext2" | "ext3" | "ext4":
            run(f"{_SBIN}/mke2fs", "-q", "-t", kind, "-d", files, *words, part)
        case "xfs":
            proto = disk.with_suffix(".proto")
            proto.write_text(
                "/none\n0 0\nd--755 0 0\netc d--755 0 0\n"
                f"os-release ---644 0 0 {files / 'etc/os-release'}\n$\n$\n"
            )
            run(f"{_SBIN}/mkfs.xfs", "-q", "-p", proto, part)
        case "btrfs":
            run(f"{_SBIN}/mkfs.btrfs", "-q", "--rootdir", files, part)
        case "f2fs":
            run(f"{_SBIN}/mkfs.f2fs", "-q", part)
        case "ntfs":
            run(f"{_SBIN}/mkfs.ntfs", "-q", "-F", "-f", "-s", "512", part)
        case "swap":
            run(f"{_SBIN}/mkswap", "-q", "-L", "tired", "-U", "aaaaaaaa-1111-2222-3333-444444444444", part)
        case "luks":
            run(
                "/usr/sbin/cryptsetup", "-q", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2",
                "--pbkdf-force-iterations", "1000", "--key-file", "-", *words, part, stdin=SECRET,
            )  # fmt: skip
    put(part, disk, start)
    part.unlink()


def place(disk: Path, number: int | None) -> tuple[int, int]:
    """Return start and size of a partition in bytes."""
    if number is None:
        return 0, disk.stat().st_size
    table = partition.read_table(disk, DiskFormat.RAW)
    part = table.find(number) if table is not None else None
    assert part is not None
    assert table is not None
    return part.start * table.sector_size, part.size * table.sector_size


def put(source: Path, disk: Path, start: int) -> None:
    """Copy a file into a disk, leaving holes."""
    run(
        "dd", f"if={source}", f"of={disk}", "bs=64K", f"seek={start}", "oflag=seek_bytes",
        "conv=notrunc,sparse", "status=none",
    )  # fmt: skip


def cut(disk: Path, number: int | None, target: Path) -> Path:
    """Copy a partition out of a disk, leaving holes."""
    start, size = place(disk, number)
    run(
        "dd", f"if={disk}", f"of={target}", "bs=64K", f"skip={start}", f"count={size}",
        "iflag=skip_bytes,count_bytes", "conv=sparse", "status=none",
    )  # fmt: skip
    with target.open("r+b") as file:
        file.truncate(size)
    return target


def as_image(layout: Layout) -> Path:
    """Write the disk in the format in which it grows."""
    image = layout.path.with_suffix(f".grown.{layout.format}")
    convert(layout.path, DiskFormat.RAW, image, layout.format)
    return image


def as_raw(layout: Layout) -> Path:
    """Return the grown image as a raw disk."""
    raw = layout.path.with_suffix(".after")
    convert(layout.image, layout.format, raw, DiskFormat.RAW)
    return raw
