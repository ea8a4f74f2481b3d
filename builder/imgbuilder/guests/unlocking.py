"""Opening the encrypted parts of a guest's disk with the user's keys, before anything is looked for on it."""

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
    """Open the LUKS containers of the guest that keys are given for.

    Without keys the appliance is asked nothing.

    Args:
        appliance: A launched appliance with nothing mounted.
        keys: The user's keys, tried in their order.
        on_event: Reports what was opened, and of keys without a container. Never of a key itself.

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


# Keys of encrypted disks, as ``--key`` gives them (libguestfs's syntax, ``virt-builder.md`` 0.1).


ALL = "all"
_LARGEST = 1 << 20
_SYNTAX = "write --key ID:file:FILE or --key ID:key:TEXT; ID is a device such as /dev/sda2, a UUID, or all"


@dataclass(frozen=True)
class DiskKey:
    """A key, and what it opens.

    Attributes:
        identity: A device, the UUID of a LUKS container, or ``all``.
        secret: The passphrase; it never shows when the object is printed.
    """

    identity: str
    secret: str = field(repr=False)

    def fits(self, device: str, uuid: str) -> bool:
        """Tell whether it is meant for a container.

        Args:
            device: Its device in the appliance, such as ``/dev/sda2`` or ``/dev/GROUP/VOLUME``; names of
                another kind mean the same disk and partition, or volume.
            uuid: Its UUID.
        """
        if self.identity in {ALL, device}:
            return True
        if self.identity.startswith("/dev/"):
            return same_device(self.identity, device)
        return self.identity.replace("-", "").lower() == uuid.replace("-", "").lower()


def parse_key(text: str) -> DiskKey:
    """Read a key selector; a key file is read at once, so that what is wrong with it shows early.

    Args:
        text: ``ID:key:TEXT``, or ``ID:file:FILE``, whose first line is the key. Both may have colons.

    Raises:
        UsageError: It is none, or its file cannot be read. The message never quotes a key.
    """
    identity, _, rest = text.partition(":")
    kind, colon, value = rest.partition(":")
    if identity and kind == "clevis" and not colon:
        raise UsageError("keys from a network (clevis) are not supported", hint=_SYNTAX)
    if not identity or kind not in {"key", "file"} or not value:
        raise UsageError("a --key is not understood", hint=_SYNTAX)
    secret = value if kind == "key" else _first_line(Path(value))
    if not secret or "\0" in secret:
        where = f"the file {value}" if kind == "file" else f"--key {identity}:key:"
        raise UsageError(f"{where} holds no key that can be used", hint="its first line is the key")
    return DiskKey(identity, secret)


def _first_line(path: Path) -> str:
    try:
        with open_given(path) as file:
            line = file.readline(_LARGEST)
        return line.rstrip(b"\n").decode()
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read: {error.strerror}", hint=_SYNTAX) from error
    except ValueError as error:
        raise UsageError(f"the key file {path} holds no text", hint="a key is one line of UTF-8") from error
