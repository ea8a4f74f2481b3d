"""Whether an entry's picture is one that people can see something on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from imgrepo.catalogue.pictures import png_size

if TYPE_CHECKING:
    from pathlib import Path

SMALLEST = (320, 240)
"""Pixels, as wide and as high at least: the size of thumbnails in collections of demos."""
_MOST_PIXELS = 16 << 20
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
    if width * height > _MOST_PIXELS:
        return f"its {width}x{height} pixels are too many"
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"it cannot be read: {error}"
    return "all of it has one colour" if picture.getcolors(1) else None
