"""An appliance in memory: disks with filesystems, each of which is a ``FakeGuest``'s tree.

``FakeAppliances`` is an ``open_appliance`` for tests. It finds out what is on a
disk by the name of the image file, and records which disks each launch had.
"""

from __future__ import annotations

import contextlib
import errno
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.disk.devicenames import appliance_disk
from imgbuilder.errors import GuestCallError
from imgbuilder.events import Reporter
from imgbuilder.guests.ports import FilesystemUse, ProbedDevice
from tests.fakes.guest import FakeGuest

WINDOWS = {
    "systemroot": "/Windows", "system_hive": "/Windows/System32/config/SYSTEM",
    "software_hive": "/Windows/System32/config/SOFTWARE", "current_control_set": "ControlSet001",
    "major": "10", "minor": "0", "drive": "C",
}  # fmt: skip
"""The facts of inspection about a Windows."""


@dataclass
class FakeFilesystem:
    """Content of a partition.

    Attributes:
        kind: Such as ``ext4`` or ``swap``.
        guest: Its files.
        uuid: Its UUID.
        inside: What a LUKS container holds.
        label: Its label.
        member: Its UUID among several that share one.
        subvolume: The one that is mounted by default.
        array: An array's own name.
        array_uuid: An array's UUID.
        probe: The answer of ntfs-3g.probe.
    """

    kind: str = "ext4"
    guest: FakeGuest = field(default_factory=FakeGuest)
    uuid: str = "11111111-2222-3333-4444-555555555555"
    inside: FakeFilesystem | None = None
    label: str = ""
    member: str = ""
    subvolume: str = ""
    array: str = ""
    array_uuid: str = ""
    probe: int = 0


