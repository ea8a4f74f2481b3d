"""Checks of what an operation finds in the guest, with errors that name the option and the path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgbuilder.errors import OperationError

if TYPE_CHECKING:
    from imgbuilder.customize.operation import OperationBase
    from imgbuilder.guest import Guest


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
    if not guest.is_file(path):
        raise OperationError(f"--{operation.keyword}: {path} is not a regular file in the guest")
