"""The ``Appliance`` port over libguestfs calls, put together from its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgbuilder.appliance.attached import hide_script, read_places, show_script
from imgbuilder.appliance.calls import LONG
from imgbuilder.appliance.guestcommands import GuestCommands
from imgbuilder.appliance.storage import Storage
from imgbuilder.errors import ApplianceError, GuestError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgbuilder.appliance.attached import Place
    from imgbuilder.appliance.connection import Connection

_LIMIT = 300.0
"""Seconds without an answer while disks are hidden or shown: all volumes of a guest are looked for."""


class LibguestfsAppliance(GuestCommands, Storage):
    """A launched appliance. Made by ``open_appliance``.

    Args:
        connection: The worker that holds the launched handle.
        scratch: Private local folder for temporary files.
        attached: The places of the disks that are only attached, from 0.
    """

    def __init__(self, connection: Connection, scratch: Path, attached: Sequence[int] = ()) -> None:
        super().__init__(connection, scratch)
        self._attached = tuple(attached)
        self._hidden: list[Place] = []

    def hide_attached(self) -> None:
        """Hide the disks that are only attached; nothing may be mounted."""
        if self._attached and not self._hidden:
            text = self._arrange(hide_script(self._attached))
            self._hidden = read_places(text, len(self._attached))

    def show_attached(self) -> None:
        """Let the guest's commands see the disks that are only attached: until then nothing does."""
        if self._hidden:
            self._arrange(show_script(self._hidden))
            self._hidden = []

    def _arrange(self, script: str) -> str:
        try:
            return str(self._call("debug", "sh", [script], limit=_LIMIT))
        except ApplianceError:
            raise
        except GuestError as error:
            raise GuestError(
                f"attached disks cannot be kept apart from the guest's own: {error.message}",
                hint="nothing was changed; do without --attach",
            ) from error

    def shutdown(self) -> None:
        """Unmount, flush and stop the appliance; an error means that data may not be on the disk."""
        self._call("umount_all", limit=LONG)  # what is still in memory is written now, or lost now
        lost = self.lost_writes()
        if lost is not None:
            raise GuestError(
                f"not everything that the guest wrote reached the image: {lost}",
                hint="check the disk that the image is on",
            )
        self._call("shutdown", limit=LONG)
