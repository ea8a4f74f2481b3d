"""The folder in which libguestfs builds its appliance, once for each user and kernel (B7)."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "LIBGUESTFS_CACHEDIR"


def check_build_folder(environ: Mapping[str, str]) -> None:
    """Refuse a folder that libguestfs cannot or must not use.

    libguestfs itself drops a wrong LIBGUESTFS_CACHEDIR with a message that nobody sees, and takes the
    default; of a foreign appliance it says only that it is "not owned".

    Args:
        environ: The variables that the appliance starts with.

    Raises:
        ApplianceError: It is not there, not a folder, not writable, or another user's.
    """
    chosen = environ.get(VARIABLE)
    if not chosen or environ.get("LIBGUESTFS_PATH"):  # the latter is a ready appliance
        return
    folder = Path(chosen)
    hint = f"choose another folder: {VARIABLE}=DIR, or leave it out to use /var/tmp"
    if not folder.is_dir():
        raise ApplianceError(f"{VARIABLE} says {folder}, which is not a folder", hint=hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ApplianceError(f"{VARIABLE} says {folder}, where you may not write", hint=hint)
    built = folder / f".guestfs-{os.geteuid()}"
    try:
        facts = built.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        raise ApplianceError(
            f"{built}, where the appliance is kept, is not your own (its owner is user {facts.st_uid})",
            hint=f"do not trust it; {hint}",
        )
