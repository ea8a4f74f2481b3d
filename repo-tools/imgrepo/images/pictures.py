"""Whether a file is a picture that a page may show: its header, and no more.

Browsers decode it, not we; so nothing of a stranger's picture is parsed here
but the 24 bytes that say that it is PNG and how large (PNG specification,
sections 5.2 and 11.2.1).
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from PIL import Image

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


# Whether an entry's picture is one that people can see something on.


SMALLEST = (320, 240)
"""Pixels, as wide and as high at least: the size of thumbnails in collections of demos."""
_SCREENSHOT_MOST_PIXELS = 16 << 20
"""More takes a quarter of a gigabyte to look at."""


def screenshot_problem(path: Path) -> str | None:
    """Say what is wrong with a picture; None when nothing is.

    Args:
        path: The file, which exists.
    """
    found = png_size(path)
    if found is None or isinstance(found, str):
        return found or "it is gone"
    width, height = found
    if width < SMALLEST[0] or height < SMALLEST[1]:
        return f"it has {width}x{height} pixels, and {SMALLEST[0]}x{SMALLEST[1]} is the least"
    if width * height > _SCREENSHOT_MOST_PIXELS:
        return f"its {width}x{height} pixels are too many"
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"it cannot be read: {error}"
    return "all of it has one colour" if picture.getcolors(1) else None
