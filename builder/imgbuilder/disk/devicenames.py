"""Names of disks, partitions and logical volumes, and their comparison.

A name of a second disk never counts as the first disk's, whatever the partition's number.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

_LETTERED = re.compile(r"/dev/(hd|sd|vd|xvd|dasd)([a-z]{1,3})([1-9][0-9]{0,3})?")
_NUMBERED = re.compile(r"/dev/(?:(nvme)([0-9]{1,4})n1|(mmcblk)([0-9]{1,4}))(?:p([1-9][0-9]{0,3}))?")
"""Further namespaces of an NVMe controller are left out: their names do not show their order."""


@dataclass(frozen=True)
class DeviceName:
    """The parts of the kernel's name of a disk or partition."""

    scheme: str
    """The kind of disk, such as ``sd`` or ``nvme``."""
    disk: int
    """Number of the disk among those of that kind, from 0."""
    number: int | None
    """The partition's number; None for the whole disk."""


def parse_device_name(device: str) -> DeviceName | None:
    """Read a name such as ``/dev/sda2`` or ``/dev/nvme0n1``; None for other names."""
    found = _LETTERED.fullmatch(device)
    if found is not None:
        scheme, letters, number = found.groups()
        index = 0
        for letter in letters:
            index = index * 26 + string.ascii_lowercase.index(letter) + 1
        return DeviceName(scheme, index - 1, int(number) if number else None)
    found = _NUMBERED.fullmatch(device)
    if found is not None:
        number = found[5]
        return DeviceName(found[1] or found[3], int(found[2] or found[4]), int(number) if number else None)
    return None


def appliance_disk(index: int) -> str:
    """Return the appliance's name of the disk with an index from 0, such as ``/dev/sda``."""
    letters = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        letters = string.ascii_lowercase[digit] + letters
    return f"/dev/sd{letters}"


def on_only_disk(device: str, disk: str = "/dev/sda") -> str | None:
    """Return the appliance's name of something on the guest's only disk; None for a name of another disk."""
    name = parse_device_name(device)
    if name is None:
        return device
    return f"{disk}{name.number or ''}" if name.disk == 0 else None


def mapper_name(device: str) -> str:
    """Return the device mapper's name of a logical volume: of ``/dev/a/b-c``, ``/dev/mapper/a-b--c``."""
    words = device.split("/")
    if len(words) != 4 or words[2] in {"mapper", "md", "disk"}:
        return device
    group, volume = (word.replace("-", "--") for word in words[2:])
    return f"/dev/mapper/{group}-{volume}"


def same_device(one: str, other: str) -> bool:
    """Tell whether two names mean the same: a disk by its place, or a volume in either form."""
    first, second = parse_device_name(one), parse_device_name(other)
    if first is None or second is None:
        return mapper_name(one) == mapper_name(other)
    return (first.disk, first.number) == (second.disk, second.number)
