"""Hides attached disks in the appliance until the guest is mounted.

An attached disk may be a copy of the guest's disk, with the same UUIDs, labels and
volume groups. libguestfs and the appliance's kernel would confuse the two. So the kernel
forgets attached disks as soon as the appliance runs, and finds them again when the guest
is mounted and its commands begin.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from imgbuilder.errors import GuestError

_LAYERS_DOWN = """
lvm vgchange -an >/dev/null 2>&1
if command -v mdadm >/dev/null; then mdadm --stop --scan >/dev/null 2>&1; fi
if command -v ldmtool >/dev/null; then ldmtool remove all >/dev/null 2>&1; fi
"""
"""The appliance may have assembled them from attached disks when it started."""
_LAYERS_UP = """
if command -v btrfs >/dev/null; then btrfs device scan --forget >/dev/null 2>&1; fi
if command -v mdadm >/dev/null; then mdadm -As --auto=yes --run >/dev/null 2>&1; fi
lvm pvscan --cache >/dev/null 2>&1
lvm vgchange -aay >/dev/null 2>&1
if command -v ldmtool >/dev/null; then ldmtool create all >/dev/null 2>&1; fi
"""
_PLACE = re.compile(r"place ([0-9]{1,9}) ([0-9]{1,9}) ([0-9]{1,9}) ([0-9]{1,9}) (sd[a-z]{1,3})")


@dataclass(frozen=True)
class ScsiAddress:
    """The address and name of a disk in the appliance's kernel.

    Attributes:
        host: Number of the SCSI host.
        address: Channel, target and unit there.
        name: The kernel's name for it.
    """

    host: str
    address: str
    name: str


def hide_script(positions: Sequence[int]) -> str:
    """Return the script that makes the appliance's kernel forget disks and prints their addresses.

    Args:
        positions: Their positions among the appliance's disks, from 0: the numbers of the SCSI targets.
    """
    numbers = " ".join(map(str, positions))
    return f"""{_LAYERS_DOWN}
set -e
for number in {numbers}; do
  set -- /sys/bus/scsi/devices/*:0:$number:0/block/sd*
  [ $# = 1 ]
  [ -d "$1" ]
  path=${{1%/block/*}}
  echo "place $(basename "$path" | tr : ' ') ${{1##*/}}"
  echo 1 >"$path/delete"
done
udevadm settle
for number in {numbers}; do
  for path in /sys/bus/scsi/devices/*:0:$number:0; do [ ! -e "$path" ]; done
done
set +e
{_LAYERS_UP}
udevadm settle
true
"""


def show_script(places: Sequence[ScsiAddress]) -> str:
    """Return the script that makes the kernel find disks again, under the same names."""
    # One by one in the order of names: the kernel assigns the first free name.
    ordered = sorted(places, key=lambda place: (len(place.name), place.name))
    steps = [
        f"""echo '{place.address}' >/sys/class/scsi_host/host{place.host}/scan
udevadm settle
[ -d '/sys/bus/scsi/devices/{place.host}:{place.address.replace(" ", ":")}/block/{place.name}' ]"""
        for place in ordered
    ]
    return "\n".join(["set -e", *steps, "set +e", _LAYERS_UP, "udevadm settle", "true"])


def read_places(text: str, number: int) -> list[ScsiAddress]:
    """Read the addresses that the hiding script printed.

    Raises:
        GuestError: It did not find that number of disks.
    """
    found = [_PLACE.fullmatch(line) for line in text.splitlines()]
    places = [
        ScsiAddress(line[1], f"{line[2]} {line[3]} {line[4]}", line[5]) for line in found if line is not None
    ]
    if len(places) != number or len(found) != number:
        raise GuestError(f"unexpected answer of the appliance: {text[:200]!r}")
    return places
