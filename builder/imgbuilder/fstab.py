"""Reading a guest's /etc/fstab (fstab(5)): which other filesystems belong to the guest. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One filesystem on the guest's disks.

    Attributes:
        spec: What to mount, as written: ``UUID=...``, ``LABEL=...`` or a device.
        path: Where, an absolute path.
        kind: Filesystem type.
        options: Mount options that shape what is seen (subvolumes), comma-separated; empty for none.
    """

    spec: str
    path: str
    kind: str
    options: str


def parse_fstab(text: str) -> list[Mount]:
    """Return the filesystems on disks that a guest mounts by itself, shortest path first.

    Lines that cannot be understood are left out, as mount(8) does.
    """
    mounts = []
    for line in text.split("\n"):
        words = [_unescape(word) for word in line.split()]
        if len(words) < 3 or words[0].startswith("#"):
            continue
        spec, path, kind = words[:3]
        options = words[3].split(",") if len(words) > 3 else []
        if not path.startswith("/") or {"noauto", "bind", "rbind", "loop"} & set(options):
            continue  # swap has no path
        if not (spec.startswith("/dev/") or "=" in spec):
            continue  # of the network, or of the kernel's own making
        kept = ",".join(item for item in options if item.startswith(("subvol=", "subvolid=")))
        mounts.append(Mount(spec, path, kind, kept))
    return sorted(mounts, key=lambda mount: len(mount.path))


def _unescape(word: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found.group(1), 8)), word)
