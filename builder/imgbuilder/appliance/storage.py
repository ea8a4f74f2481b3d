"""Disks, filesystems, volumes and inspection in the appliance, where attached disks hide until needed.

An attached disk may be a copy of the guest's disk, with the same UUIDs, labels and volume groups. libguestfs
and the appliance's kernel would confuse the two. So the kernel forgets attached disks as soon as the
appliance runs, and finds them again when the guest is mounted and its commands begin.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imgbuilder.appliance.connection import LONG, Calls
from imgbuilder.errors import GuestCallError, GuestError
from imgbuilder.guests.ports import FilesystemUse, ProbedDevice

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


_AWAIT = """
await() {
  condition=$1
  number=0
  until eval "$condition"; do
    number=$((number + 1))
    if [ $number -gt 6000 ]; then echo "still not so after a minute: $*" >&2; exit 1; fi
    sleep 0.01
  done
}
"""
"""A shell function that awaits a condition: a busy host makes the kernel slow, or its clock fast."""


def hide_script(positions: Sequence[int]) -> str:
    """Return the script that makes the appliance's kernel forget disks and prints their addresses.

    Args:
        positions: Their positions among the appliance's disks, from 0: the numbers of the SCSI targets.
    """
    steps = [
        f"""await 'set -- /sys/bus/scsi/devices/*:0:{number}:0/block/sd*; [ $# = 1 ] && [ -d "$1" ]'
set -- /sys/bus/scsi/devices/*:0:{number}:0/block/sd*
path=${{1%/block/*}}
echo "place $(basename "$path" | tr : ' ') ${{1##*/}}"
echo 1 >$path/delete"""
        for number in positions
    ]
    gone = [f"await 'set -- /sys/bus/scsi/devices/*:0:{number}:0; [ ! -e \"$1\" ]'" for number in positions]
    return "\n".join(
        [_LAYERS_DOWN, _AWAIT, "set -e", *steps, *gone, "set +e", _LAYERS_UP, "udevadm settle", "true"]
    )


def show_script(places: Sequence[ScsiAddress]) -> str:
    """Return the script that makes the kernel find disks again, under the same names."""
    # One by one in the order of names: the kernel assigns the first free name. It makes the device some time
    # after the scan, and the node in /dev last. A name is free some time after its last user has gone; a disk
    # that came back too early, under another name, goes again.
    ordered = sorted(places, key=lambda place: (len(place.name), place.name))
    steps = [
        f"""device=/sys/bus/scsi/devices/{place.host}:{place.address.replace(" ", ":")}
back() {{
  if [ -d $device/block/{place.name} ]; then [ -b /dev/{place.name} ]; return; fi
  if [ ! -e $device ]; then echo '{place.address}' >/sys/class/scsi_host/host{place.host}/scan; fi
  set -- $device/block/sd*
  if [ -d "$1" ] && [ ! -d $device/block/{place.name} ]; then echo 1 >$device/delete; fi
  false
}}
await back $device {place.name}
"""
        for place in ordered
    ]
    up = ["set +e", "udevadm settle", _LAYERS_UP, "udevadm settle", "true"]
    return "\n".join([_AWAIT, "set -e", *steps, *up])


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


_HOLDERS = {"LVM2_member", "crypto_LUKS", "linux_raid_member"}
"""Types of devices that hold other devices."""
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)


def _plain(value: object) -> str:
    """Undo blkid(8)'s escapes of special characters."""
    text = str(value).encode(errors="replace")
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]) if found[1] else found[2], text).decode(
        errors="replace"
    )


def _lvm_form(identity: object) -> str:
    """Return a UUID of LVM as lvm(8) shows it; the binding leaves out the hyphens."""
    text = str(identity).replace("-", "")
    ends = (6, 10, 14, 18, 22, 26, 32)
    return "-".join(text[start:end] for start, end in itertools.pairwise((0, *ends)))


