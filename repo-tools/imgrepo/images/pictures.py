"""Checks pictures for pages and entries.

Browsers decode the pictures of pages. Of those only the 24 bytes are read that
show that it is PNG and its size (PNG specification, sections 5.2 and 11.2.1).
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from PIL import Image

_START = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"
_MOST_PIXELS = 8192
"""Pixels of one side."""
LARGEST = 8 << 20
"""Bytes of a picture; phones load it as well."""


def png_size(path: Path) -> tuple[int, int] | str | None:
    """Return width and height of a picture in pixels; None without a file; else why it is not shown."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            return "it is not a regular file"
        if facts.st_size > LARGEST:
            return f"it is larger than {LARGEST >> 20} MiB"
        head = file.read(len(_START) + 8)
    if len(head) < len(_START) + 8 or not head.startswith(_START):
        return "it is not a PNG file"
    width, height = struct.unpack(">II", head[-8:])
    if not (0 < width <= _MOST_PIXELS and 0 < height <= _MOST_PIXELS):
        return f"it has {width} x {height} pixels"
    return width, height


SMALLEST = (320, 240)
"""Least width and height in pixels: the size of thumbnails in collections of demos."""
_SCREENSHOT_MOST_PIXELS = 16 << 20
"""Largest number of pixels; more takes a quarter of a gigabyte of memory."""


def screenshot_problem(path: Path) -> str | None:
    """Return what is wrong with the screenshot of an entry; None when nothing is."""
    found = png_size(path)
    if found is None or isinstance(found, str):
        return found or "it is gone"
    width, height = found
    if width < SMALLEST[0] or height < SMALLEST[1]:
        return f"it has {width}x{height} pixels, fewer than {SMALLEST[0]}x{SMALLEST[1]}"
    if width * height > _SCREENSHOT_MOST_PIXELS:
        return f"it has too many pixels ({width}x{height})"
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"it cannot be read: {error}"
    return "all of it has one colour" if picture.getcolors(1) else None
