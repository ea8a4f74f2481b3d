"""Whether a file is a picture that a page may show: its header, and no more.

Browsers decode it, not we; so nothing of a stranger's picture is parsed here
but the 24 bytes that say that it is PNG and how large (PNG specification,
sections 5.2 and 11.2.1).
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_START = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"
_MOST_PIXELS = 8192
"""Of one side."""
LARGEST = 8 << 20
"""Bytes of a picture; people on a phone load it."""


def png_size(path: Path) -> tuple[int, int] | str | None:
    """Look at a picture.

    Returns:
        Width and height in pixels; None when there is no file; else why it is not shown.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            return "it is no file"
        if facts.st_size > LARGEST:
            return f"it is larger than {LARGEST >> 20} MiB"
        head = file.read(len(_START) + 8)
    if len(head) < len(_START) + 8 or not head.startswith(_START):
        return "it is no PNG"
    width, height = struct.unpack(">II", head[-8:])
    if not (0 < width <= _MOST_PIXELS and 0 < height <= _MOST_PIXELS):
        return f"it has {width} x {height} pixels"
    return width, height
