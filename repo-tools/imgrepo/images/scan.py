"""Finds the disk images in a folder that are to be published.

qemu and libguestfs open no image before ``imgbuilder.disk.imageheader`` has
checked its header (``docs/threat-model.md`` R11, R14, T24).
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.imageheader import check_qcow2, check_raw, refuse_packed
from imgbuilder.disk.magic import LENGTH as MAGIC_LENGTH
from imgbuilder.disk.magic import foreign_format
from imgbuilder.disk.partition import virtual_size
from imgbuilder.errors import DiskError, UsageError
from imgbuilder.host import imagelocks
from imgbuilder.host.hashing import Fingerprint
from imgindex.files import open_file

FORMATS = {".img": DiskFormat.RAW, ".raw": DiskFormat.RAW, ".qcow2": DiskFormat.QCOW2}
"""Format by the ending of the file's name; the content never decides it."""

_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
"""Names that are valid for templates as well, and short enough for the published file's name."""

_SECTOR = 512


@dataclass(frozen=True)
class SourceImage:
    """A disk image that is to be published.

    Attributes:
        stem: Its name without the ending, from which the template gets its name.
    """

    path: Path
    stem: str
    format: DiskFormat
    fingerprint: Fingerprint

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name


class Skipped(NamedTuple):
    """A file with the ending of an image that is not published, and why."""

    name: str
    reason: str


def is_stem(name: str) -> bool:
    """Check whether a name is valid for a template and for an image without its ending."""
    return _STEM.fullmatch(name) is not None


def scan(folder: Path) -> tuple[tuple[SourceImage, ...], tuple[Skipped, ...]]:
    """Find the images directly in a folder, in the order of their names.

    Hidden files, as temporary ones are, and files with other endings are ignored.
    """
    images, skipped = [], []
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"cannot read the folder {folder}: {error.strerror}") from error
    for entry in found:
        stem, ending = Path(entry.name).stem, Path(entry.name).suffix
        if ending not in FORMATS or entry.name.startswith("."):
            continue
        if entry.is_symlink():
            skipped.append(Skipped(entry.name, "it is a symbolic link"))
        elif not entry.is_file():
            skipped.append(Skipped(entry.name, "it is not a regular file"))
        elif not is_stem(stem):
            reason = "its name has other characters than letters, digits, '.', '_' and '-', or is too long"
            skipped.append(Skipped(entry.name, reason))
        else:
            fingerprint = Fingerprint.of(entry.stat(follow_symlinks=False))
            images.append(SourceImage(folder / entry.name, stem, FORMATS[ending], fingerprint))
    return tuple(images), tuple(skipped)


def measure(image: SourceImage) -> int:
    """Check that no program uses an image, check its header, and return the size of its disk.

    Raises:
        DiskError: The image refers to other files, is damaged, has a different format from its name, or
            belongs to a running machine.
    """
    imagelocks.refuse_if_in_use(image.path, changing=False)
    if image.format is DiskFormat.QCOW2:
        size = check_qcow2(image.path).virtual_size
        if virtual_size(image.path, image.format) != size:
            raise DiskError(f"{image.path}: qemu-img reads a different disk size from the one in its header")
    else:
        size = image.fingerprint.size
        check_raw(image.path, size)
        refuse_packed(image.path)
        with open_file(image.path) as file:
            looks = foreign_format(file.read(MAGIC_LENGTH))
        if looks is not None:
            raise DiskError(
                f"{image.path} is a {looks} image with the name of a raw one",
                hint=f"rename it to {image.stem}.qcow2"
                if looks == "qcow2"
                else f"convert it first: qemu-img convert -f {looks} -O qcow2 IMAGE {image.stem}.qcow2",
            )
    if size == 0 or size % _SECTOR:
        raise DiskError(
            f"{image.path}: the disk size {size} is not a whole number of sectors",
            hint="a raw image can be rounded up with truncate --size=%512 FILE",
        )
    return size


def check_unchanged(image: SourceImage) -> None:
    """Check that an image is still the one that was found (``docs/threat-model.md`` R6)."""
    try:
        facts = image.path.lstat()
    except FileNotFoundError:
        facts = None
    if facts is None or not stat.S_ISREG(facts.st_mode) or Fingerprint.of(facts) != image.fingerprint:
        raise DiskError(
            f"{image.path} changed while it was being published",
            hint="wait until it is complete, then publish again",
        )
