"""Copies the kernel and initrd out of a disk image, as virt-get-kernel does.

One difference: virt-get-kernel picks the highest kernel and the highest initrd
independently, so it may copy the initrd of another kernel, such as kdump's.
Here the initrd is that of the kernel, if it has one.
"""

from __future__ import annotations

import posixpath
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.building.preflight import check_disk
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import GuestError, UsageError
from imgbuilder.events import Reporter, debug
from imgbuilder.growth import session
from imgbuilder.guests.ports import Guest
from imgbuilder.guests.unlocking import DiskKey
from imgbuilder.host import workspace
from imgbuilder.services import Services

_KERNELS = ("/boot/vmlinuz-*", "/boot/vmlinux-*")
_INITRDS = ("/boot/initramfs-*", "/boot/initrd-*", "/boot/initrd.img-*")
_LARGEST = 1 << 30
"""Bytes of a kernel or an initrd; those of distributions have up to 0.2 GiB."""
_PIECES = re.compile(r"[0-9]+|[A-Za-z]+|[^0-9A-Za-z]")


@dataclass(frozen=True)
class KernelRequest:
    """The image whose kernel to copy, and the destination.

    Attributes:
        image: The disk image.
        folder: The destination; existing files are replaced.
        appliance: Options of the appliance.
        keys: Keys of encrypted devices.
        unversioned: Whether to cut the files' names before the first dash.
        prefix: Put before their names, with a dash; None for nothing.
    """

    image: Attachment
    folder: Path
    appliance: ApplianceOptions = field(default_factory=ApplianceOptions)
    keys: tuple[DiskKey, ...] = ()
    unversioned: bool = False
    prefix: str | None = None

    def target(self, source: str) -> Path:
        """Return the destination of a file of the guest."""
        name = posixpath.basename(source)
        if self.unversioned:
            name = name.partition("-")[0]
        return self.folder / (name if self.prefix is None else f"{self.prefix}-{name}")


def get_kernel(request: KernelRequest, services: Services, on_event: Reporter) -> dict[str, Path]:
    """Copy the newest kernel of an image, and its initrd if there is one.

    Returns:
        The written file for each file of the guest.
    """
    if not request.folder.is_dir():
        raise UsageError(
            f"the output folder {request.folder} does not exist",
            hint=f"create it first: mkdir -p {request.folder}",
        )
    if "/" in (request.prefix or ""):
        raise UsageError(f"the prefix {request.prefix!r} has a slash", hint="choose the folder with -o")
    disk = check_disk(replace(request.image, readonly=True))
    options = services.settings.appliance_options(request.appliance, network=False)
    written = {}
    debug(on_event, f"opening {disk.path}")
    with services.open_appliance([disk], options, on_event) as appliance:
        session.open_guest(
            appliance,
            expand=None,
            lvexpand=None,
            growth=None,
            keys=request.keys,
            on_event=on_event,
            role=Role.OWN,
        )
        for source in choose_files(appliance):
            target = request.target(source)
            with workspace.new_file(target) as file:
                appliance.download(source, file, limit=_LARGEST)
            written[source] = target
        appliance.unmount_all()
        appliance.shutdown()
    return written


def choose_files(guest: Guest) -> tuple[str, ...]:
    """Return the paths of the newest kernel and its initrd."""
    kernels = _files(guest, _KERNELS)
    if not kernels:
        raise GuestError(
            "no kernel was found in the image",
            hint="it must be a file /boot/vmlinuz-VERSION or /boot/vmlinux-VERSION",
        )
    kernel = max(kernels, key=version_key)
    initrd = matching_initrd(kernel, _files(guest, _INITRDS))
    return (kernel,) if initrd is None else (kernel, initrd)


def _files(guest: Guest, patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        found = [path for path in guest.glob(pattern) if guest.is_file(path)]
        if found:
            return found
    return []


def matching_initrd(kernel: str, initrds: Sequence[str]) -> str | None:
    """Return the initrd of a kernel, or else that of the highest version; None if there is none."""
    version = posixpath.basename(kernel).partition("-")[2]
    for path in initrds:
        rest = posixpath.basename(path).partition("-")[2]
        if rest in {version, f"{version}.img"}:
            return path
    return max(initrds, key=version_key, default=None)


def version_key(path: str) -> tuple[tuple[int, int, str], ...]:
    """Return virt-get-kernel's sort key: runs of digits as numbers, runs of letters, other characters."""
    return tuple(
        (1, int(piece), "") if piece[0] in string.digits else (0, 0, piece) for piece in _PIECES.findall(path)
    )
