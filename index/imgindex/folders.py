"""Making the folders that we keep things in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make a folder of the user's, and those above it that are missing, as the XDG specification wants them.

    A parent that is made on the way is for its owner alone, whatever the umask: ``Path.mkdir`` would let
    everybody write into ``~/.cache`` for one who has a umask of 000, and so exchange all that is below.

    Args:
        folder: The folder; one that is there stays as it is.
        mode: Its mode if it is made; the umask can only take from it.

    Raises:
        OSError: It cannot be made, or is no folder.
    """
    try:
        folder.mkdir(mode)
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        make_folder(folder.parent)
        folder.mkdir(mode, exist_ok=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
