"""Helpers for tests with real block devices."""

from __future__ import annotations

import os
from pathlib import Path

from imgbuilder.host import process

ROOM = 24 << 20
"""Bytes of a loop device."""
OLD = b"what was on the device before " * 1000


def system(*words: str | Path) -> str:
    return process.run(list(words)).stdout.decode().strip()


def usable(path: Path) -> bool:
    """Return whether a device can be opened; a container may have the programs but not the devices."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True