@dataclass
class FakeDisk:
    """A disk.

    Attributes:
        filesystems: By number of the partition; 0 is the whole disk.
        roots: What inspection finds: its facts by the device's name, such as ``/dev/sda1``.
        size: Bytes.
        others: What has another name, such as ``/dev/vg/root``.
        guids: GUIDs of partitions.
        names: Names of partitions.
        volumes: Logical volumes, and the physical volume of each.
        lvm: UUIDs of physical volumes and volume groups.
    """

    filesystems: dict[int, FakeFilesystem] = field(default_factory=dict)
    roots: dict[str, dict[str, str]] = field(default_factory=dict)
    size: int = 1 << 30
    others: dict[str, FakeFilesystem] = field(default_factory=dict)
    guids: dict[int, str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    lvm: dict[str, str] = field(default_factory=dict)


class FakeAppliance(FakeGuest):
    """An in-memory ``Appliance``; ``log`` records actions on disks, in order.

    ``fails`` has the actions that fail once, with their messages; ``secrets`` are the keys of LUKS
    containers by device. Opening one adds the device in ``FakeDisk.inside``.
    """

    def __init__(self, disks: Sequence[FakeDisk], attached: Sequence[int] = ()) -> None:
        super().__init__()
        self._attached = frozenset(appliance_disk(place) for place in attached)
        self._hidden = self._attached
        self.log: list[tuple[str, str]] = []
        self.tables: dict[str, tuple[tuple[int, int, str], ...]] = {}
        self.is_up = True
        self.lost: str | None = None
        self.uses = [FilesystemUse(1 << 30, 1 << 29)]
        self.fails: dict[tuple[str, str], str] = {}
        self.missing: set[str] = set()
        self.secrets: dict[str, str] = {}
        self._mounted: dict[str, str] = {}
        self._empty = self.root
        self._disks = {appliance_disk(place): disk for place, disk in enumerate(disks)}

    def _seen(self) -> dict[str, FakeDisk]:
        """The disks that are not hidden."""
        return {name: disk for name, disk in self._disks.items() if name not in self._hidden}

    def supports(self, *features: str) -> bool:
        return not self.missing.intersection(features)

    def device_size(self, device: str) -> int:
        return self._disks[device].size

    def disks(self) -> list[str]:
        return list(self._seen())

    def partitions(self) -> list[str]:
        return [device for device in self._all() if device[-1].isdigit()]

    def filesystems(self) -> dict[str, str]:
        hidden = {"crypto_LUKS", "LVM2_member"}  # libguestfs does not list what only holds others
        return {name: item.kind for name, item in self._all().items() if item.kind not in hidden}

    def filesystem_type(self, device: str) -> str:
        return self._filesystem(device).kind

    def filesystem_uuid(self, device: str) -> str:
        return self._filesystem(device).uuid

    def set_filesystem_uuid(self, device: str, new: str) -> None:
        assert not self._mounted
        self._do("set_filesystem_uuid", device)
        self._filesystem(device).uuid = new

    def block_devices(self) -> list[ProbedDevice]:
        parts = {
            f"{name}{number}": (disk.guids.get(number, ""), disk.names.get(number, ""))
            for name, disk in self._seen().items()
            for number in disk.filesystems
        }
        return [
            ProbedDevice(
                name, item.kind, item.uuid, item.member, item.label, *parts.get(name, ("", "")),
                array=item.array, array_uuid=item.array_uuid,
            )
            for name, item in self._all().items()
        ]  # fmt: skip

    def default_subvolume(self, device: str) -> str:
        return self._filesystem(device).subvolume

    def show_attached(self) -> None:
        if self._attached:
            self.log.append(("show_attached", ""))
            self._hidden = frozenset()

    def hide_attached(self) -> None:
        assert not self._mounted
        self._hidden = self._attached

    def make_gpt(self, device: str, partitions: Sequence[tuple[int, int, str]]) -> None:
        self.log.append(("make_gpt", device))
        self.tables[device] = tuple(partitions)
        self._disks[device].filesystems = {
            number: FakeFilesystem("unknown") for number, _part in enumerate(partitions, start=1)
        }

    def make_filesystem(self, kind: str, device: str, *, label: str | None = None) -> None:
        self.log.append(("make_filesystem", device))
        filesystem = self._filesystem(device)
        filesystem.kind, filesystem.guest = kind, FakeGuest()

    def mount(self, device: str, path: str, *, options: str = "") -> None:
        self.log.append(("mount", device))
        filesystem = self._filesystem(device)
        if filesystem.kind in {"swap", "unknown"}:
            raise GuestCallError(f"mount: {device}: wrong fs type", errno_name="EINVAL")
        if path == "/":
            self.root = filesystem.guest.root
            self.hives = filesystem.guest.hives
        self._mounted[device] = path

    def unmount_all(self) -> None:
        self.log.append(("unmount_all", ""))
        self.root = self._empty
        self._mounted = {}

    def check_ext(self, device: str) -> None:
        self._do("check_ext", device)

    def grow_ext(self, device: str) -> None:
        self._do("grow_ext", device)

    def grow_xfs(self, path: str) -> None:
        self._do("grow_xfs", path)

    def grow_btrfs(self, path: str) -> None:
        self._do("grow_btrfs", path)

    def grow_f2fs(self, device: str) -> None:
        self._do("grow_f2fs", device)

    def grow_ntfs(self, device: str) -> None:
        self._do("grow_ntfs", device)

    def grow_swap(self, device: str) -> None:
        self._do("grow_swap", device)

    def grow_physical_volume(self, device: str) -> None:
        self._do("grow_physical_volume", device)

    def grow_volume(self, volume: str) -> None:
        self._do("grow_volume", volume)

    def make_volume(self, device: str, group: str, name: str) -> str:
        self.log.append(("make_volume", device))
        disk = self._disks[device.rstrip(string.digits)]
        volume = f"/dev/{group}/{name}"
        self._filesystem(device).kind = "LVM2_member"
        disk.others[volume] = FakeFilesystem("unknown")
        disk.volumes[volume] = device
        return volume

    def canonical_volume(self, device: str) -> str:
        for name in self._volumes():
            group, volume = name.split("/")[2:]
            if device in {name, f"/dev/mapper/{group}-{volume}"}:
                return name
        raise _missing(device)

    def volume_uses(self, volume: str, device: str) -> bool:
        return self._volumes().get(volume) == device

    def volumes(self) -> list[str]:
        return list(self._volumes())

    def lvm_uuids(self) -> dict[str, str]:
        return {name: item for disk in self._seen().values() for name, item in disk.lvm.items()}

    def renew_lvm_uuids(self) -> None:
        assert not self._mounted
        self._do("renew_lvm_uuids", "")
        for disk in self._seen().values():
            disk.lvm = {name: item[::-1] for name, item in disk.lvm.items()}

    def luks_uuid(self, device: str) -> str:
        return self._filesystem(device).uuid

    def open_luks(self, device: str, key: str, name: str) -> None:
        self.log.append(("open_luks", device))
        if self.secrets.get(device) != key:
            raise GuestCallError("cryptsetup_open: No key available with this passphrase.")
        inside = self._filesystem(device).inside
        assert inside is not None
        next(iter(self._disks.values())).others[f"/dev/mapper/{name}"] = inside

    def scan_volumes(self) -> None:
        self.log.append(("scan_volumes", ""))

    def mounted(self) -> dict[str, str]:
        self.log.append(("mounted", ""))
        return dict(self._mounted)

    def _do(self, action: str, target: str) -> None:
        self.log.append((action, target))
        if (action, target) in self.fails:
            raise GuestCallError(self.fails.pop((action, target)))

    def _volumes(self) -> dict[str, str]:
        return {name: place for disk in self._seen().values() for name, place in disk.volumes.items()}

    def trim(self, path: str) -> None:
        self.log.append(("trim", path))

    def tar_in(self, local: Path, directory: str, *, compress: str | None = None) -> None:
        self.log.append(("tar_in", directory))
        super().tar_in(local, directory, compress=compress)

    def inspect_roots(self) -> list[str]:
        return [root for disk in self._seen().values() for root in disk.roots]

    def inspect_facts(self, root: str) -> dict[str, str]:
        return {"type": "linux"} | next(
            disk.roots[root] for disk in self._seen().values() if root in disk.roots
        )

    def inspect_windows(self, root: str) -> dict[str, str]:
        facts = self.inspect_facts(root)
        if facts["type"] != "windows":
            raise GuestCallError("inspect_get_windows_systemroot: not a Windows guest")
        return WINDOWS | facts

    def probe_ntfs(self, device: str) -> int:
        return self._filesystem(device).probe

    def inspect_mountpoints(self, root: str) -> dict[str, str]:
        return {"/": root}

    def is_read_only(self, path: str) -> bool:
        return any(
            self._filesystem(name).kind == "squashfs"
            for name, place in self._mounted.items()
            if place == path
        )

    def filesystem_use(self) -> list[FilesystemUse]:
        return self.uses

    def lost_writes(self) -> str | None:
        return self.lost

    def resolves(self, host: str) -> bool:
        return False

    def shutdown(self) -> None:
        self.log.append(("shutdown", ""))
        self.is_up = False

    def _all(self) -> dict[str, FakeFilesystem]:
        numbered = {
            f"{name}{number or ''}": filesystem
            for name, disk in self._seen().items()
            for number, filesystem in disk.filesystems.items()
        }
        others = {
            name: filesystem for disk in self._seen().values() for name, filesystem in disk.others.items()
        }
        return numbered | others

    def _filesystem(self, device: str) -> FakeFilesystem:
        try:
            return self._all()[device]
        except KeyError:
            raise _missing(device) from None


def _missing(what: str) -> GuestCallError:
    return GuestCallError(f"{what}: No such file or directory", errno_name=errno.errorcode[errno.ENOENT])


class FakeAppliances:
    """An ``open_appliance`` that opens ``FakeAppliance``.

    Args:
        disks: What is on the disks, by the image's file name; others are empty and as large as it.
        prepare: Called with each new appliance before it is used.
    """

    def __init__(
        self, disks: dict[str, FakeDisk] | None = None, prepare: Callable[[FakeAppliance], None] | None = None
    ) -> None:
        self.disks = disks or {}
        self.launches: list[list[Attachment]] = []
        self.appliances: list[FakeAppliance] = []
        self._prepare = prepare

    @contextlib.contextmanager
    def __call__(
        self, disks: Sequence[Attachment], options: ApplianceOptions | None, on_event: Reporter
    ) -> Iterator[FakeAppliance]:
        self.launches.append(list(disks))
        attached = [place for place, disk in enumerate(disks) if disk.attached]
        appliance = FakeAppliance([self._disk(disk.path) for disk in disks], attached)
        self.appliances.append(appliance)
        if self._prepare is not None:
            self._prepare(appliance)
        yield appliance

    def _disk(self, path: Path) -> FakeDisk:
        return self.disks.get(path.name) or FakeDisk(size=path.stat().st_size)
