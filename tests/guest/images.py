"""Disk images read on the host: quicker than with an appliance, and by another program."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgbuilder.appliance.hostside.connection import HostsideConnection
from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.disk.diskimage import DiskFormat, convert
from imgbuilder.events import ignore
from imgbuilder.guests.ports import Appliance
from imgbuilder.host.privatefolder import private_folder, scratch_folder
from tests.guest.machine import TEMPLATE_ROOT


@contextmanager
def look_into(image: Path, image_format: str = "raw", root: str = TEMPLATE_ROOT) -> Iterator[Appliance]:
    """Mount an ext4 filesystem of an image, read-only."""
    with private_folder() as runtime, scratch_folder() as scratch:
        disk = image
        if image_format != "raw":
            disk = scratch / "disk"
            convert(image, DiskFormat(image_format), disk, DiskFormat.RAW)
        with disk.open("rb") as file:
            connection = HostsideConnection(file, disk, runtime, ignore, clock=lambda: 0, entropy=bytes)
            try:
                guest = LibguestfsAppliance(connection, scratch)
                guest.mount(root, "/", options="ro")
                yield guest
            finally:
                connection.close()


def copy(image: Path, target: Path) -> Path:
    """Copy an image with its holes."""
    subprocess.run(["cp", "--sparse=always", image, target], check=True)
    return target


def same_bytes(left: Path, right: Path) -> bool:
    """Compare two files; what is a hole in both is not read."""
    if left.stat().st_size != right.stat().st_size:
        return False
    done = subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", left, right], capture_output=True)
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode == 0
