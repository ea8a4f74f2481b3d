"""Checks of what an operation finds in the guest, with errors that name the option and the path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgbuilder.errors import OperationError
from imgbuilder.events import Reporter, warn

if TYPE_CHECKING:
    from imgbuilder.customize.operation import OperationBase
    from imgbuilder.guest import Guest


_VOLATILE = ("/run/", "/dev/", "/proc/", "/sys/")
"""Folders over which a running guest mounts filesystems that are not on the disk."""


def require_existing(guest: Guest, path: str, operation: OperationBase) -> None:
    """Check that something is at a path of the guest.

    Raises:
        OperationError: It is missing, or a link that leads nowhere.
    """
    if not guest.exists(path):
        raise OperationError(f"--{operation.keyword}: {path} does not exist in the guest")


def require_file(guest: Guest, path: str, operation: OperationBase) -> None:
    """Check that a path of the guest is a regular file (links followed).

    Raises:
        OperationError: It is missing or something else.
    """
    require_existing(guest, path, operation)
    require_no_special(guest, path, operation)


def require_no_special(guest: Guest, path: str, operation: OperationBase) -> None:
    """Check that a path of the guest is a regular file, or nothing yet (links followed).

    What is written to a device or a pipe would be in no image.

    Raises:
        OperationError: It is something else.
    """
    if guest.exists(path) and not guest.is_file(path):
        raise OperationError(f"--{operation.keyword}: {path} is not a regular file in the guest")


def require_directory(guest: Guest, path: str, operation: OperationBase) -> None:
    """Check that a path that ends with a slash is a directory, as its writer believes.

    Raises:
        OperationError: It is none.
    """
    if path.endswith("/") and not guest.is_dir(path):
        raise OperationError(
            f"--{operation.keyword}: {path} is not a directory in the guest",
            hint=f"put --mkdir {path.rstrip('/')} before it, or leave out the last slash",
        )


def warn_of_volatile(guest: Guest, path: str, operation: OperationBase, report: Reporter) -> None:
    """Warn when what was just written will not be seen in the running guest (links followed)."""
    real = guest.realpath(path)
    if f"{real}/".startswith(_VOLATILE):
        where = path if real == path else f"{path} leads to {real}, which"
        warn(
            report,
            f"--{operation.keyword}: {where} is in the image, but not in the running guest: "
            f"{real[:5].rstrip('/')} is made anew at each boot",
        )
