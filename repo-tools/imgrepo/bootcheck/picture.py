"""Pictures of a guest's screen: the whole in PNG, and a small one."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from imgbuilder.errors import DiskError

THUMBNAIL = (320, 240)
"""Size in pixels, as entries of collections have it."""
_MOST_PIXELS = 16 << 20
"""The guest chooses the size of its screen; a picture of the largest would take gigabytes."""


def convert(screen: Path, whole: Path, thumbnail: Path) -> None:
    """Turn a picture in PPM into PNG, and into a small PNG with black borders where the shape is another.

    Args:
        screen: What the hypervisor wrote.
        whole: The file to write, in the same size.
        thumbnail: The small file to write.

    Raises:
        DiskError: It is no picture, or too large.
    """
    try:
        with Image.open(screen, formats=["PPM"]) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise DiskError(f"the guest's screen of {opened.width}x{opened.height} pixels is too large")
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DiskError(f"the picture of the guest's screen cannot be read: {error}") from error
    picture.save(whole, format="PNG", optimize=True)
    small = picture.copy()
    small.thumbnail(THUMBNAIL)
    canvas = Image.new("RGB", THUMBNAIL)
    canvas.paste(small, ((THUMBNAIL[0] - small.width) // 2, (THUMBNAIL[1] - small.height) // 2))
    canvas.save(thumbnail, format="PNG", optimize=True)
