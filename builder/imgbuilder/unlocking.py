"""Opening the encrypted parts of a guest's disk with the user's keys, before anything is looked for on it."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.events import debug, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgbuilder.diskkeys import DiskKey
    from imgbuilder.events import Reporter
    from imgbuilder.guest import Appliance

_LUKS = "crypto_LUKS"


def unlock(appliance: Appliance, keys: Sequence[DiskKey], report: Reporter) -> dict[str, str]:
    """Open the LUKS containers of the guest that keys are given for.

    Without keys the appliance is asked nothing.

    Args:
        appliance: A launched appliance with nothing mounted.
        keys: The user's keys, tried in their order.
        report: Hears of what was opened, and of keys without a container. Never of a key itself.

    Returns:
        For each container's device, the device of what it holds.

    Raises:
        GuestError: None of the keys meant for a container opens it.
    """
    opened: dict[str, str] = {}
    if not keys:
        return opened
    unused = list(keys)
    for device in encrypted_devices(appliance):
        uuid = appliance.luks_uuid(device)
        fitting = [key for key in keys if key.fits(device, uuid)]
        if not fitting:
            debug(report, f"no key is given for {device} (UUID {uuid})")
            continue
        unused = [key for key in unused if key not in fitting]
        opened[device] = _open(appliance, device, uuid, fitting)
        debug(report, f"{device} is opened as {opened[device]}")
    if opened:
        appliance.scan_volumes()
    for key in unused:
        warn(report, f"--key {key.identity}: the disk has no such encrypted device")
    return opened


def encrypted_devices(appliance: Appliance) -> list[str]:
    """Return the LUKS containers on partitions, logical volumes, and disks without partitions."""
    # Not by list_filesystems, which leaves out what only holds others, and looks for minutes at the rest.
    partitions = appliance.partitions()
    with_partitions = {name.rstrip(string.digits) for name in partitions}
    whole = [disk for disk in appliance.disks() if disk not in with_partitions]
    places = [*whole, *partitions, *appliance.volumes()]
    return [device for device in places if appliance.filesystem_type(device) == _LUKS]


def _open(appliance: Appliance, device: str, uuid: str, keys: Sequence[DiskKey]) -> str:
    name = f"luks-{uuid}"
    last: GuestCallError | None = None
    for key in keys:
        try:
            appliance.open_luks(device, key.secret, name)
        except GuestCallError as error:
            last = error
        else:
            return f"/dev/mapper/{name}"
    assert last is not None, "called with one key at least"
    raise GuestError(
        f"no key given with --key opens {device} (UUID {uuid}): {last.message}",
        hint="nothing was changed; check the keys, one line each without blanks around",
    ) from last
