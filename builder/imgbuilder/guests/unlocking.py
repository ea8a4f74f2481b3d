"""Opens the encrypted devices of a guest with the user's keys (``--key``)."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.disk.devicenames import same_device
from imgbuilder.errors import GuestCallError, GuestError, UsageError
from imgbuilder.events import Reporter, debug, warn
from imgbuilder.guests.ports import Appliance
from imgindex.files import open_given

_LUKS = "crypto_LUKS"


def unlock(appliance: Appliance, keys: Sequence[DiskKey], on_event: Reporter) -> dict[str, str]:
    """Open the LUKS containers of the guest for which there are keys.

    Without keys there is no request to the appliance.

    Returns:
        For each container's device, the device of its content.
    """
    opened: dict[str, str] = {}
    if not keys:
        return opened
    unused = list(keys)
    for device in encrypted_devices(appliance):
        uuid = appliance.luks_uuid(device)
        fitting = [key for key in keys if key.fits(device, uuid)]
        if not fitting:
            debug(on_event, f"no key is given for {device} (UUID {uuid})")
            continue
        unused = [key for key in unused if key not in fitting]
        opened[device] = _open(appliance, device, uuid, fitting)
        debug(on_event, f"{device} is opened as {opened[device]}")
    if opened:
        appliance.scan_volumes()
    for key in unused:
        warn(on_event, f"--key {key.identity}: the disk has no such encrypted device")
    return opened


def encrypted_devices(appliance: Appliance) -> list[str]:
    """Return the LUKS containers on partitions, logical volumes, and disks without partitions."""
    # Not by list_filesystems, which leaves out devices that hold others, and takes minutes.
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


ALL = "all"
_LARGEST = 1 << 20
_SYNTAX = "write --key ID:file:FILE or --key ID:key:TEXT; ID is a device such as /dev/sda2, a UUID, or all"


@dataclass(frozen=True)
class DiskKey:
    """A key, and the device that it opens."""

    identity: str
    """A device, the UUID of a LUKS container, or ``all``."""
    secret: str = field(repr=False)
    """The passphrase; it is not part of the object's text."""

    def fits(self, device: str, uuid: str) -> bool:
        """Return whether it is for a container.

        Args:
            device: The container's device in the appliance, such as ``/dev/sda2`` or ``/dev/GROUP/VOLUME``;
                other names of the same disk and partition, such as ``/dev/vda2``, match as well.
            uuid: The container's UUID.
        """
        if self.identity in {ALL, device}:
            return True
        if self.identity.startswith("/dev/"):
            return same_device(self.identity, device)
        return self.identity.replace("-", "").lower() == uuid.replace("-", "").lower()


def parse_key(text: str) -> DiskKey:
    """Parse a key selector in libguestfs's syntax; a key file is read at once, to report errors early.

    It is ``ID:key:TEXT``, or ``ID:file:FILE`` with the key in its first line; both may have colons.
    """
    identity, _, rest = text.partition(":")
    kind, colon, value = rest.partition(":")
    if identity and kind == "clevis" and not colon:
        raise UsageError("keys from a network (clevis) are not supported", hint=_SYNTAX)
    if not identity or kind not in {"key", "file"} or not value:
        raise UsageError("invalid value of --key", hint=_SYNTAX)
    secret = value if kind == "key" else _first_line(Path(value))
    if not secret or "\0" in secret:
        where = f"the file {value}" if kind == "file" else f"--key {identity}:key:"
        raise UsageError(f"{where} has no usable key", hint="the first line must be the key, without a NUL")
    return DiskKey(identity, secret)


def _first_line(path: Path) -> str:
    try:
        with open_given(path) as file:
            line = file.readline(_LARGEST)
        return line.rstrip(b"\n").decode()
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read: {error.strerror}", hint=_SYNTAX) from error
    except ValueError as error:
        raise UsageError(f"the key file {path} is not text", hint="a key is one line of UTF-8") from error
