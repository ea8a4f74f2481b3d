"""Disk image files, through qemu-img and qemu-io. The format is always given, never probed.

``imgbuilder.disk.imageheader`` checks the header of every image first. Names are made absolute, because QEMU
takes ``json:x`` and ``a:b`` for protocols (``docs/threat-model.md`` F13, X21).
"""

from __future__ import annotations

import enum
import json
import os
from pathlib import Path

from imgbuilder.errors import DiskError, ToolError, UsageError
from imgbuilder.host import process
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.sizes import whole_number

_SECTOR = 512
_LARGEST = (1 << 63) - 1


class DiskFormat(enum.StrEnum):
    """Formats of disk images that pybuilder reads and writes."""

    RAW = "raw"
    QCOW2 = "qcow2"


class OutputFormat(enum.StrEnum):
    """Formats of finished images; formats that are not in ``DiskFormat`` are written at the end."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VDI = "vdi"
    VHDX = "vhdx"

    @property
    def working(self) -> DiskFormat | None:
        """The same format for an image in progress; None for formats that are only written at the end."""
        return DiskFormat(self.value) if self.value in set(DiskFormat) else None


def parse_output_format(text: str) -> OutputFormat:
    """Return the format that ``--format`` names for an image."""
    try:
        return OutputFormat(text)
    except ValueError:
        known = ", ".join(item.value for item in OutputFormat)
        raise UsageError(f"the disk format {text!r} is not supported", hint=f"formats: {known}") from None


def parse_format(text: str) -> DiskFormat:
    """Return the format that an option or an index names."""
    try:
        return DiskFormat(text)
    except ValueError:
        known = ", ".join(item.value for item in DiskFormat)
        raise UsageError(
            f"the disk format {str(text)!r} is not supported here", hint=f"formats: {known}"
        ) from None


def convert(source: Path, source_format: DiskFormat, target: Path, target_format: DiskFormat) -> None:
    """Write ``source`` to a new image ``target`` in another format, leaving out zeroes."""
    _qemu_img("convert", "-f", source_format, "-O", target_format, source.absolute(), target.absolute())


def create_overlay(overlay: Path, disk: Path, disk_format: DiskFormat, size: int) -> None:
    """Make a qcow2 image that reads as another disk until it is written to.

    That disk must not change while the overlay is used, and not be larger than ``size``.
    """
    # An absolute name begins with a slash, and so is never taken for a protocol.
    _qemu_img(
        "create", "-q", "-f", DiskFormat.QCOW2, "-b", disk.absolute(), "-F", disk_format,
        overlay.absolute(), str(size),
    )  # fmt: skip


def write_image(
    source: Path, source_format: DiskFormat, target: Path, target_format: OutputFormat, *, compressed: bool
) -> None:
    """Write an image, with the disk that it lies over, to a file or a block device."""
    words: list[str | Path] = ["-f", source_format, "-O", target_format]
    if compressed:
        words.append("-c")
    if target.is_block_device() and target_format is OutputFormat.RAW:
        words.append("-n")  # it exists, and zeroes must overwrite its content
    _qemu_img("convert", *words, source.absolute(), target.absolute())


def measure(source: Path, source_format: DiskFormat, target_format: OutputFormat) -> int:
    """Return the size in bytes that a file of ``target_format`` with the content of ``source`` would have."""
    words = ["-f", source_format, "-O", target_format, "--output=json"]
    try:
        answer = process.run(["qemu-img", "measure", *words, source.absolute()])
    except ToolError as error:
        raise DiskError(f"qemu-img cannot measure {source}: {error}") from error
    return number_in(answer.stdout, "required", f"qemu-img cannot measure {source}")


def number_in(answer: bytes, key: str, problem: str) -> int:
    """Return a number of bytes from a JSON answer."""
    try:
        number = whole_number(str(json.loads(answer)[key]), _LARGEST)
    except (ValueError, KeyError, TypeError, RecursionError):
        number = None
    if number is None:
        raise DiskError(f"{problem}: its answer has no {key}")
    return number


def extend(image: Path, image_format: DiskFormat, size: int) -> None:
    """Make an image larger; the new part reads as zeroes."""
    if image_format is DiskFormat.RAW:
        try:
            os.truncate(image, size)
        except OSError as error:
            raise DiskError(f"{image} cannot grow to {size} bytes: {error.strerror}") from error
        return
    _qemu_img("resize", "-q", "-f", image_format, image.absolute(), str(size))


def read_range(image: Path, image_format: DiskFormat, start: int, length: int) -> bytes:
    """Read a part of the virtual disk."""
    if image_format is DiskFormat.RAW:
        with image.open("rb") as file:
            file.seek(start)
            return file.read(length)
    with private_folder() as folder:
        part = folder / "part"
        first = start // _SECTOR
        # In qemu-img dd, count is counted from the start of the input, skipped blocks included.
        _qemu_img(
            "dd", "-f", image_format, "-O", "raw", f"bs={_SECTOR}", f"skip={first}",
            f"count={first + length // _SECTOR}", f"if={image.absolute()}", f"of={part}",
        )  # fmt: skip
        return part.read_bytes()


def write_range(image: Path, image_format: DiskFormat, start: int, content: bytes) -> None:
    """Overwrite a part of the virtual disk."""
    if image_format is DiskFormat.RAW:
        with image.open("r+b") as file:
            file.seek(start)
            file.write(content)
        return
    with private_folder() as folder:
        (folder / "part").write_bytes(content)
        # qemu-io splits its commands at blanks and knows no quotes, so they must not contain a folder.
        order = f"write -q -s part {start} {len(content)}"
        try:
            answer = process.run(["qemu-io", "-f", image_format, "-c", order, image.absolute()], cwd=folder)
        except ToolError as error:
            raise DiskError(f"{image} cannot be written: {error.message}", hint=error.hint) from error
        if answer.stdout.strip() or answer.stderr.strip():  # qemu-io exits 0 after a failed write
            words = (answer.stdout.decode(errors="replace") + answer.stderr).strip()
            raise DiskError(f"{image} cannot be written: {words}")


def _qemu_img(*words: str | Path) -> None:
    try:
        process.run(["qemu-img", *words])
    except ToolError as error:
        raise DiskError(error.message, hint=error.hint) from error