class Storage(Calls):
    """The part of the port about disks, over libguestfs calls."""

    def device_size(self, device: str) -> int:
        return int(self._call("blockdev_getsize64", device))

    def disks(self) -> list[str]:
        return list(self._call("list_devices"))

    def partitions(self) -> list[str]:
        return list(self._call("list_partitions"))

    def filesystems(self) -> dict[str, str]:
        return dict(self._call("list_filesystems"))

    def filesystem_type(self, device: str) -> str:
        return str(self._call("vfs_type", device))

    def filesystem_uuid(self, device: str) -> str:
        return str(self._call("vfs_uuid", device))

    def set_filesystem_uuid(self, device: str, new: str) -> None:
        if self.filesystem_type(device).startswith("ext"):
            self.check_ext(device)  # tune2fs(8) refuses one that was mounted since its last check
        self._call("set_uuid", device, new, limit=LONG)

    def block_devices(self) -> list[ProbedDevice]:
        partitions = self.partitions()
        with_partitions = {name.rstrip(string.digits) for name in partitions}
        whole = [disk for disk in self.disks() if disk not in with_partitions]
        found = [self._identify(name) for name in [*whole, *partitions]]
        if _HOLDERS.intersection(device.kind for device in found):
            known = {device.name for device in found}
            arrays = [str(name) for name in self._call("list_md_devices")]
            volumes = [*self.volumes(), *map(str, self._call("list_dm_devices"))]
            found += [self._identify(name, is_array=True) for name in arrays]
            found += [self._identify(name) for name in volumes if name not in known]
        return found

    def _identify(self, device: str, *, is_array: bool = False) -> ProbedDevice:
        array: dict[str, str] = {}
        try:
            facts = {key: _plain(value) for key, value in dict(self._call("blkid", device)).items()}
            if is_array:
                array = dict(self._call("md_detail", device))
        except GuestCallError:  # such as contradicting signatures
            facts = {}
        return ProbedDevice(
            device,
            kind=facts.get("TYPE", ""),
            uuid=facts.get("UUID", ""),
            member=facts.get("UUID_SUB", ""),
            label=facts.get("LABEL", ""),
            partuuid=facts.get("PART_ENTRY_UUID", ""),
            partlabel=facts.get("PART_ENTRY_NAME", ""),
            array=array.get("name", ""),
            array_uuid=array.get("uuid", ""),
        )

    def make_gpt(self, device: str, partitions: Sequence[tuple[int, int, str]]) -> None:
        self._call("part_init", device, "gpt")
        for number, (first, last, kind) in enumerate(partitions, start=1):
            self._call("part_add", device, "p", first, last)
            self._call("part_set_gpt_type", device, number, kind)

    def make_filesystem(self, kind: str, device: str, *, label: str | None = None) -> None:
        self._call("mkfs", kind, device, limit=LONG)
        if label is not None:
            # Not the label of mkfs: that name is the progress label here.
            self._call("set_label", device, label)

    def mount(self, device: str, path: str, *, options: str = "") -> None:
        self._call("mount_options", options, device, path)

    def unmount_all(self) -> None:
        try:
            self._call("umount_all", limit=LONG)
        except GuestCallError:
            # A daemon that a command left may keep a filesystem busy.
            self._call("debug", "sh", ["fuser -k -m /sysroot >/dev/null 2>&1; sleep 1; echo"], limit=120.0)
            self._call("umount_all", limit=LONG)

    def check_ext(self, device: str) -> None:
        self._call("e2fsck", device, correct=True, limit=LONG)

    def grow_ext(self, device: str) -> None:
        self._call("resize2fs", device, limit=LONG)

    def grow_xfs(self, path: str) -> None:
        self._call("xfs_growfs", path, datasec=True, limit=LONG)

    def grow_btrfs(self, path: str) -> None:
        self._call("btrfs_filesystem_resize", path, limit=LONG)

    def grow_f2fs(self, device: str) -> None:
        self._call("f2fs_expand", device, limit=LONG)

    def grow_ntfs(self, device: str) -> None:
        self._call("ntfsresize", device, limit=LONG)

    def grow_swap(self, device: str) -> None:
        label, identity = str(self._call("vfs_label", device)), str(self._call("vfs_uuid", device))
        options: dict[str, Any] = {"uuid": identity} if identity else {}
        self._call("mkswap", device, **options)
        if label:
            self._call("set_label", device, label)  # libguestfs's mkswap ignores its label

    def grow_physical_volume(self, device: str) -> None:
        self._call("pvresize", device, limit=LONG)

    def make_volume(self, device: str, group: str, name: str) -> str:
        self._call("pvcreate", device)
        self._call("vgcreate", group, [device])
        self._call("lvcreate_free", name, group, 100)
        return f"/dev/{group}/{name}"

    def grow_volume(self, volume: str) -> None:
        try:
            self._call("lvresize_free", volume, 100, limit=LONG)
        except GuestCallError as error:
            if "matches existing size" not in error.message:
                raise

    def canonical_volume(self, device: str) -> str:
        return str(self._call("lvm_canonical_lv_name", device))

    def volume_uses(self, volume: str, device: str) -> bool:
        group = volume.split("/")[2]
        # The two calls write UUIDs with and without hyphens.
        used = {str(item).replace("-", "") for item in self._call("vgpvuuids", group)}
        return str(self._call("pvuuid", device)).replace("-", "") in used

    def volumes(self) -> list[str]:
        return list(self._call("lvs"))

    def lvm_uuids(self) -> dict[str, str]:
        groups = {str(item["vg_name"]): item["vg_uuid"] for item in self._call("vgs_full")}
        physical = {str(item["pv_name"]): item["pv_uuid"] for item in self._call("pvs_full")}
        return {name: _lvm_form(identity) for name, identity in (groups | physical).items()}

    def renew_lvm_uuids(self) -> None:
        self._call("vg_activate_all", False)  # noqa: FBT003 - libguestfs's signature
        try:
            self._call("pvchange_uuid_all")
            self._call("vgchange_uuid_all")
        finally:
            self._call("vg_activate_all", True)  # noqa: FBT003

    def luks_uuid(self, device: str) -> str:
        return str(self._call("luks_uuid", device))

    def open_luks(self, device: str, key: str, name: str) -> None:
        # The key goes to cryptsetup in a file inside the appliance; libguestfs hides it in its traces.
        self._call("cryptsetup_open", device, key, name, limit=LONG)

    def scan_volumes(self) -> None:
        self._call("lvm_scan", True)  # noqa: FBT003 - libguestfs's signature

    def mounted(self) -> dict[str, str]:
        return dict(self._call("mountpoints"))

    def trim(self, path: str) -> None:
        self._call("fstrim", path, limit=LONG)

    def inspect_roots(self) -> list[str]:
        return list(self._call("inspect_os", limit=LONG))

    def inspect_facts(self, root: str) -> dict[str, str]:
        names = ("type", "arch", "distro", "osinfo", "product_name", "package_management")
        return {name: str(self._call(f"inspect_get_{name}", root)) for name in names}

    def inspect_mountpoints(self, root: str) -> dict[str, str]:
        found = dict(self._call("inspect_get_mountpoints", root))
        return {path: found[path] for path in sorted(found, key=len)}

    def default_subvolume(self, device: str) -> str:
        wanted = int(self._call("btrfs_subvolume_get_default", device))
        found = self._call("btrfs_subvolume_list", device)
        return next(
            (str(item["btrfssubvolume_path"]) for item in found if int(item["btrfssubvolume_id"]) == wanted),
            "",
        )

    def is_read_only(self, path: str) -> bool:
        return bool(self._call("statvfs", path)["flag"] & os.ST_RDONLY)

    def filesystem_use(self) -> list[FilesystemUse]:
        uses = []
        for path in self._call("mountpoints").values():
            facts = self._call("statvfs", path)
            size = facts["bsize"]
            uses.append(FilesystemUse(facts["blocks"] * size, facts["bfree"] * size, path))
        return uses

    def lost_writes(self) -> str | None:
        return lost_writes(str(self._call("dmesg")))

    def resolves(self, host: str) -> bool:
        question = f"getent ahosts {shlex.quote(host)} >/dev/null && echo yes || echo no"
        return str(self._call("debug", "sh", [question], limit=120.0)).strip() == "yes"


# A program in the guest sees a lost write only if it calls fsync, and most do not. Without the kernel's
# messages, a build on a full or broken disk could succeed.
_LOST = re.compile(
    r"(?:I/O|space allocation) error, dev \w+, sector \d+(?! op 0x[0-9a-f]+:\((?!WRITE\)))"
    r"|Buffer I/O error on dev [^,]+, logical block \d+, lost (?:async|sync) page write"
    r"|EXT4-fs (?:error|\([^)]*\): failed to convert|warning .*: I/O error \d+ writing)"
    r"|JBD2: (?:Error -?\d+ detected|Detected IO errors)"
    r"|XFS \([^)]*\): (?:metadata|log) I/O error"
    r"|BTRFS (?:error|critical)[^:]*: (?:bdev|error while writing)"
)


def lost_writes(messages: str) -> str | None:
    """Return the first message about a write that was lost; None without one."""
    for line in messages.split("\n"):
        if _LOST.search(line):
            return line.strip()
    return None
