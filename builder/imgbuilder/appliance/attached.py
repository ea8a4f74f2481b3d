"""Keeping disks that are only attached out of the appliance's sight.

An attached disk may be a sibling of the guest's own: then it has the same UUIDs, labels and volume
groups, and nothing that looks for these could tell the two apart, libguestfs and the appliance's
kernel least of all. So the kernel forgets attached disks as soon as the appliance runs, and finds
them again when the guest is mounted and its commands begin.
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
"""They may have been made of an attached disk's parts when the appliance started."""
_LAYERS_UP = """
if command -v btrfs >/dev/null; then btrfs device scan --forget >/dev/null 2>&1; fi
if command -v mdadm >/dev/null; then mdadm -As --auto=yes --run >/dev/null 2>&1; fi
lvm pvscan --cache >/dev/null 2>&1
lvm vgchange -aay >/dev/null 2>&1
if command -v ldmtool >/dev/null; then ldmtool create all >/dev/null 2>&1; fi
"""
_PLACE = re.compile(r"place ([0-9]{1,9}) ([0-9]{1,9}) ([0-9]{1,9}) ([0-9]{1,9}) (sd[a-z]{1,3})")


@dataclass(frozen=True)
class Place:
    """Where the appliance's kernel has a disk.

    Attributes:
        host: Number of the SCSI host.
        address: Channel, target and unit there.
        name: The kernel's name of it.
    """

    host: str
    address: str
    name: str


def hide_script(positions: Sequence[int]) -> str:
    """Return the script that makes the appliance's kernel forget disks, and says where they were.

    Args:
        positions: Their places among the appliance's disks, from 0: the numbers of the SCSI targets.
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


def show_script(places: Sequence[Place]) -> str:
    """Return the script that makes the kernel find disks again, under the names that they had."""
    # One after the other, by name: the kernel gives the first name that is free.
    ordered = sorted(places, key=lambda place: (len(place.name), place.name))
    steps = [
        f"""echo '{place.address}' >/sys/class/scsi_host/host{place.host}/scan
udevadm settle
[ -d '/sys/bus/scsi/devices/{place.host}:{place.address.replace(" ", ":")}/block/{place.name}' ]"""
        for place in ordered
    ]
    return "\n".join(["set -e", *steps, "set +e", _LAYERS_UP, "udevadm settle", "true"])


def read_places(text: str, number: int) -> list[Place]:
    """Read what the script said that hides disks.

    Raises:
        GuestError: It did not find as many.
    """
    found = [_PLACE.fullmatch(line) for line in text.splitlines()]
    places = [Place(line[1], f"{line[2]} {line[3]} {line[4]}", line[5]) for line in found if line is not None]
    if len(places) != number or len(found) != number:
        raise GuestError(f"the appliance said {text[:200]!r}")
    return places
