"""The ``Appliance`` port over libguestfs calls, put together from its parts."""

from __future__ import annotations

from imgbuilder.appliance.calls import LONG
from imgbuilder.appliance.guestcommands import GuestCommands
from imgbuilder.appliance.storage import Storage
from imgbuilder.errors import GuestError


class LibguestfsAppliance(GuestCommands, Storage):
    """A launched appliance. Made by ``open_appliance``."""

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
